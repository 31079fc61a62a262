"""REC accuracy at several thresholds, by size of the referent and averaged over classes, from records."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, nan, sqrt

from bsap.errors import DataError
from bsap.metrics.functional import IOU_THRESHOLDS, rec_accuracy
from bsap.runs.recompute import are_sets, metric_inputs
from bsap.runs.schema import Record

SIZES = {"ref_l4": (128, 256), "coco": (32, 96)}
"""The largest small and the largest medium object, as the square root of its box's area in pixels."""

SHOWN = ("acc@0.5", "acc@0.75", "acc@0.9", "mAcc")

Detail = dict[str, dict[str, float | int]]
"""``{group: {metric: value}}``"""


def size_group(record: Record, sizes: str = "ref_l4") -> str:
    """The size of a record's referent; of several annotations the first one counts.

    Ref-L4 calls an object small below the first limit, and medium up to the second one, which is included.
    """
    x1, y1, x2, y2 = record["referent"]["boxes"][0]
    side = sqrt(max(0.0, x2 - x1) * max(0.0, y2 - y1))
    small, medium = SIZES[sizes]
    return "small" if side < small else "medium" if side <= medium else "large"


def rec_detail(records: Sequence[Record], *, strict: bool, sizes: str = "ref_l4") -> dict[str, Detail]:
    """What the evaluator of Ref-L4 reports: Acc at 0.5, 0.75 and 0.9, and the mean over 0.5, 0.55, ..., 0.95.

    With ``strict`` a hit needs IoU above the threshold, as in Ref-L4's code; ``sizes`` is a key of :data:`SIZES`.

    Returns:
        For each scorer the metrics of each group, with the number of expressions ``n``, or of classes for the class
        average, which leaves out referents without a category. The metrics of an empty group are NaN.

    Raises:
        DataError: if the records have no boxes to compare.

    Source: Chen et al. 2024, arXiv 2406.16866 (Ref-L4).
    """
    if are_sets(records):
        raise DataError("The answers of the run are sets of regions, which have no accuracy by size.")
    boxes = all(record["referent"]["boxes"] for record in records)
    if not boxes or not all("box_iou" in choice for record in records for choice in record["scorers"].values()):
        raise DataError("The run did not measure REC, so that it has no accuracy by size. Run it with the task `rec`.")
    by_size: dict[str, list[Record]] = {name: [] for name in ("small", "medium", "large")}
    by_class: dict[str, list[Record]] = {}
    for record in records:
        by_size[size_group(record, sizes)].append(record)
        if record["category"] is not None:
            by_class.setdefault(record["category"], []).append(record)
    found: dict[str, Detail] = {}
    for scorer in records[0]["scorers"]:
        detail = {"all": _accuracy(records, scorer, strict)}
        detail |= {name: _accuracy(group, scorer, strict) for name, group in by_size.items()}
        classes = [_accuracy(group, scorer, strict) for group in by_class.values()]
        # An exact sum: the order of the classes does not matter.
        average = {name: fsum(row[name] for row in classes) / len(classes) if classes else nan for name in SHOWN}
        found[scorer] = detail | {"class average": average | {"n": len(classes)}}
    return found


def _accuracy(records: Sequence[Record], scorer: str, strict: bool) -> dict[str, float | int]:
    if not records:
        return dict.fromkeys(SHOWN, nan) | {"n": 0}
    scores = rec_accuracy(*metric_inputs(records, scorer, "rec"), thresholds=IOU_THRESHOLDS, strict=strict)
    return {name: scores[name].item() for name in (*SHOWN, "n")}
