"""``bsap compare A B``: is one scorer better than another, and where?"""

from __future__ import annotations

from bsap.cli.arguments import Arguments, write_or_print


def run(argv: list[str]) -> int:
    """Print the gains, or write them to a file."""
    parser = Arguments(
        "bsap compare",
        "Compare scorers on the same expressions: the difference in every metric with a 95 % interval from a bootstrap "
        "over pictures, wins and losses, and p-values. A and B are RUN or RUN:SCORER. Two runs without a scorer are "
        "compared scorer by scorer.",
        epilog="example: %(prog)s runs/x:clip runs/x:bsap --by words",
    )
    parser.add("A", "the baseline: a run folder, or RUN:SCORER")
    parser.add("B...", "one or more to compare with it")
    parser.add(
        "--by FIELD...",
        "also compare in every group of category, words, distractors or size; by default only on all expressions",
        [],
    )
    parser.add("--metrics TASK/METRIC...", "such as rec/acc@0.5; by default all metrics", [])
    parser.add(
        "--common",
        "compare the expressions that both runs have; by default runs over different expressions are an error",
    )
    parser.add("--resamples N", "number of bootstrap samples and of permutations", 10_000, least=100)
    parser.add("--seed N", "seed of both", 0, least=0)
    parser.add("--format", "form of the table", "md", choices=["md", "csv", "json", "latex"])
    parser.add("--output FILE", "file to write; by default the table is printed")
    options = parser.parse_args(argv[1:])

    from bsap.analysis.comparison import compare_sides, corrected, read_sides
    from bsap.reports.gain_table import gain_table

    comparisons = corrected(
        [
            compare_sides(
                one,
                other,
                metrics=options.metrics,
                by=options.by,
                common=options.common,
                resamples=options.resamples,
                seed=options.seed,
            )
            for b in options.b
            for one, other in read_sides(options.a, b)
        ]
    )
    text = gain_table(comparisons, options.format, resamples=options.resamples, seed=options.seed)
    write_or_print(text, options.output)
    return 0
