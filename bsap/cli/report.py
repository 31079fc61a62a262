"""``bsap report RUN...``: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from bsap.cli.arguments import Arguments, at_least, path, path_text, write_or_print
from bsap.cli.table import finished


def run(argv: list[str]) -> int:
    """Write the page."""
    parser = Arguments(
        prog="bsap report",
        description="Write one HTML page about one or several runs: tables with intervals, curves, bias measures, "
        "prompts and a gallery of expressions with filters. It needs no network and can be mailed.",
    )
    parser.add_argument("runs", nargs="+", type=path, metavar="RUN", help="finished run folders, for example runs/*")
    parser.add_argument(
        "--output",
        type=path,
        default=Path("report.html"),
        metavar="FILE",
        help="the file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures",
        type=at_least(0),
        default=60,
        metavar="N",
        help="number of expressions in the gallery (default: %(default)s)",
    )
    parser.add_argument(
        "--by",
        nargs="*",
        choices=["words", "size", "distractors", "category"],
        default=["words", "size", "distractors", "category"],
        metavar="FIELD",
        help="compare scorers in every group of words, size, distractors or category; none after --by leaves these "
        "tables out (default: all four)",
    )
    parser.add_argument(
        "--megabytes",
        type=at_least(1),
        default=15,
        metavar="N",
        help="most megabytes that pictures take; others are left out of the page (default: %(default)s)",
    )
    parser.add_argument(
        "--root", type=path_text, metavar="FOLDER", help="the root of the data, if it has moved since the runs"
    )
    parser.add_argument(
        "--images", type=path_text, metavar="FOLDER", help="the folder of pictures, if it has moved since the runs"
    )
    options = parser.parse_args(argv[1:])

    from bsap.reports.report import write_report

    page = write_report(
        finished(options.runs),
        pictures=options.pictures,
        megabytes=options.megabytes,
        by=options.by,
        root=options.root,
        images=options.images,
    )
    write_or_print(page, options.output)
    return 0
