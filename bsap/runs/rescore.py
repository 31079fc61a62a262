"""The metrics of a saved run again, from its predictions alone: no model, no pictures, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsap.datamodules.reviewed import Reviewed, label_errors
from bsap.datamodules.scene import Expression, Scene
from bsap.errors import ConfigError, DataError
from bsap.relations.settings import relation_settings
from bsap.runs.answered import reanswered
from bsap.runs.buckets import check_fields
from bsap.runs.rec_detail import Detail, rec_detail
from bsap.runs.recompute import Variant, are_sets, breakdowns, recompute
from bsap.runs.records import read_predictions
from bsap.runs.saved import SavedRun, read_run, unfinished
from bsap.runs.schema import TASKS, Metrics, Record, Task
from bsap.scoring import AnswerRule


@dataclass(frozen=True)
class Rescored:
    """The metrics and counts of a run's predictions, computed again."""

    folder: Path
    strict: bool  # whether a REC hit needed IoU > 0.5 instead of IoU >= 0.5
    metrics: Metrics
    counts: dict[str, int]  # expressions seen, without proposals and without mask
    breakdown: dict[str, dict[str, Metrics]]  # `{field: {value: metrics}}`
    differences: list[str] | None  # where results.json says something else; None where it cannot be compared
    uncompared: str | None = None  # why not
    detail: dict[str, Detail] | None = None  # of `rec_detail`, where it was asked for


def rescore(
    folder: Path,
    *,
    strict: bool | None = None,
    breakdown: Sequence[str] | None = None,
    sizes: str | None = None,
    review: Path | None = None,
    answer: AnswerRule | None = None,
    scene_of: Callable[[Record], tuple[Scene, Expression]] | None = None,
    variant: Variant = "paper",
) -> Rescored:
    """Compute the metrics of a run again and compare them with its ``results.json``, bit for bit.

    Args:
        folder: the run folder.
        strict: for REC, whether a hit needs IoU > 0.5; by default the run's own rule.
        breakdown: fields to break the metrics down by; by default those of ``results.json``.
        review: also break down by this ``*_reviewed.json`` of Ref-L4, as ``review``.
        sizes: compute ``detail`` with these limits of size, ``ref_l4`` or ``coco``.
        answer: another rule of answering, by the scores of all regions that the run recorded; by default its own.
        scene_of: the scene and the expression of a record, for another rule.
        variant: where answers are sets, the metrics as released code computes them.

    Raises:
        DataError: if the folder is no finished run, or its predictions are cut off, malformed or not all there.
        ConfigError: for an unknown field of ``breakdown``.
    """
    run = read_run(folder)
    results: Mapping[str, Any] = run.results or {}
    fields = list(results.get("breakdown", ())) if breakdown is None else list(dict.fromkeys(breakdown))
    check_fields(fields)
    own_rule, tasks = _rule_and_tasks(run)
    model = run.settings["model"]
    strict = own_rule if strict is None else strict

    path = folder / "predictions.jsonl"
    if not path.exists():
        raise unfinished(folder, path.name)
    records = read_predictions(path, tasks)
    seen = results.get("counts", {}).get("seen", len(records))
    if len(records) != seen:
        raise DataError(
            f"{path} holds {len(records)} records, but results.json counted {seen} expressions: lines were lost or "
            "added. Restore the file, or run `bsap test` again with `--run.overwrite true`."
        )
    if answer is not None and scene_of is not None:
        relation_settings(model.get("relations", False), several=answer.several)
        records = reanswered(records, scene_of, answer, tasks)
    if variant != "paper" and not are_sets(records):
        raise ConfigError(f"{folder} answers with one region, for which there is no variant {variant!r}.")
    metrics = recompute(records, strict=strict, tasks=tasks, variant=variant)
    counts = {
        "seen": len(records),
        "no_proposals": sum(record["n_regions"] == 0 for record in records),
        "no_mask": sum(record["status"] == "no_mask" for record in records),
    }
    tables = breakdowns(records, fields, strict=strict, tasks=tasks)
    uncompared = None
    if run.results is None:
        uncompared = "there is no results.json"
    elif variant != "paper":
        uncompared = f"the metrics are those of the variant {variant}"
    elif answer is not None and not (answer.several and answer == AnswerRule.of(model.get("answer", "top"))):
        uncompared = "the answers are those of another rule"
    elif strict != own_rule:
        run.finished()  # its check is all that can be compared
        uncompared = f"the run itself counted hits with IoU {'>' if own_rule else '>='} 0.5"
    found: list[str] | None = None
    if uncompared is None:
        found = [f"{name}: {problem}" for name, problem in run.changed().items()]
        found += _differences(results["metrics"], metrics, "metrics")
        found += _differences({key: results["counts"].get(key) for key in counts}, counts, "counts")
        both = [name for name in fields if name in results.get("breakdown", {})]
        found += _differences({f: results["breakdown"][f] for f in both}, {f: tables[f] for f in both}, "breakdown")
    if review is not None:
        tables["review"] = {
            name: recompute(part, strict=strict, tasks=tasks) for name, part in _reviewed(records, review).items()
        }
    detail = None if sizes is None else rec_detail(records, strict=strict, sizes=sizes)
    return Rescored(folder, strict, metrics, counts, tables, found, uncompared, detail)


def _reviewed(records: Sequence[Record], review: Path) -> dict[str, list[Record]]:
    """All records, those that the review calls right, and those that it calls wrong; without parts of no record."""
    named = []
    for record in records:
        first = [box[:2] for box in record["referent"]["boxes"][:1]]
        named.append(Reviewed(record["id"], record["image_id"], record["text"], *first))
    errors = label_errors(review, named)
    parts = {
        "all": list(records),
        "without label errors": [record for record in records if record["id"] not in errors],
        "label errors": [record for record in records if record["id"] in errors],
    }
    return {name: part for name, part in parts.items() if part}


def _rule_and_tasks(run: SavedRun) -> tuple[bool, list[Task]]:
    model = run.settings.get("model", {})
    strict, tasks = model.get("strict"), model.get("tasks")
    known = isinstance(tasks, list) and tasks and all(task in TASKS for task in tasks)
    if not isinstance(strict, bool) or not known:
        raise DataError(f"{run.folder}: its settings do not say `model.strict` and `model.tasks`.")
    return strict, list(tasks)


def _differences(old: Any, new: Any, path: str) -> list[str]:
    """Places at which two nested results differ, a line each; NaN equals NaN."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in dict.fromkeys((*old, *new)):
            lines += _differences(old.get(key), new.get(key), f"{path}.{key}")
        return lines
    same = type(old) is type(new) and repr(old) == repr(new)
    return [] if same else [f"{path}: results.json says {old!r}, the predictions say {new!r}"]
