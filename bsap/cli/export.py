"""``bsap export RUN``: a run's choices for other tools."""

from __future__ import annotations

from bsap.cli.arguments import Arguments, path_text, write_or_print


def run(argv: list[str]) -> int:
    """Write the file."""
    parser = Arguments(
        "bsap export",
        "Write the choices of a finished run for other tools: COCO results with expression ids, or a table with one "
        "row per expression.",
    )
    parser.add("RUN", "a finished run folder")
    parser.add(
        "--format",
        "coco: results of one scorer, with masks for segmentation; csv, parquet: all scorers (default: csv)",
        "csv",
        choices=["coco", "csv", "parquet"],
    )
    parser.add("--scorer NAME", "coco: whose choices; needed if the run has several scorers")
    parser.add("--output FILE", "file to write; by default it is printed, which parquet cannot be")
    parser.add("--root FOLDER", "the root of the data, if it has moved", type=path_text)
    options = parser.parse_args(argv[1:])
    if options.format == "parquet" and options.output is None:
        parser.error("Name the Parquet file with --output FILE.")

    from bsap.reports.export import coco_results, csv_table, parquet_table
    from bsap.runs.saved import read_run

    saved = read_run(options.run)
    saved.finished()
    if options.format == "coco":
        from bsap.reports.shown_run import ShownRun

        write_or_print(coco_results(ShownRun(options.run, root=options.root), options.scorer), options.output)
    elif options.format == "csv":
        write_or_print(csv_table(saved), options.output)
    else:
        write_or_print(parquet_table(saved), options.output)
    return 0
