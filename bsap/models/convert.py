"""``python -m bsap.models.convert``: checkpoints of papers as model folders that ``local-dir:FOLDER`` loads.

Published files are read as tensors only; nothing in them is executed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bsap.errors import BSAPError, ConfigError, ModelError, unknown
from bsap.models.checkpoint import OPENAI_EXTRA, read_plain

State = dict[str, Tensor]

_OWN = 20  # positions that Long-CLIP keeps from CLIP's table
_OVSEG = "clip_adapter.clip_model."


def long_clip(state: State) -> State:
    """Long-CLIP's two tables of positions as one: the first 20 rows of one, the others of the other.

    Source: Zhang et al., Long-CLIP, ECCV 2024, arXiv 2403.15378.
    """
    stretched = state.pop("positional_embedding_res", None)
    own = state.get("positional_embedding")
    if stretched is None or own is None or own.shape != stretched.shape:
        raise ModelError(
            "The file has no two tables `positional_embedding` and `positional_embedding_res` of one shape; it is no "
            "original checkpoint of Long-CLIP."
        )
    return {**state, "positional_embedding": torch.cat([own[:_OWN], stretched[_OWN:]])}


def ovseg(state: State) -> State:
    """The mask-adapted CLIP in a checkpoint of OVSeg.

    Source: Liang et al., Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP, CVPR 2023, arXiv 2210.04150.
    """
    found = {name.removeprefix(_OVSEG): tensor for name, tensor in state.items() if name.startswith(_OVSEG)}
    if not found:
        raise ModelError(f"No tensor's name starts with `{_OVSEG}`; the file is no checkpoint of OVSeg.")
    return found


def image_tower(state: State, other: State) -> State:
    """The first file with the image tower of the second, for un2CLIP.

    Source: Li et al., un2CLIP, 2025, arXiv 2505.24517.
    """
    tower = {name: tensor for name, tensor in other.items() if name.startswith("visual.")}
    if not tower:
        raise ModelError("No tensor of the second file starts with `visual.`; it holds no image tower of CLIP.")
    return {**state, **tower}


KINDS: Mapping[str, tuple[Callable[..., State], int]] = {
    "longclip": (long_clip, 1),
    "ovseg": (ovseg, 1),
    "image-tower": (image_tower, 2),
}
"""For each kind what converts it, and how many files it takes."""


def convert(kind: str, files: Sequence[Path], folder: Path, *, architecture: str) -> None:
    """Write a model folder.

    Args:
        kind: one of :data:`KINDS`.
        files: the published files.
        folder: where ``open_clip_config.json`` and ``open_clip_model.safetensors`` are written.
        architecture: open_clip's name of the base model; QuickGELU is switched on, as all of these models have it.

    Raises:
        ConfigError: an unknown kind or architecture, or another number of files.
        ModelError: a file that cannot be read, or that is no checkpoint of this kind.
    """
    import open_clip

    if kind not in KINDS:
        raise unknown("kind of checkpoint", kind, KINDS)
    if architecture not in open_clip.list_models():
        raise unknown("architecture", architecture, open_clip.list_models())
    make, count = KINDS[kind]
    if len(files) != count:
        raise ConfigError(f"`{kind}` takes {count} file{'s' * (count > 1)}, but got {len(files)}.")
    state = make(*(_read(file) for file in files))
    config = copy.deepcopy(open_clip.get_model_config(architecture))
    config["quick_gelu"] = True
    if "positional_embedding" in state:
        config["text_cfg"]["context_length"] = len(state["positional_embedding"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=2), encoding="utf-8")
    save_file(
        {name: tensor.float().contiguous().clone() for name, tensor in state.items()},
        folder / "open_clip_model.safetensors",
    )


def _read(file: Path) -> State:
    if not file.is_file():
        raise ModelError(f"There is no file {file}. Name the checkpoint that was downloaded.")
    content: Any = read_plain(file)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ModelError(f"Weight file {file} is not a state dictionary.")
    return {str(name): x for name, x in content.items() if isinstance(x, Tensor) and name not in OPENAI_EXTRA}


def main(args: Sequence[str] | None = None) -> int:
    """Convert what the command line names; returns 2 for a mistake that the printed message explains, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bsap.models.convert", description=__doc__)
    parser.add_argument("kind", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("files", nargs="+", type=Path, help="the published checkpoint; for image-tower two files")
    parser.add_argument("--folder", required=True, type=Path, help="the model folder to write")
    parser.add_argument("--architecture", required=True, help="the base model, for example ViT-B-16 or ViT-L-14")
    options = parser.parse_args(args)
    try:
        convert(options.kind, options.files, options.folder, architecture=options.architecture)
    except BSAPError as error:
        print(f"bsap: {error}", file=sys.stderr)
        return 2
    print(f"Written: {options.folder}. Name it `local-dir:{options.folder}`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
