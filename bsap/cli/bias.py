"""``bsap bias RUN...``: the retrieval bias before and after every scorer."""

from __future__ import annotations

from bsap.cli.arguments import Arguments, write_or_print
from bsap.cli.table import finished


def run(argv: list[str]) -> int:
    """Print the measures, or write them to a file."""
    parser = Arguments(
        "bsap bias",
        "Measure how much regions are preferred for every sentence, before and after each scorer of a run: popularity, "
        "hubs, wrong choices on popular regions, the modality gap, and what popularity depends on. The features that "
        "the run has stored are used: no picture is opened and no image encoder runs.",
    )
    parser.add("RUN...", "finished run folders, for example runs/*")
    parser.add("--texts N", "measure popularity over at most so many texts of the split, spread evenly", 1000, least=2)
    parser.add("--format", "form of the output", "md", choices=["md", "json"])
    parser.add("--output FILE", "file to write; by default the output is printed")
    parser.add(
        "--regions FILE",
        "also write a CSV file with the popularity of each region and mean, spread and range of its scores; by default "
        "none is written",
    )
    options = parser.parse_args(argv[1:])

    from bsap.analysis.bias import measure_bias
    from bsap.reports.bias_table import bias_json, bias_markdown, bias_regions
    from bsap.reports.run_table import run_names
    from bsap.runs.saved import read_run

    runs = [read_run(folder) for folder in finished(options.run)]
    found = {name: measure_bias(run, texts=options.texts) for name, run in zip(run_names(runs), runs, strict=True)}
    if options.regions:
        write_or_print(bias_regions(found), options.regions)
    write_or_print(bias_json(found) if options.format == "json" else bias_markdown(found), options.output)
    return 0
