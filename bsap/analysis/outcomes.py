"""The outcomes of a run's scorers, read off its records: what every metric is the ratio of."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bsap.analysis.paired import Outcomes
from bsap.runs.records import target_count
from bsap.runs.schema import Choice, Record, Task

Table = dict[str, tuple[np.ndarray, np.ndarray]]
"""Parts and wholes of each expression, by metric."""


def task_records(records: Sequence[Record], task: Task) -> list[Record]:
    """The records that a task counts: for RIS those whose referent has a mask."""
    return [record for record in records if task == "rec" or record["status"] != "no_mask"]


def task_outcomes(
    records: Sequence[Record], scorer: str, task: Task, metrics: Sequence[str], *, strict: bool
) -> Outcomes:
    """What a scorer got in each metric of one task for the records of :func:`task_records`, named ``task/metric``.

    Metrics that are no ratio of sums over expressions are left out. With ``strict`` a hit of REC needs more than the
    threshold.
    """
    rows = [record["scorers"][scorer] for record in records]
    sets = any("regions" in row for row in rows)
    table = _of_sets(records, rows, task) if sets else _of_single_answers(rows, task, metrics, strict=strict)
    names = [name for name in metrics if name in table]
    parts, wholes = (
        np.array([table[name][i] for name in names], np.float64).reshape(len(names), len(rows)) for i in (0, 1)
    )
    return Outcomes(tuple(f"{task}/{name}" for name in names), parts, wholes)


def _of_single_answers(rows: Sequence[Choice], task: Task, metrics: Sequence[str], *, strict: bool) -> Table:
    found = np.array([row["region"] is not None for row in rows])
    one = np.ones(len(rows))
    part, whole = _overlaps(rows, task)
    share = part / whole
    table: Table = {"oIoU": (part, whole), "mIoU": (share, one)}
    for name in metrics:
        if hit := re.fullmatch(r"(?:acc|Pr)@(\d+(?:\.\d+)?)", name):
            least = float(hit[1])
            table[name] = (share > least if strict and task == "rec" else share >= least) & found, one
    return table


def _of_sets(records: Sequence[Record], rows: Sequence[Choice], task: Task) -> Table:
    """For answers that may be none or several regions; see :mod:`bsap.metrics.functional.sets`."""
    answered = np.array([len(row["regions"]) for row in rows])
    targets = np.array([target_count(record) for record in records])
    none, one = targets == 0, np.ones(len(rows))
    table = {"N-acc": (none & (answered == 0), none), "T-acc": (~none & (answered > 0), ~none)}
    if task == "rec":
        matched = np.array([row["matched"] for row in rows])
        return table | {"Pr@F1": ((matched == answered) & (matched == targets), one)}
    part, whole = _overlaps(rows, task)
    return table | {"cIoU": (part, whole), "gIoU": (np.where(whole > 0, part / np.maximum(whole, 1), 1.0), one)}


def _overlaps(rows: Sequence[Choice], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions: for boxes the IoU and 1."""
    if task == "rec":
        return np.array([row["box_iou"] for row in rows], np.float64), np.ones(len(rows))
    parts = np.array([row["intersection"] for row in rows], np.float64)
    return parts, np.array([row["union"] for row in rows], np.float64)
