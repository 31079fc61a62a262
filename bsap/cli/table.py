"""``bsap table RUN...``: many runs in one table, beside published numbers if asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bsap.cli.arguments import Arguments, path
from bsap.errors import ConfigError
from bsap.reports.formats import FORMATS
from bsap.reports.published import published_rows
from bsap.reports.run_table import compare
from bsap.runs.saved import read_run

SHOWN = 5
"""Skipped paths that are named."""


def finished(paths: Sequence[Path]) -> list[Path]:
    """The run folders among some paths, each once, with a line on standard error for what is left out.

    ``runs/*`` also names the feature store, pictures, and runs that are not finished. Where nothing is a finished run,
    all paths are returned, so that reading them says what is wrong.
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
        prog="bsap table",
        description="Put runs into one table: a row for each run and scorer, a column for each setting that differs.",
    )
    parser.add_argument("runs", nargs="+", type=path, metavar="RUN", help="run folders, for example runs/*")
    parser.add_argument(
        "--format", choices=list(FORMATS), default="md", help="form of the table (default: %(default)s)"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="append published numbers of the same splits and tasks, with what was done differently",
    )
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="write the table to a file; by default it is printed"
    )
    options = parser.parse_args(argv[1:])

    runs = [read_run(folder) for folder in finished(options.runs)]
    published = published_rows(runs) if options.published else []
    text = FORMATS[options.format](compare(runs, published))
    if options.published and not published:
        print("bsap: no published numbers are known for these splits and tasks.", file=sys.stderr)
    if options.output is None:
        print(text, end="")
        return 0
    try:
        options.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {options.output}: {error}. Choose another `--output`.") from error
    print(f"Written to {options.output}", file=sys.stderr)
    return 0
