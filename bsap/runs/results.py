"""results.json: the metrics with everything that made them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from bsap.errors import unknown
from bsap.runs.records import Record, ScorerMetrics, Task
from bsap.runs.settings import SPEED_SETTINGS, digest

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from bsap.datamodules.scene import SplitSummary
    from bsap.module import BSAPModule

Metrics = dict[str, dict[str, dict[str, float | int]]]


def tasks_of(records: Sequence[Record]) -> list[Task]:
    """The tasks that records were written for, read off their fields."""
    rows = [row for record in records for row in record["scorers"].values()]
    fields: tuple[tuple[Task, str], ...] = (("rec", "box_iou"), ("ris", "union"))
    return [task for task, name in fields if any(name in row for row in rows)]


def recompute(records: Sequence[Record], *, strict: bool, tasks: Sequence[Task] | None = None) -> Metrics:
    """The metrics of saved predictions, through the same classes and integers as in the run itself.

    Args:
        records: all records of a run.
        strict: for REC, whether a hit needs IoU > 0.5.
        tasks: by default those that the records hold fields for.
    """
    scorers = list(records[0]["scorers"]) if records else []
    metrics = ScorerMetrics(scorers, tasks or tasks_of(records), strict=strict, sync=False)
    metrics.update(records)
    return metrics.compute()


BUCKETS: dict[str, tuple[int, ...]] = {
    "words": (1, 2, 3, 4, 5, 6, 9, 13),
    "distractors": (0, 1, 2, 3, 4, 5, 10),
}
"""The least value of each bucket; the last one is open. ``category`` is not put into buckets."""

FIELDS = ("category", *BUCKETS)
"""What results can be broken down by."""


def check_fields(fields: Sequence[str]) -> None:
    """Raise a ConfigError for a field that results cannot be broken down by."""
    for name in fields:
        if name not in FIELDS:
            raise unknown("field to break down by", name, FIELDS)


def bucket(field: str, value: str | int | None) -> str:
    """The name of the bucket that a record's value falls into.

    The buckets do not depend on the data, so those of two runs can be compared.

    Example:
        >>> [bucket("words", n) for n in (1, 5, 6, 8, 9, 40)]
        ['1', '5', '6-8', '6-8', '9-12', '13+']
        >>> bucket("category", "dog"), bucket("distractors", None)
        ('dog', 'unknown')
    """
    if value is None:
        return "unknown"
    if field not in BUCKETS:
        return str(value)
    starts = BUCKETS[field]
    index = max((i for i, start in enumerate(starts) if start <= int(value)), default=0)
    if index == len(starts) - 1:
        return f"{starts[index]}+"
    last = starts[index + 1] - 1
    return str(last) if last == starts[index] else f"{starts[index]}-{last}"


def breakdowns(
    records: Sequence[Record], fields: Sequence[str], *, strict: bool, tasks: Sequence[Task] | None = None
) -> dict[str, dict[str, Metrics]]:
    """Metrics of the records that share a bucket (:func:`bucket`), for each field.

    Made from the merged records, hence the same on any number of processes. Every record is in exactly one bucket of a
    field; buckets without a record are left out. Numbers in ascending order, categories in alphabetical order; records
    without the field come last as ``unknown``.

    Args:
        records: all records of a run.
        fields: ``category``, ``words`` or ``distractors``.
        strict: for REC, whether a hit needs IoU > 0.5.
        tasks: by default those that the records hold fields for.

    Raises:
        ConfigError: for another field.
    """
    check_fields(fields)
    tasks = tasks or tasks_of(records)
    tables: dict[str, dict[str, Metrics]] = {}
    for name in fields:
        groups: dict[str, list[Record]] = {}
        for record in sorted(records, key=lambda record: (record[name] is None, record[name] or 0)):
            groups.setdefault(bucket(name, record[name]), []).append(record)
        tables[name] = {key: recompute(group, strict=strict, tasks=tasks) for key, group in groups.items()}
    return tables


def make_results(
    trainer: Trainer,
    module: BSAPModule,
    records: Sequence[Record],
    *,
    summary: SplitSummary,
    settings: dict[str, Any],
    timing: dict[str, Any],
) -> dict[str, Any]:
    """Everything that ``results.json`` says."""
    no_mask = sum(record["status"] == "no_mask" for record in records)
    whole = summary.published in (None, summary.selected) and len(records) == summary.selected
    partial = no_mask > 0 or summary.partial
    bank = module.bank
    return {
        "metrics": module.results,
        "counts": {
            "seen": len(records),
            "selected": summary.selected,
            "published": summary.published,
            "no_proposals": sum(record["n_regions"] == 0 for record in records),
            "no_mask": no_mask,
            "skipped": summary.skipped,
            "texts_cut": sum(record.get("text_cut", False) for record in records),
            "scenes": summary.scenes,
            "regions": summary.regions,
        },
        "complete": whole and not partial,
        "partial": partial,
        "selection": summary.selection,
        "protocol": {
            "dataset": summary.dataset,
            "split_by": summary.split_by,
            "split": summary.split,
            "proposals": summary.proposals,
            "hit": "IoU > 0.5" if module.settings["strict"] else "IoU >= 0.5",
            "bank": None
            if bank is None
            else {
                "name": bank.name,
                "prompts": len(bank.prompts) or None,
                "prompts_digest": digest(bank.prompts) if bank.prompts else None,
                "transductive": bank.transductive,
                "source": bank.source,
                "used_by": [name for name, scorer in module.scorers.items() if scorer.needs_bank],
            },
            **{key: value for key, value in module.settings.items() if key not in ("bank", *SPEED_SETTINGS)},
        },
        "transductive": bank is not None and bank.transductive,
        "models": [encoder.describe() for encoder in module.encoders],  # type: ignore[operator]
        "precision": {"requested": _requested_precision(trainer), "effective": str(trainer.precision)},
        "settings": settings,
        "versions": versions(),
        "timing": {**timing, "processes": trainer.world_size, "device": _device_name(module)},
    }


def made_by(trainer: Trainer, module: BSAPModule) -> dict[str, Any]:
    """What made the records of one attempt at a run, and may be otherwise for the next."""
    return {"processes": trainer.world_size, "device": _device_name(module), "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("bsap", "lightning", "open_clip_torch", "pycocotools", "torch", "torchmetrics", "torchvision"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _requested_precision(trainer: Trainer) -> str:
    flag = getattr(getattr(trainer, "_accelerator_connector", None), "_precision_flag", None)
    return str(flag or trainer.precision)


def _device_name(module: BSAPModule) -> str:
    import torch

    if module.device.type == "cuda":
        return torch.cuda.get_device_name(module.device)
    return module.device.type
