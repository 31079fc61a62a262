"""``bsap table RUN...``: many runs in one table, beside published numbers if asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bsap.cli.arguments import Arguments, write_or_print
from bsap.reports.published import published_rows
from bsap.reports.run_formats import FORMATS
from bsap.reports.run_table import make_table
from bsap.runs.saved import read_run

SHOWN = 5
"""Skipped paths that are named."""


def finished(paths: Sequence[Path]) -> list[Path]:
    """The run folders among some paths, each once, with a line on standard error for what is left out.

    ``runs/*`` also names the feature store, pictures, and runs that are not finished. Where nothing is a finished run,
    all paths are returned, and reading them shows what is wrong.
    """
    named = list({folder.resolve(): folder for folder in reversed(paths)}.values())[::-1]
    skipped = [folder for folder in named if folder.exists() and not (folder / "results.json").exists()]
    if not skipped or len(skipped) == len(named):
        return named
    names = ", ".join(map(str, skipped[:SHOWN])) + (", ..." if len(skipped) > SHOWN else "")
    print(f"bsap: skipped, because they hold no results.json: {names}", file=sys.stderr)
    return [folder for folder in named if folder not in skipped]


def run(argv: list[str]) -> int:
    """Print the table, or write it to a file."""
    parser = Arguments(
        "bsap table",
        "Put runs into one table: a row for each run and scorer, a column for each setting that differs.",
    )
    parser.add("RUN...", "run folders, for example runs/*")
    parser.add("--format", "form of the table", "md", choices=list(FORMATS))
    parser.add("--published", "append published numbers of the same splits and tasks, with what was done differently")
    parser.add("--metrics TASK/METRIC...", "such as rec/acc@0.5; by default all metrics", [])
    parser.add(
        "--gain-over SCORER",
        "show what every row gains over this scorer of the same run, or over RUN:SCORER, with 95 % intervals and "
        "p-values; by default no gains are shown",
    )
    parser.add("--output FILE", "write the table to a file; by default it is printed")
    options = parser.parse_args(argv[1:])

    runs = [read_run(folder) for folder in finished(options.run)]
    published = published_rows(runs) if options.published else []
    if options.published and not published:
        print("bsap: no published numbers are known for these splits and tasks.", file=sys.stderr)
    table = make_table(runs, published, metrics=options.metrics)
    if options.gain_over is not None:
        from bsap.reports.table_gains import with_gains

        table = with_gains(table, options.gain_over)
    write_or_print(FORMATS[options.format](table), options.output)
    return 0
