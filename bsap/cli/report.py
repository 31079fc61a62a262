"""``bsap report RUN...``: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from bsap.cli.arguments import Arguments, path_text, write_or_print
from bsap.cli.table import finished


def run(argv: list[str]) -> int:
    """Write the page."""
    parser = Arguments(
        "bsap report",
        "Write one HTML page about one or several runs: tables with intervals, curves, bias measures, prompts and a "
        "gallery of expressions with filters. It needs no network and can be mailed.",
    )
    parser.add("RUN...", "finished run folders, for example runs/*")
    parser.add("--output FILE", "the file to write", Path("report.html"))
    parser.add("--pictures N", "number of expressions in the gallery", 60, least=0)
    fields = ["words", "size", "distractors", "category"]
    parser.add(
        "--by [FIELD...]",
        "compare scorers in every group of words, size, distractors or category; none after --by leaves these tables "
        "out (default: all four)",
        fields,
        choices=fields,
    )
    parser.add("--megabytes N", "most megabytes that pictures take; others are left out of the page", 15)
    parser.add("--root FOLDER", "the root of the data, if it has moved since the runs", type=path_text)
    parser.add("--images FOLDER", "the folder of pictures, if it has moved since the runs", type=path_text)
    options = parser.parse_args(argv[1:])

    from bsap.reports.report import write_report

    page = write_report(
        finished(options.run),
        pictures=options.pictures,
        megabytes=options.megabytes,
        by=options.by,
        root=options.root,
        images=options.images,
    )
    write_or_print(page, options.output)
    return 0
