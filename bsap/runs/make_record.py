"""One expression with what every scorer chose, as a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from pycocotools import mask as coco_mask
from torch import Tensor

from bsap.datamodules.scene import Expression, Scene
from bsap.errors import ConfigError, DataError
from bsap.metrics.functional import best_overlap
from bsap.relations.understood import Understood
from bsap.runs.answered import CHOOSES_A_MASK, add_answer
from bsap.runs.choices import Choices, Chosen
from bsap.runs.overlaps import referent_ious
from bsap.runs.schema import Choice, Record, Task


def make_records(
    choices: Choices,
    *,
    tasks: Sequence[Task],
    missing_mask: Literal["error", "skip"],
    is_cut: Callable[[Expression], bool],
    understand: Callable[[str], Understood] | None = None,
) -> list[Record]:
    """The records of the expressions of several scenes, in order; see :func:`make_record`.

    Args:
        choices: of all scorers.
        tasks: what is measured.
        missing_mask: what to do for RIS when a referent has no mask.
        is_cut: whether a model lost the end of a sentence.
        understand: finds the relations of a sentence, where they are looked for.
    """
    records = []
    for scene, rows in zip(choices.scenes, choices.rows(), strict=True):
        ious = referent_ious(scene) if "rec" in tasks else {}
        for expression, chosen in zip(scene.expressions, rows, strict=True):
            options: Any = {"tasks": tasks, "missing_mask": missing_mask, "ious": ious.get(id(expression.referent))}
            options["understood"] = None if understand is None else understand(expression.text)
            records.append(make_record(scene, expression, chosen, text_cut=is_cut(expression), **options))
    return records


def make_record(
    scene: Scene,
    expression: Expression,
    choices: Mapping[str, Chosen],
    *,
    tasks: Sequence[Task],
    missing_mask: Literal["error", "skip"] = "error",
    ious: Tensor | None = None,
    text_cut: bool = False,
    understood: Understood | None = None,
) -> Record:
    """The record of one expression.

    Args:
        scene: the picture.
        expression: one of its expressions.
        choices: of each scorer.
        tasks: what is measured.
        ious: (R,) IoU of each proposal with the referent, :func:`bsap.runs.overlaps.referent_ious`; needed for REC.
        text_cut: whether a model lost the end of the sentence at its context length.
        understood: the sentence's relations, where they are looked for.
        missing_mask: what to do for RIS when the referent has no mask; ``skip`` leaves the expression out of RIS.

    Raises:
        DataError: if RIS is asked for and a mask is missing.
        ConfigError: if a score is NaN or infinite.
    """
    referent = expression.referent
    found = len(scene.proposals) > 0
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
        "status": ("ok" if found else "no_proposals") if segment or "ris" not in tasks else "no_mask",
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
    for name, chosen in choices.items():
        region = chosen.region
        row: Choice = {"region": None, "score": None, "box": None}
        if found:
            if not all(
                map(math.isfinite, (chosen.score, *(chosen.scores or ()), *chain(*(chosen.values or {}).values())))
            ):
                raise ConfigError(
                    f"Scorer {name!r} gives NaN or infinite scores, first for {expression.id}. Give it smaller numbers."
                )
            row = {"region": region, "score": chosen.score, "box": scene.proposals.boxes[region].tolist()}
        if chosen.scores is not None:
            row["scores"] = chosen.scores
        if chosen.steps is not None:
            row["steps"] = list(chosen.steps)
        if chosen.values is not None:
            row["values"] = chosen.values
        if "rec" in tasks and known:
            row["box_iou"] = float(ious[region]) if found and ious is not None else 0.0
        if chosen.answer is not None:
            measured: list[Task] = [task for task in tasks if (known if task == "rec" else segment)]
            add_answer(row, scene, referent, chosen.answer, tasks=measured)
        elif segment:
            row["intersection"], row["union"] = best_overlap(_chosen_mask(scene, region) if found else None, targets)
        record["scorers"][name] = row
    if understood is not None:
        record["relations"] = understood
    return record


def _chosen_mask(scene: Scene, region: int) -> Any:
    if scene.proposals.masks is None:
        raise DataError(f"Picture {scene.path.name}: {CHOOSES_A_MASK}")
    return scene.proposals.masks[region]
