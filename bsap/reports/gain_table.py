"""Gains of scorers over each other, in every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from bsap.analysis.comparison import Comparison
from bsap.reports.formats import TextTable, csv_text, json_text, latex, markdown
from bsap.reports.run_formats import shown_interval, shown_p

COLUMNS = ("metric", "A", "B", "B - A", "95 % interval", "wins", "losses", "p", "p (Holm)", "McNemar", "n", "pictures")


def gain_table(comparisons: Sequence[Comparison], form: str, *, resamples: int, seed: int) -> str:
    """Comparisons, corrected together, as ``md``, ``csv``, ``json`` or ``latex``; the notes name the resamples.

    CSV and JSON hold shares, the others per cent with two digits.
    """
    notes = _notes(comparisons, resamples, seed)
    rows = [(c, group, gain) for c in comparisons for group, gains in c.gains.items() for gain in gains]
    if form == "json":
        items = [{"a": c.a.label, "b": c.b.label, "group": group, "gain": asdict(gain)} for c, group, gain in rows]
        return json_text({"comparisons": items, "resamples": resamples, "seed": seed, "level": 0.95, "notes": notes})
    if form == "csv":
        return csv_text([{"run A": c.a.label, "run B": c.b.label, "group": g, **asdict(gain)} for c, g, gain in rows])
    names = len(comparisons) > 1
    groups = any(group != "all" for _, group, _ in rows)
    cells = []
    for c, group, gain in rows:
        cells.append(
            [
                *([c.a.label, c.b.label] if names else []),
                *([group] if groups else []),
                gain.metric,
                *(f"{100 * share:.2f}" for share in (gain.a, gain.b)),
                f"{100 * gain.difference:+.2f}",
                shown_interval(gain),
                *map(str, (gain.wins, gain.losses)),
                *map(shown_p, (gain.p, gain.p_holm, gain.mcnemar)),
                *map(str, (gain.expressions, gain.pictures)),
            ]
        )
    columns = [*(["run A", "run B"] if names else []), *(["group"] if groups else []), *COLUMNS]
    write = latex if form == "latex" else markdown
    return write(TextTable("", columns, cells, len(COLUMNS) - 1, notes))


def _notes(comparisons: Sequence[Comparison], resamples: int, seed: int) -> list[str]:
    tests = sum(gain.p is not None for c in comparisons for gains in c.gains.values() for gain in gains)
    notes = [f"A is {c.a.label}, B is {c.b.label}." for c in comparisons] if len(comparisons) == 1 else []
    for c in comparisons:
        if c.left_out:
            notes.append(f"{c.a.label} and {c.b.label}: {c.left_out} expressions are in one run only and are left out.")
    if any(gain.low is None for c in comparisons for gains in c.gains.values() for gain in gains):
        notes.append("Where all expressions are of one picture, there is no interval and no p-value.")
    if not tests:
        return notes
    return [
        *notes,
        f"Intervals: paired bootstrap over pictures, {resamples} resamples, seed {seed}.",
        f"p: the scorers exchanged at random in whole pictures, {resamples} times; Holm's correction for {tests}.",
        "McNemar: exact test of wins and losses, assuming independent expressions, which those of one picture are not.",
    ]
