"""Predictions as records: what ``predictions.jsonl`` holds, read and written without torch.

A record is one line of ``predictions.jsonl``: one expression with what every scorer chose. It holds all that the
metrics need, and metrics are fed from records only, whether they come from the model or from a file, so that
recomputing and resuming give the same bits as the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from bsap.errors import DataError

Task = Literal["rec", "ris"]
Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Read a file of records; a half-written last line, as a killed process leaves it, is left out.

    Raises:
        DataError: if any other line is not a record; names the file and the line.
    """
    records: list[Record] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            record["id"], record["scorers"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number}: not a prediction record ({error!r}). Remove the line, and "
                "`bsap test` with the same settings computes it again."
            ) from error
        records.append(record)
    return records


def dump_records(records: Iterable[Record]) -> str:
    """Records as JSON lines. Python writes the shortest text that reads back as the very same float64."""
    return "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
