"""``bsap compare A B``: is one scorer better than another, and where?"""

from __future__ import annotations

from bsap.cli.arguments import Arguments, at_least, path, write_or_print


def run(argv: list[str]) -> int:
    """Print the gains, or write them to a file."""
    parser = Arguments(
        prog="bsap compare",
        description="Compare scorers on the same expressions: the difference in every metric with a 95 % interval from "
        "a bootstrap over pictures, wins and losses, and p-values. A and B are RUN or RUN:SCORER. Two runs without a "
        "scorer are compared scorer by scorer.",
        epilog="example: %(prog)s runs/x:clip runs/x:bsap --by words",
    )
    parser.add_argument("a", metavar="A", help="the baseline: a run folder, or RUN:SCORER")
    parser.add_argument("b", nargs="+", metavar="B", help="one or more to compare with it")
    parser.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="FIELD",
        help="also compare in every group of category, words, distractors or size; by default only on all expressions",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="TASK/METRIC",
        help="such as rec/acc@0.5; by default all metrics",
    )
    parser.add_argument(
        "--common",
        action="store_true",
        help="compare the expressions that both runs have; by default runs over different expressions are an error",
    )
    parser.add_argument(
        "--resamples",
        type=at_least(100),
        default=10_000,
        metavar="N",
        help="number of bootstrap samples and of permutations (default: %(default)s)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed of both (default: %(default)s)")
    parser.add_argument(
        "--format",
        choices=["md", "csv", "json", "latex"],
        default="md",
        help="form of the table (default: md)",
    )
    parser.add_argument("--output", type=path, metavar="FILE", help="file to write; by default the table is printed")
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
