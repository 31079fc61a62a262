"""Results as tables on a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from bsap.reports.run_table import COUNTS, TASKS
from bsap.reports.text import cell, say

if TYPE_CHECKING:
    from bsap.runs.schema import Metrics, Record

CLASSES = {"N-acc": "without", "T-acc": "with"}
"""What the metrics of one class of expressions are about."""


def percent(value: float) -> str:
    """A share as the field prints it: in per cent with two digits; a dash where there is nothing to count."""
    return "-" if value != value else f"{100 * value:.2f}"


def results_table(metrics: Metrics, *, title: str | None = None) -> Table:
    """One row per scorer, one column per task and metric."""
    table = Table(
        title=None if title is None else cell(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("scorer", no_wrap=True)
    columns = [
        (task, name) for task, rows in metrics.items() for name in next(iter(rows.values()), {}) if name not in COUNTS
    ]
    for task, name in columns:
        table.add_column(f"{TASKS[task]}\n{name}", justify="right", no_wrap=True)
    for scorer in dict.fromkeys(scorer for rows in metrics.values() for scorer in rows):
        table.add_row(cell(scorer), *(percent(metrics[task][scorer][name]) for task, name in columns))
    return table


def counted(metrics: Metrics) -> str:
    """What the metrics were counted over.

    Example:
        >>> counted({"rec": {"clip": {"acc@0.5": 0.5, "n": 8, "missing": 1}}})
        'REC: 8 expressions, 1 without proposals'
    """
    rows = [(TASKS[task], next(iter(scorers.values()))) for task, scorers in metrics.items() if scorers]
    line = "; ".join(
        f"{task}: {row['n']} expressions" + (f", {row['missing']} without proposals" if row["missing"] else "")
        for task, row in rows
    )
    empty = {name: kind for name, kind in CLASSES.items() if any(math.isnan(row.get(name, 0)) for _, row in rows)}
    return ". ".join([line, *(f"{name} is -: no expression {kind} a target was seen" for name, kind in empty.items())])


def incomplete(results: Mapping[str, Any]) -> str | None:
    """Why a result is not that of the published split, or None where it is or none is published.

    Example:
        >>> incomplete({"complete": False, "partial": False, "counts": {"seen": 121, "published": 5657}})
        'Not the published split: 121 of its 5657 expressions.'
    """
    counts = results["counts"]
    if results["complete"]:
        return None
    if results["partial"]:
        left = counts["skipped"] + counts["no_mask"]
        return f"Partial: {left} expressions were left out by filters, or because proposals or masks are missing."
    return f"Not the published split: {counts['seen']} of its {counts['published']} expressions."


def print_results(metrics: Metrics, *, folder: Path | None = None, title: str | None = None) -> None:
    """Print the table of a run and the place of its files."""
    Console().print(results_table(metrics, title=title))
    say(counted(metrics))
    if folder is not None:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if (line := incomplete(results)) is not None:
            say(line)
        say(f"Written to {folder}/ (results.json, predictions.jsonl, config.yaml)")


def print_choices(records: Sequence[Record]) -> None:
    """Print the choice of every scorer for every expression, with the picture where there are several."""
    from bsap.reports.shown_run import answer_of, boxes_of  # reads data, which the help of `bsap score` need not

    several = len({record["image_id"] for record in records}) > 1
    table = Table(*(["picture"] if several else []))
    for column in ("expression", "scorer", "region", "score", "box (xyxy)"):
        table.add_column(column, justify="right" if column in ("region", "score") else "left")
    above = None
    for record in records:
        for number, (scorer, row) in enumerate(record["scorers"].items()):
            picture = "" if record["image_id"] == above else record["image_id"]
            texts = [*([picture] if several else []), "" if number else record["text"], scorer]
            lines = "\n".join(", ".join(f"{x:g}" for x in box) for box in boxes_of(row))
            score = "" if row["score"] is None else f"{row['score']:.4f}"
            table.add_row(*map(cell, texts), "\n".join(map(str, answer_of(row))) or "none", score, lines)
            above = record["image_id"]
    Console().print(table)
