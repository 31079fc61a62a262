"""``bsap demo``: the main job on the embedded drawn world."""

from __future__ import annotations

from pathlib import Path

from bsap.cli.arguments import Arguments, at_least, path


def run(argv: list[str]) -> int:
    """Parse the options and run the demo."""
    parser = Arguments(
        prog="bsap demo",
        description="Draw pictures with expressions in RefCOCO's file format, evaluate the tiny CLIP of the package on "
        "them with three banks, print a table and write a contact sheet. It needs no network and no data.",
    )
    parser.add_argument(
        "--limit", type=at_least(1), metavar="N", help="evaluate only the first N expressions; by default all"
    )
    parser.add_argument(
        "--output",
        type=path,
        default=Path("runs/demo"),
        metavar="FOLDER",
        help="where run folders and the sheet are written (default: %(default)s)",
    )
    options = parser.parse_args(argv[1:])
    from bsap.cli.progress import quiet
    from bsap.demo.run import run_demo

    quiet()
    run_demo(options.output, limit=options.limit)
    return 0
