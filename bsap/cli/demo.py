"""``bsap demo``: the main job on the embedded drawn world."""

from __future__ import annotations

import argparse
from pathlib import Path


def run(argv: list[str]) -> int:
    """Parse the options and run the demo."""
    parser = argparse.ArgumentParser(
        prog="bsap demo",
        description="Draw a small world in RefCOCO's file format, evaluate the shipped tiny CLIP on it with three "
        "banks, print one table and write one contact sheet. Needs no network and no data.",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate only the first N expressions")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="default: %(default)s")
    options = parser.parse_args(argv[1:])
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be at least 1")
    from bsap.cli.progress import quiet
    from bsap.demo.run import run_demo

    quiet()
    run_demo(options.output, limit=options.limit)
    return 0
