"""The table of runs in every format.

Every format gives per cent: Markdown and LaTeX with two digits (published numbers with their own), CSV and JSON
unrounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bsap.reports.formats import Bold, TextTable, csv_text, json_text, latex, markdown
from bsap.reports.run_table import MARKS, Row, RunTable, counts

if TYPE_CHECKING:
    from bsap.analysis.paired import Gain

SYMBOLS = {"partial": "†", "incomplete": "‡", "transductive": "§", "unchecked": "‖", "ground_truth": "¶"}


def text_table(table: RunTable, title: str = "") -> TextTable:
    """The table as a reader sees it, with its legend, and the sources of published rows."""
    lines = [_cells(table, row) for row in table.rows]
    columns = [column for column, _ in lines[0]]
    rows = [[text for _, text in line] for line in lines]
    published = [bool(row.source) for row in table.rows]
    rules = [number for number in range(1, len(rows)) if published[number] and not published[number - 1]]
    return TextTable(title, columns, rows, len(columns) - 2 - len(table.settings), _notes(table), rules)


def to_csv(table: RunTable) -> str:
    """Comma-separated values; marks as words."""
    published = any(row.source for row in table.rows)
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        values: dict[str, Any] = {"run": row.run, "scorer": row.scorer, **_settings(table, row)}
        values |= {f"{name} (%)": row.metrics.get(name) for name in table.metrics}
        for name in table.gains:
            columns = [f"{name} {what}" for what in ("gain", "low", "high", "p", "p (Holm)")]
            values |= dict(zip(columns, _gain_values(row, name), strict=True))
        values |= {**_counted(table, row), "marks": ", ".join(row.marks)}
        rows.append(values | ({"differs": "; ".join(row.differs), "source": row.source} if published else {}))
    return csv_text(rows)


def to_json(table: RunTable) -> str:
    """An object with ``rows``, the unit of their metrics and the legend of their marks."""
    rows: list[dict[str, Any]] = [
        {
            "run": row.run,
            "scorer": row.scorer or None,
            "settings": _settings(table, row, None),
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
    "md": lambda table: markdown(text_table(table)),
    "csv": to_csv,
    "json": to_json,
    "latex": lambda table: latex(text_table(table)),
}
"""Format -> what writes it."""

GAIN = ("difference", "low", "high", "p", "p_holm")
"""What CSV and JSON hold of a gain; the first three in per cent."""


def _gain_values(row: Row, name: str) -> list[float | None]:
    gain = row.gains.get(name)
    if gain is None:
        return [None] * len(GAIN)
    return [*(None if x is None else 100 * x for x in (gain.difference, gain.low, gain.high)), gain.p, gain.p_holm]


def _settings(table: RunTable, row: Row, unknown: str | None = "") -> dict[str, Any]:
    return {name: row.settings[name].text if name in row.settings else unknown for name in table.settings}


def _counted(table: RunTable, row: Row) -> dict[str, str]:
    return {"n": counts(row.n)} | ({"without proposals": counts(row.missing)} if table.missing else {})


def _plain_counts(by_task: dict[str, int]) -> int | dict[str, int] | None:
    """One number where the tasks agree, None where nothing was counted."""
    numbers = set(by_task.values())
    return by_task if len(numbers) > 1 else next(iter(numbers), None)


def _cells(table: RunTable, row: Row) -> list[tuple[str, str]]:
    """Column and text; the marks stand at the scorer, or at the name of a published method."""
    marks = "".join(SYMBOLS[mark] for mark in row.marks)
    name, scorer = (row.run, f"{row.scorer} {marks}") if row.scorer else (f"{row.run} {marks}", "")
    cells = [("run", name.strip()), ("scorer", scorer.strip()), *_settings(table, row).items()]
    for key in table.metrics:
        shown = _shown(row.metrics.get(key), exact=bool(row.source))
        cells.append((key, Bold(shown) if key in row.best else shown))
        if key in table.gains:
            gain = shown_gain(row.gains[key]) if key in row.gains else ""
            cells.append((f"gain over {table.baseline}", gain))
    return [*cells, *_counted(table, row).items()]


def shown_gain(gain: Gain, *, p: bool = True) -> str:
    """A gain in points with its interval and its corrected p-value."""
    parts = [f"{100 * gain.difference:+.2f}", shown_interval(gain)]
    return " ".join(filter(None, parts)) + (f", p {shown_p(gain.p_holm)}" if p and parts[1] else "")


def shown_interval(gain: Gain) -> str:
    """The interval of a gain in points; empty without one."""
    return "" if gain.low is None or gain.high is None else f"[{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"


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
