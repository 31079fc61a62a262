"""Answers that are sets of regions: what they are worth, and other ones from recorded scores, without a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from bsap.datamodules.scene import Expression, Referent, Scene
from bsap.errors import DataError
from bsap.metrics.functional import best_overlap, mask_union, match_boxes
from bsap.runs.schema import Choice, Record, Task
from bsap.scoring import AnswerRule, answered

CHOOSES_A_MASK = (
    "the proposals have boxes only, but RIS chooses a mask. Give mask proposals (`--data.proposals.path`); or, where "
    "only some of them lack a mask, leave those out with `--data.proposals.masked_only true`; or evaluate "
    "`--model.tasks '[rec]'`."
)


class Worth(NamedTuple):
    """Of one answer: boxes that match a target, pixels shared with the targets, and pixels of either."""

    matched: int
    intersection: int
    union: int


def add_answer(row: Choice, scene: Scene, referent: Referent, regions: Sequence[int], *, tasks: Sequence[Task]) -> None:
    """Put an answer, the best region first, into a choice, with its worth in what ``tasks`` measure."""
    worth = worth_of(scene, referent, regions, tasks)[-1]
    row["regions"], row["boxes"] = list(regions), scene.proposals.boxes[list(regions)].tolist()
    if "rec" in tasks:
        row["matched"] = worth.matched
    if "ris" in tasks:
        row["intersection"], row["union"] = worth.intersection, worth.union


def worth_of(
    scene: Scene, referent: Referent, regions: Sequence[int], tasks: Sequence[Task], *, growing: bool = False
) -> list[Worth]:
    """The worth of an answer; with ``growing`` that of its first 0, 1, 2, ... regions, before that of all.

    The task ``rec`` counts matching boxes, ``ris`` pixels; what is not counted is 0. Boxes match as in GREC, at an IoU
    of 0.5. A mask is the union of the answered masks, against the union of the targets', or against the best of
    alternatives.

    Raises:
        DataError: for RIS, proposals without masks.
    """
    sizes = range(0 if growing else len(regions), len(regions) + 1)
    boxes, targets = torch.from_numpy(scene.proposals.boxes[list(regions)]), torch.from_numpy(referent.boxes)
    if referent.match == "any" or len(targets) < 2:
        hits = [match_boxes(box[None], targets) > 0 for box in boxes] if "rec" in tasks and len(targets) else []
        matched = [int(any(hits[:size])) for size in sizes]
    else:
        matched = [match_boxes(boxes[:size], targets) if "rec" in tasks else 0 for size in sizes]
    pixels = _pixels(scene, referent, regions, sizes) if "ris" in tasks else [(0, 0)] * len(sizes)
    return [Worth(found, *pair) for found, pair in zip(matched, pixels, strict=True)]


def _pixels(scene: Scene, referent: Referent, regions: Sequence[int], sizes: range) -> list[tuple[int, int]]:
    targets: list[Mapping[str, Any]] = [mask for mask in referent.masks if mask is not None]
    if referent.match == "all" and targets:
        targets = [mask_union(targets)]
    masks = scene.proposals.masks
    if masks is None and len(regions):
        raise DataError(f"Picture {scene.path.name}: {CHOOSES_A_MASK}")
    found: list[tuple[int, int]] = []
    answer: Mapping[str, Any] | None = None
    for size in range(len(regions) + 1):
        if size:
            assert masks is not None
            answer = mask_union([*([] if answer is None else [answer]), masks[regions[size - 1]]])
        if size in sizes:
            pixels = 0 if answer is None else int(coco_mask.area(answer))
            found.append(best_overlap(answer, targets) if targets else (0, pixels))
    return found


def reanswered(
    records: Sequence[Record],
    scene_of: Callable[[Record], tuple[Scene, Expression]],
    rule: AnswerRule,
    tasks: Sequence[Task],
) -> list[Record]:
    """Records of a run with the answers of another rule.

    Raises:
        DataError: a threshold over something that the run did not record, which takes ``run.all_scores``.
    """
    found = []
    for record in records:
        scene, expression = scene_of(record)
        boxes = torch.from_numpy(scene.proposals.boxes)
        measured = [task for task in tasks if task == "rec" or record["status"] != "no_mask"]
        new = copy.copy(record)
        new["scorers"] = {}
        for name, row in record["scorers"].items():
            regions: list[int] = []
            if row["region"] is not None:
                rank, values = _recorded(row, rule, f"{record['id']}, scorer {name}")
                (regions,) = answered(values[None], rank[None], boxes, rule)
            new["scorers"][name] = changed = copy.copy(row)
            add_answer(changed, scene, expression.referent, regions, tasks=measured)
        found.append(new)
    return found


def _recorded(row: Choice, rule: AnswerRule, where: str) -> tuple[Tensor, Tensor]:
    """What a choice was ranked by, as far as it was recorded, and what a threshold is compared with."""
    scores = torch.tensor(row.get("scores", [0.0] * (1 + (row["region"] or 0))))
    values = scores if rule.over == "p" or not rule.several else row.get("values", {}).get(rule.over)
    if values is None or (rule.several and "scores" not in row):
        sets = "" if rule.over == "p" else " and `--model.answer.rule threshold`"
        bank = " and a region bank" if rule.needs_region_bank else ""
        raise DataError(
            f"{where}: the run did not record {rule.over!r} of all regions, which the threshold is set over. Run "
            f"`bsap test` again with `--run.all_scores true`{sets}{bank}."
        )
    rank = torch.tensor(row.get("values", {}).get("score", scores.tolist()))
    rank[row["region"]] = torch.inf  # the recorded best region is the best, also where scores are equal
    return rank, torch.as_tensor(values)
