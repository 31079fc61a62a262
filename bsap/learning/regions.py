"""The region features that are learned from: all in memory, read from the store or made from pictures once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from bsap.datamodules.batch import collate
from bsap.datamodules.picture_files import load_picture
from bsap.datamodules.sampler import SceneSampler
from bsap.datamodules.scene import Scene
from bsap.errors import DataError
from bsap.features.ensemble import Ensemble

SCENES = 16
"""Pictures that are opened and encoded at once."""


def stored_regions(
    scenes: Sequence[Scene],
    ensemble: Ensemble,
    *,
    split: str,
    command: Callable[[], str | None] = lambda: None,
) -> dict[str, Tensor]:
    """The stored features of scenes with regions: picture id to (N, R, D) on the CPU.

    Args:
        scenes: the scenes.
        ensemble: the model with each view.
        split: the scenes' split, for the message.
        command: what stores the features, for the message.

    Raises:
        DataError: if there is no store or features are missing; says the command that makes them.
    """
    found: dict[str, Tensor] = {}
    missing: list[str] = []
    scenes = [scene for scene in scenes if len(scene.proposals)]
    for scene in scenes:
        rows = ensemble.stored_regions(scene)
        if rows is None:
            missing.append(scene.path.name)
        else:
            found[scene.image_id] = torch.stack(rows)
    if missing:
        model = ensemble.members[0].encoder
        shell = command()
        mend = "" if shell is None else f"Store them with\n  {shell}\nor let"
        raise DataError(
            f"The features of {len(missing)} of {len(scenes)} pictures of split {split!r} are not stored for model "
            f"{model.label!r} (weights {model.weights_sha256[:12]}), first {', '.join(missing[:3])}. "
            f"{mend or 'Let'} this command open the pictures: `--model.features pictures`."
        )
    return found


def encode_regions(scenes: Sequence[Scene], ensemble: Ensemble, *, share: bool = False) -> dict[str, Tensor]:
    """The features of scenes with regions, from pictures where they are not stored; new ones are kept in the store.

    Args:
        scenes: the scenes.
        ensemble: the model with each view.
        share: encode only this process's share of the scenes, for the others to find in the store.

    Returns:
        Picture id to (N, R, D) on the CPU.
    """
    scenes = [scene for scene in scenes if len(scene.proposals)]
    if share:
        scenes = [scenes[index] for index in SceneSampler([len(scene.proposals) for scene in scenes])]
    found: dict[str, Tensor] = {}
    queue = iter(scenes)
    while part := list(islice(queue, SCENES)):
        known = [ensemble.is_stored(scene) for scene in part]
        empty = torch.empty(0, dtype=torch.uint8)
        items = [
            (scene, empty if stored else load_picture(scene.path, scene.width, scene.height))
            for scene, stored in zip(part, known, strict=True)
        ]
        batch = collate(items).to(ensemble.members[0].encoder.device)
        rows = torch.stack([flat.cpu() for flat in ensemble.regions(batch)])
        ensemble.keep()
        for scene, regions in zip(part, rows.split(batch.counts, dim=1), strict=True):
            found[scene.image_id] = regions
    ensemble.flush()
    return found
