r"""A comparison as Markdown, CSV, JSON or LaTeX.

Every format gives per cent: Markdown and LaTeX with two digits (published numbers with their own), CSV and JSON
unrounded.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from typing import Any

from bsap.reports.run_table import MARKS, Comparison, Row, counts

SYMBOLS = {"partial": "†", "incomplete": "‡", "transductive": "§", "ground_truth": "¶"}
LATEX_SYMBOLS = {"†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "¶": r"\P{}"}


def to_markdown(table: Comparison) -> str:
    """A table in GitHub's Markdown, its legend, and the sources of published rows."""
    numbers = [*table.metrics, *_count_columns(table)]
    columns = [*_text_columns(table), *numbers]
    sides = [":--"] * len(_text_columns(table)) + ["--:"] * len(numbers)
    lines = [columns, *(_cells(table, row) for row in table.rows)]
    body = ["| " + " | ".join(map(escape_markdown, line)) + " |" for line in lines]
    body.insert(1, "| " + " | ".join(sides) + " |")
    return "\n".join([*body, "", *(f"- {escape_markdown(note)}" for note in _notes(table))]) + "\n"


def to_latex(table: Comparison) -> str:
    """A ``tabular`` for the package booktabs, with the notes below it."""
    texts = _text_columns(table)
    columns = [*texts, *table.metrics, *_count_columns(table)]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{" + "l" * len(texts) + "r" * (len(columns) - len(texts)) + "}",
    ]
    lines += [r"\toprule", " & ".join(map(escape_latex, columns)) + r" \\", r"\midrule"]
    for number, row in enumerate(table.rows):
        if row.source and number and not table.rows[number - 1].source:
            lines.append(r"\midrule")
        lines.append(" & ".join(map(escape_latex, _cells(table, row))) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [escape_latex(note) for note in _notes(table)]
    lines += ["", r"\smallskip", r"{\footnotesize", *(f"{note}\\par" for note in notes), "}"]
    return "\n".join(lines) + "\n"


def to_csv(table: Comparison) -> str:
    """Comma-separated values; marks as words."""
    published = any(row.source for row in table.rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*_text_columns(table), *(f"{name} (%)" for name in table.metrics), *_count_columns(table), "marks"]
        + ["differs", "source"] * published
    )
    for row in table.rows:
        metrics = [_number(row.metrics.get(name)) for name in table.metrics]
        facts = [row.facts[name].text if name in row.facts else "" for name in table.settings]
        notes = ["; ".join(row.differs), row.source] if published else []
        texts = [_one_line(text) for text in (row.run, row.scorer, *facts)]
        writer.writerow([*texts, *metrics, *_counted(table, row), ", ".join(row.marks), *notes])
    return text.getvalue()


def to_json(table: Comparison) -> str:
    """An object with ``rows``, the unit of their metrics and the legend of their marks."""
    rows: list[dict[str, Any]] = [
        {
            "run": row.run,
            "scorer": row.scorer or None,
            "settings": {name: row.facts[name].text if name in row.facts else None for name in table.settings},
            "metrics": {name: _number(row.metrics.get(name)) for name in table.metrics},
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
    return json.dumps({"unit": "per cent", "rows": rows, "legend": legend}, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
}
"""Format -> what writes it."""


def _text_columns(table: Comparison) -> list[str]:
    return ["run", "scorer", *table.settings]


def _count_columns(table: Comparison) -> list[str]:
    return ["n", "without proposals"] if table.missing else ["n"]


def _counted(table: Comparison, row: Row) -> list[str]:
    return [counts(row.n), counts(row.missing)] if table.missing else [counts(row.n)]


def _plain_counts(by_task: dict[str, int]) -> int | dict[str, int] | None:
    """One number where the tasks agree, None where nothing was counted."""
    numbers = set(by_task.values())
    return by_task if len(numbers) > 1 else next(iter(numbers), None)


def _cells(table: Comparison, row: Row) -> list[str]:
    """A row as a reader sees it: the marks stand at the scorer, or at the name of a published method."""
    marks = "".join(SYMBOLS[mark] for mark in row.marks)
    name, scorer = (row.run, f"{row.scorer} {marks}") if row.scorer else (f"{row.run} {marks}", "")
    facts = [row.facts[key].text if key in row.facts else "" for key in table.settings]
    metrics = [_shown(row.metrics.get(key), exact=bool(row.source)) for key in table.metrics]
    return [name.strip(), scorer.strip(), *facts, *metrics, *_counted(table, row)]


def _shown(value: float | None, *, exact: bool) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "nan"
    return str(value) if exact else f"{value:.2f}"


def _number(value: float | None) -> float | None:
    """The value, or None for none and NaN, which JSON does not have."""
    return None if value is None or math.isnan(value) else value


def _notes(table: Comparison) -> list[str]:
    """Unit, legend, and what published rows did differently."""
    counted = [by_task for row in table.rows for by_task in (row.n, row.missing) if len(set(by_task.values())) > 1]
    notes = [f"Counts a / b are those of {' / '.join(counted[0])}."] if counted else []
    notes += [f"{SYMBOLS[mark]} {mark.replace('_', ' ')}: {MARKS[mark]}." for mark in table.marks]
    published: dict[tuple[str, tuple[str, ...], str], None] = {}
    for row in table.rows:
        if row.source:
            published[row.run, row.differs, row.source] = None
    notes += [f"{name} (published): {'; '.join(differs)}. {source}." for name, differs, source in published]
    return ["Metrics in per cent.", *notes]


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def escape_markdown(text: str) -> str:
    r"""Text for a cell of a Markdown table.

    Example:
        >>> print(escape_markdown("a|b *c* bsap_h"))
        a\|b \*c\* bsap_h
    """
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", _one_line(text))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "[": "{[}", "*": "{*}",  # both are read as arguments of the line break before them
    **LATEX_SYMBOLS,
}  # fmt: skip


def escape_latex(text: str) -> str:
    r"""Text for LaTeX, character by character.

    Example:
        >>> print(escape_latex("bsap_h: 50 % [x]"))
        bsap\_h: 50 \% {[}x]
    """
    escaped = "".join(_LATEX.get(character, character) for character in _one_line(text))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)  # two of them would become another sign
