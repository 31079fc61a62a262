"""The overlap of each proposal of a scene with each referent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from bsap.datamodules.scene import Expression, Scene
from bsap.errors import DataError
from bsap.metrics.functional import box_iou_pairs


def referent_ious(scene: Scene) -> dict[int, Tensor]:
    """IoU of all proposals with all referents of a scene, computed at once.

    Returns:
        For each referent, by its ``id()``, (R,) float64: the best IoU over its annotations. Referents without a box, as
        in a user's own picture, are left out.
    """
    referents = {id(e.referent): e.referent for e in scene.expressions if len(e.referent.boxes)}
    if not referents:
        return {}
    targets = torch.from_numpy(np.concatenate([referent.boxes for referent in referents.values()]))
    boxes = torch.from_numpy(scene.proposals.boxes)
    pairs = box_iou_pairs(boxes.repeat(len(targets), 1), targets.repeat_interleave(len(boxes), 0))
    rows = pairs.view(len(targets), len(boxes)).split([len(referent.boxes) for referent in referents.values()])
    return {key: row.amax(0) for key, row in zip(referents, rows, strict=True)}


def need_one_answer(expressions: Iterable[Expression]) -> None:
    """Refuse expressions that no single region answers: those that mean nothing, or a set of several objects.

    Raises:
        DataError: names the first, and how to leave them out.
    """
    every = list(expressions)
    if sets := [e for e in every if e.referent.match == "all" and len(e.referent.ann_ids) != 1]:
        raise DataError(
            f"{len(sets)} of {len(every)} expressions mean nothing in their picture or several objects at once, first "
            f"{sets[0].id}, but an answer is one region. Answer with sets (`--model.answer.rule threshold` and "
            "`--model.answer.value`; in a sweep `--threshold`), leave them out with `--data.min_targets 1 "
            "--data.max_targets 1`, or take any of several objects as right with `--data.match any --data.min_targets "
            "1`."
        )


def warn_if_unreachable(scenes: Sequence[Scene]) -> None:
    """Warn where no answer can be right: proposals in another unit or order of numbers, or of other pictures.

    Scenes with proposals are looked at until one can be answered.
    """
    some = [scene for scene in scenes if len(scene.proposals)]
    if scenes and not some:
        rank_zero_warn(
            f"None of the {len(scenes)} pictures has a proposal, so that every answer is wrong. Check the file of "
            "proposals and what `data.proposals` leaves out, such as `min_score`."
        )
    if some and not any(bool((iou >= 0.5).any()) for scene in some for iou in referent_ious(scene).values()):
        rank_zero_warn(
            f"No proposal of any of the {len(some)} pictures has an IoU of 0.5 with a referent, so that every answer "
            "is wrong. Check that the proposals are [x, y, width, height] in pixels, and are those of these pictures."
        )


def check_masks(scenes: Sequence[Scene], missing_mask: Literal["error", "skip"]) -> None:
    """Raise a DataError with all masks that RIS lacks, before anything is encoded."""
    boxes_only = [scene.path.name for scene in scenes if len(scene.proposals) and scene.proposals.masks is None]
    referents = {e.referent.id: e.referent for scene in scenes for e in scene.expressions}
    maskless = [key for key, referent in referents.items() if not (referent.has_mask or referent.nothing)]
    lacks = []
    if boxes_only:
        lacks.append(
            f"the proposals of {len(boxes_only)} of {len(scenes)} pictures have boxes only, first {boxes_only[0]}: "
            "give mask proposals (`--data.proposals.path`), or, where only some lack a mask, leave those out with "
            "`--data.proposals.masked_only true`"
        )
    if maskless and missing_mask == "error":
        lacks.append(
            f"{len(maskless)} of {len(referents)} referents have no mask, first {maskless[0]}: leave them out with "
            "`--model.missing_mask skip`"
        )
    if lacks:
        raise DataError("RIS needs masks, but " + "; and ".join(lacks) + ". Or evaluate `--model.tasks '[rec]'`.")
