"""The metrics of records that are all there, through the functions that the metric classes call too.

It needs torch but not torchmetrics, which takes seconds to import.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from bsap.metrics.functional import match_boxes, rec_accuracy, rec_set_scores, ris_scores, ris_set_scores
from bsap.metrics.functional.sets import SetVariant
from bsap.runs.buckets import bucket, check_fields
from bsap.runs.records import target_count
from bsap.runs.schema import TASKS, Choice, Metrics, Record, Task

Variant = Literal["paper", "rela_code", "grec_code"]


def are_sets(records: Sequence[Record]) -> bool:
    """Whether the answers of records may be none or several regions."""
    return bool(records) and "regions" in next(iter(records[0]["scorers"].values()))


def metric_inputs(
    records: Sequence[Record], scorer: str, task: Task, *, generalized: bool = False
) -> tuple[Tensor, ...]:
    """The inputs of a task's metrics, from the records of one scorer.

    With ``generalized``, boxes of REC and of answers that are sets match by generalised IoU.

    Returns:
        Of N records, for ``rec`` the float64 IoUs, or the int64 matched boxes where answers are sets; for ``ris`` the
        int64 intersections and unions of those that have masks. Where answers are sets, then the int64 answered regions
        and targets. Last the bool marks of expressions without a proposal. All (N,).
    """
    sets = are_sets(records)
    if task == "ris":
        records = [record for record in records if record["status"] != "no_mask"]
    rows = [record["scorers"][scorer] for record in records]
    missing = torch.tensor([row["region"] is None for row in rows], dtype=torch.bool)
    if task == "rec" and not sets:
        return torch.tensor([row["box_iou"] for row in rows], dtype=torch.float64), missing
    pairs = list(zip(rows, records, strict=True))
    if task == "rec":
        columns = [[_matched(row, record) if generalized else row["matched"] for row, record in pairs]]
    else:
        columns = [[row["intersection"] for row in rows], [row["union"] for row in rows]]
    if sets:
        columns += [[len(row["regions"]) for row in rows], [target_count(record) for record in records]]
    return *(torch.tensor(column, dtype=torch.int64) for column in columns), missing


def _matched(row: Choice, record: Record) -> int:
    sizes = [
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in (row["boxes"], record["referent"]["boxes"])
    ]
    return min(match_boxes(*sizes, generalized=True), target_count(record))


def recompute(
    records: Sequence[Record], *, strict: bool, tasks: Sequence[Task] = TASKS, variant: Variant = "paper"
) -> Metrics:
    """The metrics of saved predictions, with the same integers as in the run itself.

    With ``strict`` a hit of REC needs IoU > 0.5. Where answers are sets, ``variant`` is asked instead: ``rela_code``
    computes N-acc and T-acc of RIS, and ``grec_code`` matches the boxes of REC, as the released code does.
    """
    scorers = list(records[0]["scorers"]) if records else []
    metric: dict[str, Callable[..., Mapping[str, Tensor]]]
    if are_sets(records):
        of: SetVariant = "rela_code" if variant == "rela_code" else "paper"
        metric = {"rec": rec_set_scores, "ris": partial(ris_set_scores, variant=of)}
    else:
        metric = {"rec": partial(rec_accuracy, strict=strict), "ris": ris_scores}
    results: Metrics = {}
    with quiet_about_classes():
        for task in TASKS:
            if task in tasks:
                generalized = task == "rec" and variant == "grec_code"
                inputs = {name: metric_inputs(records, name, task, generalized=generalized) for name in scorers}
                results[task] = {name: as_numbers(metric[task](*values)) for name, values in inputs.items()}
    return results


@contextmanager
def quiet_about_classes() -> Iterator[None]:
    """Without the warning of N-acc and T-acc about an empty class, which the tables note."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[NT]-acc is NaN")
        yield


def as_numbers(scores: Mapping[str, Tensor]) -> dict[str, float | int]:
    """The scalars of a metric as plain numbers."""
    return {name: value.item() for name, value in scores.items()}


def breakdowns(
    records: Sequence[Record], fields: Sequence[str], *, strict: bool, tasks: Sequence[Task]
) -> dict[str, dict[str, Metrics]]:
    """Metrics of the records that share a bucket (:func:`bucket`), for each field.

    Made from the merged records, hence the same on any number of processes. Every record is in exactly one bucket of a
    field; buckets without a record are left out. Numbers in ascending order, categories in alphabetical order; records
    without the field come last as ``unknown``.

    Raises:
        ConfigError: for a field other than ``category``, ``words`` and ``distractors``.
    """
    check_fields(fields, ((record["category"], record["distractors"]) for record in records))
    tables: dict[str, dict[str, Metrics]] = {}
    for name in fields:
        groups: dict[str, list[Record]] = {}
        values = [(cast(Mapping[str, Any], record)[name], record) for record in records]
        for value, record in sorted(values, key=lambda pair: (pair[0] is None, 0 if pair[0] is None else pair[0])):
            groups.setdefault(bucket(name, value), []).append(record)
        tables[name] = {key: recompute(group, strict=strict, tasks=tasks) for key, group in groups.items()}
    return tables
