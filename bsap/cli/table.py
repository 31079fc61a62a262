"""``bsap table RUN...``: many runs in one table, beside published numbers if asked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bsap.errors import ConfigError
from bsap.reports.formats import FORMATS
from bsap.reports.published import published_rows
from bsap.reports.run_table import compare
from bsap.runs.saved import read_run


def run(argv: list[str]) -> int:
    """Print the table, or write it to a file."""
    parser = argparse.ArgumentParser(
        prog="bsap table",
        description="Put runs into one table: a row for each run and scorer, a column for each setting that differs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, for example runs/*")
    parser.add_argument("--format", choices=list(FORMATS), default="md", help="by default %(default)s")
    parser.add_argument(
        "--published", action="store_true", help="append the published numbers of the same splits and tasks"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to a file instead of printing")
    options = parser.parse_args(argv[1:])

    folders = {folder.resolve(): folder for folder in reversed(options.runs)}
    named = list(reversed(folders.values()))
    # runs/* also holds the feature store, and runs that are still going on.
    left_out = [folder for folder in named if folder.is_dir() and not (folder / "results.json").exists()]
    if len(left_out) == len(named):
        left_out = []
    elif left_out:
        print(f"bsap: left out, without results.json: {', '.join(map(str, left_out))}", file=sys.stderr)
    runs = [read_run(folder) for folder in named if folder not in left_out]
    published = published_rows(runs) if options.published else []
    text = FORMATS[options.format](compare(runs, published))
    if options.published and not published:
        print("bsap: no published numbers are known for these splits and tasks", file=sys.stderr)
    if options.output is None:
        print(text, end="")
        return 0
    try:
        options.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {options.output}: {error}. Choose another `--output`.") from error
    print(f"Written to {options.output}", file=sys.stderr)
    return 0
