"""The tables of the report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsap.analysis.comparison import Side, compare_sides
from bsap.analysis.explain import PromptMeaning
from bsap.reports.formats import TextTable
from bsap.reports.run_formats import shown_gain
from bsap.reports.run_table import metric_column
from bsap.reports.table_gains import MAIN

PROMPTS = 20
"""Prompts of a bank that the page shows: those that explain most."""
RESAMPLES = 2000
"""Bootstrap samples of each group; tables of whole runs draw more."""


def prompt_table(run: str, bank: str, scorer: str, meanings: Sequence[PromptMeaning]) -> TextTable:
    """What each prompt of a bank explains away."""
    rows = [
        [m.prompt, "; ".join(text for text, _ in m.expressions), *(f"{100 * x:.2f}" for x in shares)]
        for m in meanings[:PROMPTS]
        for shares in [(m.explains, m.fixed, m.broken)]
    ]
    notes = [
        "Explains: the expressions, in per cent, for which the scorer leaves CLIP's choice and this prompt fits that "
        "choice best. Fixed: those of them for which a miss became a hit; broken: a hit became a miss."
    ]
    if (left := len(meanings) - PROMPTS) > 0:
        rest = sum(meaning.explains for meaning in meanings[PROMPTS:])
        notes.append(f"{left} more prompts explain {100 * rest:.2f} together. `bsap explain` lists all.")
    columns = ["prompt", "nearest expressions", "explains", "fixed", "broken"]
    return TextTable(f"{run}: bank {bank}, by {scorer}", columns, rows, 3, notes)


def breakdowns(run: str, sides: Mapping[str, Side], by: Sequence[str]) -> list[TextTable]:
    """A table for each field that is known: each scorer's main metric in each group, and its gain over the first one.

    A run of at least two scorers, by fields of :data:`bsap.analysis.comparison.FIELDS`.
    """
    first, *others = sides.values()
    metric = next(name for name in MAIN if name in first.metrics)
    found = [compare_sides(first, other, metrics=[metric], by=by, resamples=RESAMPLES) for other in others]
    columns = ["n", first.scorer]
    for other in others:
        columns += [other.scorer, f"gain over {first.scorer}"]
    column = metric_column(*metric.split("/"))
    notes = [
        f"{column} in per cent, with 95 % intervals: paired bootstrap over pictures, {RESAMPLES} resamples. The "
        "intervals are not corrected for the number of groups: of 20 of them, one misses the truth on average."
    ]
    tables = []
    for field in by:
        rows = []
        for group in (name for name in found[0].gains if name.startswith(f"{field} ")):
            gains = [comparison.gains[group][0] for comparison in found]
            cells = [str(gains[0].expressions), f"{100 * gains[0].a:.1f}"]
            for gain in gains:
                cells += [f"{100 * gain.b:.1f}", shown_gain(gain, p=False)]
            rows.append([group.removeprefix(f"{field} "), *cells])
        if [row[0] for row in rows] == ["unknown"]:
            continue
        tables.append(TextTable(f"{run}: {column} by {field}", [field, *columns], rows, len(columns), notes))
    return tables
