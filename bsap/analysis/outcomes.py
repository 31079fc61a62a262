"""The outcomes of a run's scorers, read off its records: what every metric is the ratio of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bsap.analysis.paired import Outcomes
from bsap.runs.records import target_count
from bsap.runs.schema import Choice, Record, Task


def task_records(records: Sequence[Record], task: Task) -> list[Record]:
    """The records that a task counts: for RIS those whose referent has a mask."""
    return [record for record in records if task == "rec" or record["status"] != "no_mask"]


def task_outcomes(
    records: Sequence[Record], scorer: str, task: Task, metrics: Sequence[str], *, strict: bool
) -> Outcomes:
    """What a scorer got in each metric of one task.

    Args:
        records: N records of :func:`task_records`.
        scorer: one of their scorers.
        task: ``rec`` or ``ris``.
        metrics: names as in ``results.json``; those that are no ratio of sums over expressions are left out.
        strict: for REC, whether a hit needs more than the threshold.

    Returns:
        Outcomes whose metrics are named ``task/metric``.
    """
    rows = [record["scorers"][scorer] for record in records]
    if any("regions" in row for row in rows):
        return _set_outcomes(records, rows, task, metrics)
    found = np.array([row["region"] is not None for row in rows])
    ones = np.ones(len(rows))
    part, whole = _overlaps(rows, task)
    share = part / whole
    names, parts, wholes = [], [], []
    for name in metrics:
        kind, _, threshold = name.partition("@")
        if name == "oIoU":
            values, of = part, whole
        elif name == "mIoU":
            values, of = share, ones
        elif kind in ("acc", "Pr") and _is_number(threshold):
            reached = share > float(threshold) if strict and task == "rec" else share >= float(threshold)
            values, of = (reached & found).astype(np.float64), ones
        else:
            continue
        names.append(f"{task}/{name}")
        parts.append(values)
        wholes.append(of)
    return _outcomes(names, parts, wholes, len(rows))


def _set_outcomes(records: Sequence[Record], rows: Sequence[Choice], task: Task, metrics: Sequence[str]) -> Outcomes:
    """The same for answers that may be none or several regions; see :mod:`bsap.metrics.functional.sets`."""
    answered = np.array([len(row["regions"]) for row in rows])
    targets = np.array([target_count(record) for record in records])
    none, one = targets == 0, np.ones(len(rows))
    found = {
        "N-acc": (none & (answered == 0), none),
        "T-acc": (~none & (answered > 0), ~none),
    }
    if task == "rec":
        matched = np.array([row["matched"] for row in rows])
        found["Pr@F1"] = (matched == answered) & (matched == targets), one
    else:
        part, whole = _overlaps(rows, task)
        found["cIoU"] = part, whole
        found["gIoU"] = np.where(whole > 0, part / np.maximum(whole, 1), 1.0), one
    names = [name for name in metrics if name in found]
    labels = [f"{task}/{name}" for name in names]
    return _outcomes(labels, [found[name][0] for name in names], [found[name][1] for name in names], len(rows))


def _outcomes(names: Sequence[str], parts: Sequence[np.ndarray], wholes: Sequence[np.ndarray], count: int) -> Outcomes:
    shape = (len(names), count)
    a, b = (np.array(values, np.float64).reshape(shape) for values in (parts, wholes))
    return Outcomes(tuple(names), a, b)


def _overlaps(rows: Sequence[Choice], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions: for boxes the IoU and 1."""
    if task == "rec":
        return np.array([row["box_iou"] for row in rows], np.float64), np.ones(len(rows))
    parts = np.array([row["intersection"] for row in rows], np.float64)
    return parts, np.array([row["union"] for row in rows], np.float64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
