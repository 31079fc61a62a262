r"""Tables as Markdown, CSV, JSON or LaTeX: the writing and escaping that all of them share."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bsap.errors import visible
from bsap.reports.text import csv_cell

Cells = Sequence[str]


class Bold(str):
    """A cell whose text is set in bold."""

    __slots__ = ()


@dataclass(frozen=True)
class TextTable:
    """A table of texts, for any format.

    Attributes:
        title: its heading, where the format has one.
        columns: headings of the columns.
        rows: a text for each column.
        numbers: how many of the last columns stand to the right.
        notes: lines below it.
        rules: rows with a line above them, where the format has lines.
    """

    title: str
    columns: Cells
    rows: Sequence[Cells]
    numbers: int
    notes: Cells = ()
    rules: Collection[int] = ()


def markdown(table: TextTable) -> str:
    """A table in GitHub's Markdown with a list of its notes below it.

    Example:
        >>> print(markdown(TextTable("", ["run", "acc"], [["a_b", Bold("1.00")]], numbers=1)))
        | run | acc |
        | :-- | --: |
        | a_b | **1.00** |
    """
    lines: list[Cells] = [table.columns, *table.rows]
    rows = [[_cell(text, escape_markdown, "**", "**") for text in line] for line in lines]
    rows.insert(1, [":--"] * (len(table.columns) - table.numbers) + ["--:"] * table.numbers)
    notes = [f"- {escape_markdown(visible(note))}" for note in table.notes]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), *([""] * bool(notes)), *notes]) + "\n"


def latex(table: TextTable) -> str:
    """A ``tabular`` for the package booktabs, with its notes below it."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{" + "l" * (len(table.columns) - table.numbers) + "r" * table.numbers + "}",
        r"\toprule",
        " & ".join(map(escape_latex, table.columns)) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        lines += [r"\midrule"] * (number in table.rules)
        lines.append(" & ".join(_cell(text, escape_latex, r"\textbf{", "}") for text in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip", r"{\footnotesize"]
    return "\n".join([*lines, *(f"{escape_latex(visible(note))}\\par" for note in table.notes), "}"]) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values: numbers unrounded, and no text that a spreadsheet takes for a formula."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    lines: list[list[Any]] = [columns, *([row.get(key) for key in columns] for row in rows)]
    for line in lines:
        writer.writerow([csv_cell(_one_line(value)) if isinstance(value, str) else finite(value) for value in line])
    return text.getvalue()


def json_text(document: Any) -> str:
    """JSON with None for NaN, which JSON does not have; bytes of a file's name that are no UTF-8 are escaped."""
    text = json.dumps(finite(document), indent=2, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode() + "\n"


def finite(value: Any) -> Any:
    """The same with None for NaN, however deep."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(text: str, escape: Any, before: str, after: str) -> str:
    shown = escape(visible(text))
    return f"{before}{shown}{after}" if isinstance(text, Bold) else str(shown)


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
    "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "¶": r"\P{}", "‖": r"\textbardbl{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    r"""Text for LaTeX, character by character.

    Example:
        >>> print(escape_latex("bsap_h: 50 % [x]"))
        bsap\_h: 50 \% {[}x]
    """
    escaped = "".join(_LATEX.get(character, character) for character in _one_line(text))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)  # two of them would become another sign
