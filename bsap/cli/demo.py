"""``bsap demo``: the main job on the embedded drawn world."""

from __future__ import annotations

from pathlib import Path

from bsap.cli.arguments import Arguments


def run(argv: list[str]) -> int:
    """Parse the options and run the demo."""
    parser = Arguments(
        "bsap demo",
        "Draw pictures with expressions in RefCOCO's file format, evaluate the tiny CLIP of the package on them with "
        "three banks, print a table and write a contact sheet. It needs no network and no data.",
    )
    parser.add("--limit N", "evaluate only the first N expressions; by default all")
    parser.add("--output FOLDER", "where run folders and the sheet are written", Path("runs/demo"))
    options = parser.parse_args(argv[1:])
    from bsap.cli.progress import quiet
    from bsap.demo.run import run_demo

    quiet()
    run_demo(options.output, limit=options.limit)
    return 0
