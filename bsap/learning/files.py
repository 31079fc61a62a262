"""A learned bank on disk: what :func:`bsap.prompts.banks.load_learned_bank` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from bsap.errors import ConfigError
from bsap.runs.parts import write_atomic

FORMAT = "bsap-bank-1"


def write_bank(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write ``bank.safetensors`` and ``bank.json``.

    Args:
        folder: made when it does not exist.
        tensors: ``features`` (K, D), and what :mod:`bsap.learning.explain` shows: ``context`` (K, n, W) and ``lengths``
            (K,).
        meta: what made the bank; must hold ``model`` with ``weights_sha256``.

    Returns:
        The folder.

    Raises:
        ConfigError: if it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bank.safetensors").write_bytes(save(plain, {"format": FORMAT}))
        write_atomic(folder / "bank.json", json.dumps({"format": FORMAT, **meta}, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(
            f"Cannot write the learned bank to {folder}: {error}. Choose another `--run.root`."
        ) from error
    return folder
