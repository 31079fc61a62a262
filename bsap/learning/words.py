"""Words near the context of a learned bank: what its vectors resemble in the vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from bsap.datamodules.files import expanded
from bsap.errors import ConfigError
from bsap.learning.context import FrozenTower
from bsap.prompts.banks import LEARNED


def nearest_words(file: Path | None, tower: FrozenTower | None, count: int) -> list[tuple[tuple[str, ...], ...]]:
    """For each prompt and each of its context vectors the words with the most similar token embeddings.

    Empty for banks of texts, and if the tokenizer has no table of its words.
    """
    decoder = None if tower is None else getattr(tower.encoder.tokenizer, "decoder", None)
    if tower is None or decoder is None or file is None:
        return []
    tensors = load_file(file)
    if "context" not in tensors:
        return []
    context, lengths = tensors["context"], tensors.get("lengths")
    whole = lengths is not None and lengths.dtype == torch.int64 and lengths.shape == context.shape[:1]
    if context.shape[2:] != (tower.width,) or lengths is None or not whole or bool((lengths < 0).any()):
        raise ConfigError(
            f"Learned bank {file}: expected `context` of shape (K, n, {tower.width}) and `lengths` of shape (K,), but "
            f"got {tuple(context.shape)} and {None if lengths is None else tuple(lengths.shape)}. Learn the bank again."
        )
    known = tower.vocabulary.any(dim=1)
    known[tower.encoder.tokenize([""])[0].to(known.device)] = False  # start, end and padding are no words
    seen = known.nonzero()[:, 0]
    vocabulary = F.normalize(tower.vocabulary[seen].float().cpu(), dim=-1)
    found = []
    for rows, length in zip(context, lengths.tolist(), strict=True):
        near = F.normalize(rows[:length], dim=-1) @ vocabulary.T
        indices = near.argsort(dim=1, descending=True, stable=True)[:, :count]  # `topk` does not say which of equals
        found.append(tuple(tuple(_word(decoder[int(seen[i])]) for i in row) for row in indices))
    return found


def _word(token: str) -> str:
    """A token without its end mark."""
    return token.replace("</w>", "")


def learned_file(spec: str) -> Path | None:
    """The tensors of a ``learned:`` bank, None for another bank."""
    if not spec.startswith(LEARNED):
        return None
    path = expanded(spec.removeprefix(LEARNED))
    return path / "bank.safetensors" if path.is_dir() else path
