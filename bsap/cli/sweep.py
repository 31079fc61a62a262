"""``bsap sweep RUN``: many settings over the features that a run has stored."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bsap.cli.arguments import Arguments, write_files
from bsap.errors import unknown

if TYPE_CHECKING:
    from bsap.sweep.sweep import Row


def run(argv: list[str]) -> int:
    """Sweep, print the sorted table, write CSV, JSON and the best row's configuration."""
    parser = Arguments(
        "bsap sweep",
        "Evaluate many scorers, banks, temperatures and hybrid weights over the features that a run has stored. No "
        "picture is opened and no image encoder runs.",
    )
    parser.add("RUN", "a finished run folder; its data, models and views are used")
    parser.add("--scorers NAME...", "scorers to try; by default those of the run")
    parser.add("--banks BANK...", "banks to try; by default that of the run")
    parser.add("--tau T...", "temperatures to try besides the model's own; by default none", [], type=float)
    parser.add("--lam L...", "weights of BSAP in BSAP-H to try, 0 to 1; by default that of the scorer", [], type=float)
    parser.add(
        "--aggregate PLACE...",
        "where an ensemble is joined, as for `bsap test`: before, sum, max or after; by default as in the run",
        choices=["before", "sum", "max", "after"],
    )
    parser.add("--metric TASK/METRIC", "metric to sort by; by default rec/acc@0.5, or ris/mIoU without REC")
    parser.add("--select-on SPLIT", "split on which the best row is chosen; by default that of the run")
    parser.add("--report-on SPLIT", "split on which the chosen row is then reported; by default none")
    parser.add(
        "--threshold OVER...",
        "try thresholds of answers that are sets (`model.answer`) over these values: p, score, cosine, region_bank, "
        "both. By default no thresholds are tried",
    )
    parser.add(
        "--choose",
        "with --threshold: choose the threshold with the best mean of N-acc and T-acc (balance), Pr@F1, or gIoU",
        "balance",
        choices=["balance", "f1", "giou"],
    )
    parser.add("--output FOLDER", "where the files are written (default: RUN/sweep)")
    parser.add("--rows N", "number of rows to print", 20)
    options = parser.parse_args(argv[1:])
    output: Path = options.output or options.run / "sweep"

    from bsap.datamodules.files import dump_yaml
    from bsap.reports.formats import csv_text, json_text
    from bsap.reports.text import say
    from bsap.runs.saved import read_run
    from bsap.sweep.sweep import Sweep, scorer_grid

    saved = read_run(options.run)
    model = saved.settings["model"]
    scorers = scorer_grid(options.scorers or model["scorers"], taus=options.tau, lams=options.lam)
    if options.threshold is not None:
        from bsap.cli.sweep_thresholds import sweep_thresholds

        if (split := sweep_thresholds(options, saved, scorers, output)).startswith("test"):
            print(f"bsap: {tuned_on_test(split)}", file=sys.stderr)
        return 0
    sweep = Sweep(saved, split=options.select_on)
    aggregates = options.aggregate or [model["aggregate"]]
    rows = list(sweep.rows(scorers, options.banks or [model["bank"]], aggregates, bank_seed=model["bank_seed"]))
    metric = options.metric or ("rec/acc@0.5" if "rec" in model["tasks"] else "ris/mIoU")
    if metric not in rows[0].metrics:
        raise unknown("metric", metric, rows[0].metrics)
    rows.sort(key=lambda row: -row.metrics[metric])
    best = rows[0]
    selected_on = options.select_on or saved.settings["data"].get("split", "val")

    tuned = selected_on.startswith("test")
    results: Mapping[str, Any] = saved.finished()
    document = {
        "run": str(options.run),
        "selected_on": selected_on,
        "tuned_on_test": tuned,
        **{key: results[key] for key in ("partial", "complete", "counts")},
        "metric": metric,
        "rows": [asdict(r) for r in rows],
    }
    console = Console()
    console.print(_table(rows[: options.rows], metric, title=f"{selected_on}: {len(rows)} settings"))
    if options.report_on is not None:
        report = Sweep(saved, split=options.report_on)
        chosen = {name: scorer for name, scorer in scorers.items() if name == best.scorer or not scorer.needs_bank}
        banks = [best.bank or model["bank"]]
        reported = list(report.rows(chosen, banks, [best.aggregate], bank_seed=model["bank_seed"]))
        document |= {"reported_on": options.report_on, "report": [asdict(row) for row in reported]}
        console.print(_table(reported, metric, title=f"{options.report_on}: the row chosen on {selected_on}"))
    remark = f"# {tuned_on_test(selected_on)}\n" if tuned else ""
    files = {
        "sweep.csv": csv_text(
            [{"scorer": r.scorer, "bank": r.bank, "aggregate": r.aggregate, **r.metrics} for r in rows]
        ),
        "sweep.json": json_text(document),
        "best.yaml": remark + dump_yaml(sweep.config(best, split=options.report_on)),
    }
    write_files(output, files)
    say(f"Written to {output}/ ({', '.join(files)})")
    if tuned:
        print(f"bsap: {tuned_on_test(selected_on)}", file=sys.stderr)
    return 0


def tuned_on_test(split: str) -> str:
    """The warning about a choice on a test split."""
    return (
        f"the best row was chosen on {split}. Choosing on a test split is tuning on the test split: choose with "
        "--select-on val and report with --report-on testA."
    )


def _table(rows: list[Row], metric: str, *, title: str) -> Table:
    from bsap.reports.run_table import COUNTS
    from bsap.reports.terminal import percent
    from bsap.reports.text import cell

    shown = [name for name in rows[0].metrics if name.split("/")[1] not in COUNTS and "Pr@" not in name]
    table = Table(title=cell(title), title_justify="left")
    for name in ("scorer", "bank", "aggregate", *shown):
        table.add_column(f"{name} *" if name == metric else name, justify="right" if name in shown else "left")
    for row in rows:
        table.add_row(
            cell(row.scorer), cell(row.bank or ""), row.aggregate, *(percent(row.metrics[name]) for name in shown)
        )
    return table
