"""The table of runs with what every row gains over a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bsap.analysis.comparison import Comparison, Side, compare_sides, corrected, read_records, read_sides
from bsap.errors import DataError, unknown
from bsap.reports.run_table import RunTable, metric_column, metric_name
from bsap.runs.saved import read_run
from bsap.runs.schema import Record

MAIN = ("rec/acc@0.5", "rec/Pr@F1", "ris/oIoU", "ris/mIoU", "ris/gIoU", "ris/cIoU")
"""The metrics whose gains are shown in a table of all metrics."""
RESAMPLES = 10_000


def with_gains(
    table: RunTable, baseline: str, *, known: Mapping[str, Sequence[Record]] = MappingProxyType({})
) -> RunTable:
    """Add the gains over a scorer to a table.

    Args:
        table: the table; rows of one split and the same expressions as the baseline get gains.
        baseline: a scorer, which every run must have, or ``RUN:SCORER``.
        known: the predictions of runs that are read already, by folder.

    Raises:
        ConfigError: if a run lacks the scorer.
    """
    columns = [name for name in table.metrics if metric_name(name) in MAIN] or list(table.metrics)
    sides: dict[str, dict[str, Side]] = {}
    for row in table.rows:
        if row.folder and row.folder not in sides:
            run = read_run(Path(row.folder))
            records = known.get(row.folder) or read_records(run)
            sides[row.folder] = {name: Side(run, name, records) for name in records[0]["scorers"]}
    fixed = None
    if ":" in baseline:
        other = next(iter(next(iter(sides.values())).values()))
        fixed = read_sides(baseline, f"{other.run.folder}:{other.scorer}")[0][0]
    found: dict[int, Comparison] = {}
    skipped = []
    for number, row in enumerate(table.rows):
        if not row.folder:
            continue
        own = sides[row.folder]
        base = fixed or own.get(baseline)
        if base is None:
            raise unknown("scorer", baseline, own)
        side = own[row.scorer]
        metrics = [name for name in map(metric_name, columns) if name in side.metrics and name in base.metrics]
        if side.label == base.label or not metrics:
            continue
        try:
            found[number] = compare_sides(base, side, metrics=metrics, resamples=RESAMPLES)
        except DataError:  # another split
            skipped.append(f"{row.run} {row.scorer}")
    gains = dict(zip(found, corrected(list(found.values())), strict=True))
    rows = []
    for number, row in enumerate(table.rows):
        of_row = gains[number].gains["all"] if number in gains else ()
        rows.append(replace(row, gains={metric_column(*gain.metric.split("/")): gain for gain in of_row}))
    notes = [
        f"Gains over {baseline} with 95 % intervals: paired bootstrap over pictures, {RESAMPLES} resamples, seed 0. "
        f"p: permutation over pictures, with Holm's correction for {sum(len(row.gains) for row in rows)} tests."
    ]
    if any(gain.low is None for row in rows for gain in row.gains.values()):
        notes.append("Where all expressions are of one picture, there is no interval and no p-value.")
    if skipped:
        notes.append(f"No gain where the expressions are not those of the baseline: {', '.join(skipped)}.")
    return replace(table, rows=tuple(rows), gains=tuple(columns), baseline=baseline, notes=(*table.notes, *notes))
