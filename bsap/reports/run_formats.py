"""The table of runs in every format.

Every format gives per cent: Markdown and LaTeX with two digits (published numbers with their own), CSV and JSON
unrounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bsap.reports.formats import Bold, csv_text, json_text, latex, markdown
from bsap.reports.run_table import MARKS, Row, RunTable, counts

if TYPE_CHECKING:
    from bsap.analysis.paired import Gain

SYMBOLS = {"partial": "†", "incomplete": "‡", "transductive": "§", "unchecked": "‖", "ground_truth": "¶"}


def to_markdown(table: RunTable) -> str:
    """A table in GitHub's Markdown, its legend, and the sources of published rows."""
    columns, rows, numbers = _layout(table)
    return markdown(columns, rows, numbers=numbers, notes=_notes(table))


def to_latex(table: RunTable) -> str:
    """A ``tabular`` for the package booktabs, with the notes below it."""
    columns, rows, numbers = _layout(table)
    sources = [bool(row.source) for row in table.rows]
    rules = [number for number in range(1, len(rows)) if sources[number] and not sources[number - 1]]
    return latex(columns, rows, numbers=numbers, notes=_notes(table), rules=rules)


def to_csv(table: RunTable) -> str:
    """Comma-separated values; marks as words."""
    published = any(row.source for row in table.rows)
    gains = [f"{name} {what}" for name in table.gains for what in ("gain", "low", "high", "p", "p (Holm)")]
    columns = [
        *_text_columns(table),
        *(f"{name} (%)" for name in table.metrics),
        *gains,
        *_count_columns(table),
        "marks",
    ]
    rows = []
    for row in table.rows:
        settings = [row.settings[name].text if name in row.settings else "" for name in table.settings]
        metrics = [row.metrics.get(name) for name in table.metrics]
        found = [value for name in table.gains for value in _gain_values(row, name)]
        notes = ["; ".join(row.differs), row.source] if published else []
        values = [row.run, row.scorer, *settings, *metrics, *found, *_counted(table, row), ", ".join(row.marks), *notes]
        rows.append(values)
    return csv_text([*columns, *(["differs", "source"] if published else [])], rows)


def to_json(table: RunTable) -> str:
    """An object with ``rows``, the unit of their metrics and the legend of their marks."""
    rows: list[dict[str, Any]] = [
        {
            "run": row.run,
            "scorer": row.scorer or None,
            "settings": {name: row.settings[name].text if name in row.settings else None for name in table.settings},
            "metrics": {name: row.metrics.get(name) for name in table.metrics},
            "gains": {name: dict(zip(GAIN, _gain_values(row, name), strict=True)) for name in table.gains},
            "n": _plain_counts(row.n),
            "without_proposals": _plain_counts(row.missing),
            "marks": list(row.marks),
            "published": bool(row.source),
            "source": row.source or None,
            "differs": list(row.differs),
        }
        for row in table.rows
    ]
    legend = {mark: MARKS[mark] for mark in table.marks}
    return json_text({"unit": "per cent", "rows": rows, "legend": legend, "notes": list(table.notes)})


FORMATS: dict[str, Callable[[RunTable], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
}
"""Format -> what writes it."""

GAIN = ("difference", "low", "high", "p", "p_holm")
"""What CSV and JSON hold of a gain; the first three in per cent."""


def _layout(table: RunTable) -> tuple[list[str], list[list[str]], int]:
    """Columns and rows as a reader sees them, and how many of the columns hold numbers."""
    numbers = []
    for name in table.metrics:
        numbers += [name, f"gain over {table.baseline}"] if name in table.gains else [name]
    numbers += _count_columns(table)
    return [*_text_columns(table), *numbers], [_cells(table, row) for row in table.rows], len(numbers)


def table_cells(table: RunTable) -> tuple[list[str], list[list[str]], int, list[str]]:
    """Columns, rows, the number of columns that hold numbers, and notes, as texts for another form."""
    return *_layout(table), _notes(table)


def _gain_values(row: Row, name: str) -> list[float | None]:
    gain = row.gains.get(name)
    if gain is None:
        return [None] * len(GAIN)
    return [*(None if x is None else 100 * x for x in (gain.difference, gain.low, gain.high)), gain.p, gain.p_holm]


def _text_columns(table: RunTable) -> list[str]:
    return ["run", "scorer", *table.settings]


def _count_columns(table: RunTable) -> list[str]:
    return ["n", "without proposals"] if table.missing else ["n"]


def _counted(table: RunTable, row: Row) -> list[str]:
    return [counts(row.n), counts(row.missing)] if table.missing else [counts(row.n)]


def _plain_counts(by_task: dict[str, int]) -> int | dict[str, int] | None:
    """One number where the tasks agree, None where nothing was counted."""
    numbers = set(by_task.values())
    return by_task if len(numbers) > 1 else next(iter(numbers), None)


def _cells(table: RunTable, row: Row) -> list[str]:
    """A row as a reader sees it: the marks stand at the scorer, or at the name of a published method."""
    marks = "".join(SYMBOLS[mark] for mark in row.marks)
    name, scorer = (row.run, f"{row.scorer} {marks}") if row.scorer else (f"{row.run} {marks}", "")
    settings = [row.settings[key].text if key in row.settings else "" for key in table.settings]
    metrics = []
    for key in table.metrics:
        shown = _shown(row.metrics.get(key), exact=bool(row.source))
        metrics.append(Bold(shown) if key in row.best else shown)
        if key in table.gains:
            metrics.append(shown_gain(row.gains[key]) if key in row.gains else "")
    return [name.strip(), scorer.strip(), *settings, *metrics, *_counted(table, row)]


def shown_gain(gain: Gain, *, p: bool = True) -> str:
    """A gain in points with its interval and its corrected p-value."""
    points = f"{100 * gain.difference:+.2f}"
    if gain.low is None or gain.high is None:
        return points
    return f"{points} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]" + (f", p {shown_p(gain.p_holm)}" if p else "")


def shown_p(p: float | None) -> str:
    """A p-value with two significant digits."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _shown(value: float | None, *, exact: bool) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "-"
    return str(value) if exact else f"{value:.2f}"


def _notes(table: RunTable) -> list[str]:
    """Unit, legend, and what published rows did differently."""
    counted = [by_task for row in table.rows for by_task in (row.n, row.missing) if len(set(by_task.values())) > 1]
    notes = [f"Counts a / b are those of {' / '.join(counted[0])}."] if counted else []
    notes += [f"{SYMBOLS[mark]} {mark.replace('_', ' ')}: {MARKS[mark]}." for mark in table.marks]
    published: dict[tuple[str, tuple[str, ...], str], None] = {}
    for row in table.rows:
        if row.source:
            published[row.run, row.differs, row.source] = None
    notes += [f"{name} (published): {'; '.join(differs)}. {source}." for name, differs, source in published]
    return ["Metrics in per cent.", *notes, *table.notes]
