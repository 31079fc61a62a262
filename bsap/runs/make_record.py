"""One expression with what every scorer chose, as a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from pycocotools import mask as coco_mask
from torch import Tensor

from bsap.datamodules.scene import RLE, Expression, Scene
from bsap.errors import ConfigError, DataError
from bsap.metrics.functional import best_overlap
from bsap.relations.understood import Understood
from bsap.runs.answered import CHOOSES_A_MASK, add_answer
from bsap.runs.choices import Choices, Chosen
from bsap.runs.overlaps import referent_ious
from bsap.runs.schema import Record, Task


def make_records(
    choices: Choices,
    *,
    tasks: Sequence[Task],
    missing_mask: Literal["error", "skip"],
    is_cut: Callable[[Expression], bool],
    understand: Callable[[str], Understood] | None = None,
) -> list[Record]:
    """The records of the expressions of several scenes, in order.

    Where a referent has no mask, ``missing_mask`` = ``skip`` leaves its expressions out of RIS. ``is_cut`` says whether
    a model lost the end of a sentence at its context length. ``understand`` finds relations, where they are looked for.

    Raises:
        DataError: if RIS is asked for and a mask is missing.
        ConfigError: if a score is NaN or infinite.
    """
    records = []
    for scene, rows in zip(choices.scenes, choices.rows(), strict=True):
        ious = referent_ious(scene) if "rec" in tasks else {}
        for expression, chosen in zip(scene.expressions, rows, strict=True):
            options: Any = {"tasks": tasks, "missing_mask": missing_mask, "ious": ious.get(id(expression.referent))}
            record = _record(scene, expression, chosen, text_cut=is_cut(expression), **options)
            if understand is not None:
                record["relations"] = understand(expression.text)
            records.append(record)
    return records


def _record(
    scene: Scene,
    expression: Expression,
    choices: Mapping[str, Chosen],
    *,
    tasks: Sequence[Task],
    missing_mask: Literal["error", "skip"],
    ious: Tensor | None,
    text_cut: bool,
) -> Record:
    """The record of one expression; ``ious`` are those of each region with the referent, if REC is measured."""
    referent = expression.referent
    known = referent.nothing or bool(len(referent.boxes))
    segment = "ris" in tasks and known
    if segment and not (referent.nothing or referent.has_mask):
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
        "status": ("ok" if len(scene.proposals) else "no_proposals") if segment or "ris" not in tasks else "no_mask",
        "referent": {"id": referent.id, "ann_ids": list(referent.ann_ids), "boxes": referent.boxes.tolist()},
        "category": referent.category,
        "text_cut": text_cut,
        "words": len(expression.text.split()),
        "distractors": referent.distractors,
        "scorers": {},
    }
    targets = [mask for mask in referent.masks if mask is not None] if segment else []
    if referent.match == "all":
        record["referent"]["match"] = "all"
    if segment:
        record["referent"]["areas"] = [int(coco_mask.area(mask)) for mask in targets]
    measured: list[Task] = [task for task in tasks if (known if task == "rec" else segment)]
    for name, (row, answer) in choices.items():
        region = row["region"]
        if region is not None:
            numbers = (row["score"] or 0.0, *row.get("scores", ()), *chain(*row.get("values", {}).values()))
            if not all(map(math.isfinite, numbers)):
                raise ConfigError(
                    f"Scorer {name!r} gives NaN or infinite scores, first for {expression.id}. Give it smaller numbers."
                )
            row["box"] = scene.proposals.boxes[region].tolist()
        if "rec" in measured:
            row["box_iou"] = 0.0 if region is None or ious is None else float(ious[region])
        if answer is not None:
            add_answer(row, scene, referent, answer, tasks=measured)
        elif segment:
            row["intersection"], row["union"] = best_overlap(_chosen_mask(scene, region), targets)
        record["scorers"][name] = row
    return record


def _chosen_mask(scene: Scene, region: int | None) -> RLE | None:
    if region is None:
        return None
    if scene.proposals.masks is None:
        raise DataError(f"Picture {scene.path.name}: {CHOOSES_A_MASK}")
    return scene.proposals.masks[region]
