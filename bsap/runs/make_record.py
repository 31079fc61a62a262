"""One expression with what every scorer chose, as a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pycocotools import mask as coco_mask
from torch import Tensor

from bsap.datamodules.scene import Expression, Scene
from bsap.errors import ConfigError, DataError
from bsap.metrics.functional import best_overlap
from bsap.runs.schema import Choice, Record, Task


def make_record(
    scene: Scene,
    expression: Expression,
    choices: Mapping[str, tuple[int, float]],
    *,
    tasks: Sequence[Task],
    missing_mask: Literal["error", "skip"] = "error",
    ious: Tensor | None = None,
    text_cut: bool = False,
    scores: Mapping[str, Sequence[float]] | None = None,
) -> Record:
    """What became of one expression.

    Args:
        scene: the picture.
        expression: one of its expressions.
        choices: for each scorer the chosen region's index and score; ignored when the picture has no proposal.
        tasks: what is measured.
        ious: (R,) IoU of each proposal with the referent, :func:`bsap.runs.overlaps.referent_ious`; needed for REC.
        text_cut: whether a model lost the end of the sentence at its context length.
        scores: for each scorer the scores of all R regions, where they are to be recorded.
        missing_mask: what to do for RIS when the referent has no mask; ``skip`` leaves the expression out of RIS.

    Raises:
        DataError: if RIS is asked for and a mask is missing.
        ConfigError: if a score is NaN or infinite.
    """
    referent = expression.referent
    found = len(scene.proposals) > 0
    segment = "ris" in tasks and bool(len(referent.boxes))
    if segment and not referent.has_mask:
        if missing_mask == "error":
            raise DataError(
                f"{expression.id}: the referent (annotation {', '.join(referent.ann_ids)}) has no mask, but RIS needs "
                "one. Leave such referents out with `--model.missing_mask skip`, or evaluate `--model.tasks '[rec]'`."
            )
        segment = False
    record: Record = {
        "id": expression.id,
        "picture": scene.path.name,
        "image_id": scene.image_id,
        "text": expression.text,
        "n_regions": len(scene.proposals),
        "status": ("ok" if found else "no_proposals") if segment or "ris" not in tasks else "no_mask",
        "referent": {"id": referent.id, "ann_ids": list(referent.ann_ids), "boxes": referent.boxes.tolist()},
        "category": referent.category,
        "text_cut": text_cut,
        "words": len(expression.text.split()),
        "distractors": referent.distractors,
        "scorers": {},
    }
    targets = [mask for mask in referent.masks if mask is not None] if segment else []
    if segment:
        record["referent"]["areas"] = [int(coco_mask.area(mask)) for mask in targets]
    for name, (region, score) in choices.items():
        row: Choice = {"region": None, "score": None, "box": None}
        if found:
            if not all(map(math.isfinite, (score, *(scores[name] if scores is not None else ())))):
                raise ConfigError(
                    f"Scorer {name!r} gives NaN or infinite scores, first for {expression.id}. Give it smaller numbers."
                )
            row = {"region": region, "score": score, "box": scene.proposals.boxes[region].tolist()}
        if scores is not None:
            row["scores"] = list(scores[name])
        if "rec" in tasks and ious is not None:
            row["box_iou"] = float(ious[region]) if found else 0.0
        if segment:
            row["intersection"], row["union"] = best_overlap(_chosen_mask(scene, region) if found else None, targets)
        record["scorers"][name] = row
    return record


def _chosen_mask(scene: Scene, region: int) -> Any:
    if scene.proposals.masks is None:
        raise DataError(
            f"Picture {scene.path.name}: the proposals have boxes only, but RIS chooses a mask. "
            "Give mask proposals (`--data.proposals.path`); or, where only some of them lack a mask, leave those out "
            "with `--data.proposals.masked_only true`; or evaluate `--model.tasks '[rec]'`."
        )
    return scene.proposals.masks[region]
