"""The metrics of a saved run again, from its predictions alone: no model, no pictures, the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from bsap.errors import DataError
from bsap.runs.buckets import check_fields
from bsap.runs.recompute import Metrics, breakdowns, recompute
from bsap.runs.records import Record, Task
from bsap.runs.saved import SavedRun, read_run, unfinished

STATUS = ("ok", "no_proposals", "no_mask")
FIELDS: dict[str, type | UnionType] = {
    "id": str,
    "text": str,
    "n_regions": int,
    "status": str,
    "scorers": dict,
    "category": str | None,
    "words": int,
    "distractors": int | None,
}
"""What every record holds, and of which type."""


@dataclass(frozen=True)
class Rescored:
    """What a run's predictions say.

    Attributes:
        folder: the run.
        strict: whether a REC hit needed IoU > 0.5 instead of IoU >= 0.5.
        metrics: ``{task: {scorer: {metric: value}}}``.
        counts: expressions seen, without proposals and without mask, counted from the predictions.
        breakdown: ``{field: {value: metrics}}``.
        differences: where ``results.json`` says something else, a line each; None where it cannot be compared.
        uncompared: why not.
    """

    folder: Path
    strict: bool
    metrics: Metrics
    counts: dict[str, int]
    breakdown: dict[str, dict[str, Metrics]]
    differences: list[str] | None
    uncompared: str | None = None


def rescore(folder: Path, *, strict: bool | None = None, breakdown: Sequence[str] | None = None) -> Rescored:
    """Compute the metrics of a run again and compare them with its ``results.json``, bit for bit.

    Args:
        folder: the run folder.
        strict: for REC, whether a hit needs IoU > 0.5; by default the run's own rule.
        breakdown: fields to break the metrics down by; by default those of ``results.json``.

    Raises:
        DataError: if the folder is no finished run, or its predictions are cut off, malformed or not all there.
        ConfigError: for an unknown field of ``breakdown``.
    """
    run = read_run(folder)
    results = run.results or {}
    fields = list(results.get("breakdown", ())) if breakdown is None else list(dict.fromkeys(breakdown))
    check_fields(fields)
    own_rule, tasks = _rule_and_tasks(run)
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
    metrics = recompute(records, strict=strict, tasks=tasks)
    counts = {
        "seen": len(records),
        "no_proposals": sum(record["n_regions"] == 0 for record in records),
        "no_mask": sum(record["status"] == "no_mask" for record in records),
    }
    tables = breakdowns(records, fields, strict=strict, tasks=tasks)
    uncompared = _uncompared(run, strict, own_rule)
    found: list[str] | None = None
    if uncompared is None:
        found = _differences(results["metrics"], metrics, "metrics")
        found += _differences({key: results["counts"].get(key) for key in counts}, counts, "counts")
        both = [name for name in fields if name in results.get("breakdown", {})]
        found += _differences({f: results["breakdown"][f] for f in both}, {f: tables[f] for f in both}, "breakdown")
    return Rescored(folder, strict, metrics, counts, tables, found, uncompared)


def read_predictions(path: Path, tasks: Sequence[Task]) -> list[Record]:
    """All records of a finished run; unlike a run that goes on, a half-written line is not forgiven.

    Args:
        path: ``predictions.jsonl``.
        tasks: what the run measured: the fields that must be there.

    Raises:
        DataError: naming the file and the line.
    """
    data = path.read_bytes()
    lines = data.split(b"\n")
    records: list[Record] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line:
            break
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            cut = "the line is cut off in the middle" if number == len(lines) else "not JSON"
            raise DataError(f"{where}: {cut} ({error}).") from error
        problem = _problem(record, records[0] if records else None, tasks)
        if problem is not None:
            raise DataError(f"{where}: not a prediction record, {problem}.")
        first = line_of.setdefault(record["id"], number)
        if first != number:
            raise DataError(f"{where}: the expression {record['id']!r} stands in line {first} already.")
        records.append(record)
    if not records:
        raise DataError(f"{path} holds no record.")
    return records


def _problem(record: Any, first: Record | None, tasks: Sequence[Task]) -> str | None:
    """What keeps a line from being a record like the first one, or None."""
    if not isinstance(record, dict):
        return f"it is {json.dumps(record)[:40]}"
    for name, kind in FIELDS.items():
        if name not in record:
            return f"it has no {name!r}"
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            return f"its {name!r} is {record[name]!r}"
    if record["status"] not in STATUS:
        return f"its 'status' is {record['status']!r}, none of {', '.join(STATUS)}"
    if record["n_regions"] < 0:
        return f"its 'n_regions' is {record['n_regions']}"
    if not record["scorers"]:
        return "it has no scorer"
    if first is not None and list(record["scorers"]) != list(first["scorers"]):
        return f"its scorers are {', '.join(record['scorers'])}, those of line 1 are {', '.join(first['scorers'])}"
    wanted = [task for task in tasks if task == "rec" or record["status"] != "no_mask"]
    for name, row in record["scorers"].items():
        if not isinstance(row, dict):
            return f"scorer {name!r} has {row!r}"
        problem = _row_problem(row, record["n_regions"], wanted)
        if problem is not None:
            return f"scorer {name!r} has {problem}"
    return None


def _row_problem(row: Mapping[str, Any], regions: int, tasks: Sequence[Task]) -> str | None:
    region = row.get("region", "nothing")
    if region is not None if regions == 0 else not (_whole(region) and 0 <= region < regions):
        return f"the region {region!r} of {regions}"
    if "rec" in tasks:
        iou = row.get("box_iou")
        if not isinstance(iou, (int, float)) or isinstance(iou, bool) or not 0 <= iou <= 1:
            return f"the box_iou {iou!r}"
    if "ris" in tasks:
        part, whole = row.get("intersection"), row.get("union")
        if not (_whole(part) and _whole(whole) and 0 <= part <= whole and 0 < whole < 2**40):  # type: ignore[operator]
            return f"intersection {part!r} and union {whole!r}"
    return None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _rule_and_tasks(run: SavedRun) -> tuple[bool, list[Task]]:
    model = run.settings.get("model", {})
    strict, tasks = model.get("strict"), model.get("tasks")
    known = isinstance(tasks, list) and tasks and all(task in ("rec", "ris") for task in tasks)
    if not isinstance(strict, bool) or not known:
        raise DataError(f"{run.folder}: its settings do not say `model.strict` and `model.tasks`.")
    return strict, list(tasks)


def _uncompared(run: SavedRun, strict: bool, own_rule: bool) -> str | None:
    if run.results is None:
        return "there is no results.json"
    if strict != own_rule:
        return f"the run itself counted hits with IoU {'>' if own_rule else '>='} 0.5"
    return None


def _differences(old: Any, new: Any, path: str) -> list[str]:
    """Where two nested results differ in a bit; NaN equals NaN."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in dict.fromkeys((*old, *new)):
            lines += _differences(old.get(key), new.get(key), f"{path}.{key}")
        return lines
    same = type(old) is type(new) and repr(old) == repr(new)
    return [] if same else [f"{path}: results.json says {old!r}, the predictions say {new!r}"]
