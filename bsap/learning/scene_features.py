"""The features of scenes' regions, all in memory: read from the feature store, or encoded from pictures once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from bsap.datamodules.batch import collate
from bsap.datamodules.sampler import SceneSampler
from bsap.datamodules.scene import Scene
from bsap.errors import DataError
from bsap.features.ensemble import Ensemble

SCENES = 16
"""Pictures that are opened and encoded at once."""


def stored_regions(scenes: Sequence[Scene], ensemble: Ensemble, *, stage: str) -> dict[str, Tensor]:
    """The stored features of scenes with regions: picture id to (N, R, D) on the CPU, for N members.

    Raises:
        DataError: if there is no store, or if features are missing; ``stage`` says what the scenes are for.
    """
    scenes = [scene for scene in scenes if len(scene.proposals)]
    rows = [ensemble.stored_regions(scene) for scene in scenes]
    if missing := [scene.path.name for scene, found in zip(scenes, rows, strict=True) if found is None]:
        model = ensemble.members[0].encoder
        raise DataError(
            f"The features of {len(missing)} of {len(scenes)} {stage} pictures are not stored for model "
            f"{model.label!r} (weights {model.weights_sha256[:12]}), first {', '.join(missing[:3])}. Add "
            "`--model.features pictures` to open the pictures and store their features, once."
        )
    return {scene.image_id: torch.stack(found) for scene, found in zip(scenes, rows, strict=True) if found is not None}


def encode_regions(scenes: Sequence[Scene], ensemble: Ensemble, *, share: bool = False) -> dict[str, Tensor]:
    """As :func:`stored_regions`, encoded from pictures if they are not stored; the store keeps new ones.

    With ``share`` only this process's share of the scenes is encoded; other processes find the features in the store.
    """
    scenes = [scene for scene in scenes if len(scene.proposals)]
    if share:
        scenes = [scenes[index] for index in SceneSampler([len(scene.proposals) for scene in scenes])]
    found: dict[str, Tensor] = {}
    queue = iter(scenes)
    while part := list(islice(queue, SCENES)):
        batch = collate([(scene, torch.empty(0, dtype=torch.uint8)) for scene in part])
        if not all(map(ensemble.is_stored, part)):
            batch = batch.with_pictures()
        batch = batch.to(ensemble.members[0].encoder.device)
        rows = torch.stack([flat.cpu() for flat in ensemble.regions(batch)])
        ensemble.keep()
        for scene, regions in zip(part, rows.split(batch.counts, dim=1), strict=True):
            found[scene.image_id] = regions
    ensemble.flush()
    return found
