"""Predictions as records: what ``predictions.jsonl`` holds, read and written without torch.

Metrics are fed from records only, whether they come from the model or from a file, so that recomputing and resuming
give the same bits as the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from bsap.datamodules.files import parse_json, read_bytes
from bsap.errors import DataError
from bsap.runs.json_types import checker
from bsap.runs.schema import Choice, Record, Task

_check = checker(Record)


def record_problem(record: Any) -> str | None:
    """The reason why a value from a file is not a valid record, or None if it is valid."""
    if (problem := _check(record)) is not None:
        return str(problem)
    if not record["scorers"]:
        return "it has no scorer"
    regions = record["n_regions"]
    for name, choice in record["scorers"].items():
        region = choice["region"]
        if (region is None) != (regions == 0) or (region is not None and region >= regions):
            return f"scorer {name!r} has the region {region} of {regions}"
        if len(choice.get("scores", ())) not in (0, regions):
            return f"scorer {name!r} has {len(choice['scores'])} scores of {regions} regions"
        for over, values in choice.get("values", {}).items():
            if len(values) != regions:
                return f"scorer {name!r} has {len(values)} values {over!r} of {regions} regions"
        part, whole = choice.get("intersection", 0), choice.get("union", 1)
        if not (part <= whole < 2**40 and (whole or "regions" in choice)):
            return f"scorer {name!r} has intersection {part} and union {whole}"
        if "regions" in choice and (wrong := _answer_problem(choice, record)) is not None:
            return f"scorer {name!r} {wrong}"
    return None


def _answer_problem(choice: Choice, record: Record) -> str | None:
    """The reason why an answer that is a set is not valid, or None."""
    answer, known = choice["regions"], len(record["referent"]["ann_ids"])
    if len(set(answer)) < len(answer) or any(region >= record["n_regions"] for region in answer):
        return f"answers with the regions {answer} of {record['n_regions']}"
    if len(choice.get("boxes", answer)) != len(answer):
        return f"has {len(choice['boxes'])} boxes of {len(answer)} regions"
    if choice.get("matched", 0) > min(len(answer), known):
        return f"has {choice['matched']} boxes of {len(answer)} that match one of {known} targets"
    if "union" in choice and (choice["union"] == 0) != (not answer and not known):
        return f"has the union {choice['union']} with {len(answer)} regions and {known} targets"
    return None


def read_predictions(path: Path, tasks: Sequence[Task] = ()) -> list[Record]:
    """Read a whole ``predictions.jsonl``, whose records must hold the fields of the tasks that the run measured.

    Raises:
        DataError: if a line is not a record, is cut off, repeats an expression, or holds other scorers or fields than
            the run has; or if there is no record. Names the file and the line.
    """
    data = read_bytes(path, what="predictions", fix="Run `bsap test` again.")
    *lines, last = data.split(b"\n")
    records = [parse_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if last:
        where = f"{path}, line {len(lines) + 1}"
        try:
            records.append(parse_record(last, where))
        except DataError as error:
            raise DataError(f"{where}: the line is cut off in the middle.") from error
    if not records:
        raise DataError(f"{path} holds no record.")
    line_of: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        if (first := line_of.setdefault(record["id"], number)) != number:
            raise DataError(f"{path}, line {number}: the expression {record['id']!r} is in line {first} already.")
        if (problem := _differs(record, records[0], tasks)) is not None:
            raise DataError(f"{path}, line {number}: not a prediction record of this run, {problem}.")
    return records


def _differs(record: Record, first: Record, tasks: Sequence[Task]) -> str | None:
    """How a record differs from the run's other records in scorers or fields, or None if it does not."""
    if list(record["scorers"]) != list(first["scorers"]):
        return f"its scorers are {', '.join(record['scorers'])}, but those of line 1 are {', '.join(first['scorers'])}"
    sets = "regions" in next(iter(first["scorers"].values()))
    wanted = ["regions", "boxes"] if sets else []
    if "rec" in tasks:
        wanted += ["box_iou", "matched"] if sets else ["box_iou"]
    if "ris" in tasks and record["status"] != "no_mask":
        wanted += ["intersection", "union"]
    for name, choice in record["scorers"].items():
        if missing := [field for field in wanted if field not in choice]:
            return f"it lacks scorers.{name}.{missing[0]}"
    return None


def targets_of(match: Literal["any", "all"], annotations: int) -> int:
    """How many regions the right answer has: of alternatives one is enough.

    Example:
        >>> targets_of("all", 3), targets_of("any", 3), targets_of("all", 0)
        (3, 1, 0)
    """
    return annotations if match == "all" else min(1, annotations)


def target_count(record: Record) -> int:
    """The same for a record's expression."""
    return targets_of(record["referent"].get("match", "any"), len(record["referent"]["ann_ids"]))


def parse_record(line: bytes, where: str) -> Record:
    """Read one line.

    Raises:
        DataError: if it is not a record; its message begins with ``where``.
    """
    record = parse_json(line, where)
    if (problem := record_problem(record)) is not None:
        raise DataError(f"{where}: not a prediction record, {problem}.")
    return cast(Record, record)


def dump_record(record: Record) -> str:
    """A record as JSON in one line. Python writes the shortest text that reads back as the very same float64."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)
