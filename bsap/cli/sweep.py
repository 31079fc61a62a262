"""``bsap sweep RUN``: many settings over the features that a run has stored."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bsap.errors import ConfigError, unknown

if TYPE_CHECKING:
    from bsap.sweep.sweep import Row


def run(argv: list[str]) -> int:
    """Sweep, print the sorted table, write CSV, JSON and the best row's configuration."""
    parser = argparse.ArgumentParser(
        prog="bsap sweep",
        description="Evaluate many scorers, banks, temperatures and hybrid weights over the features that a run has "
        "stored. No picture is opened and no image encoder runs.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run folder: its data, models and views")
    parser.add_argument("--scorers", nargs="+", metavar="NAME", help="by default the run's scorers")
    parser.add_argument("--banks", nargs="+", metavar="BANK", help="by default the run's bank")
    parser.add_argument("--tau", nargs="+", type=float, default=[], metavar="T", help="besides the model's own")
    parser.add_argument("--lam", nargs="+", type=float, default=[], metavar="L", help="weights of BSAP in BSAP-H")
    parser.add_argument(
        "--aggregate",
        nargs="+",
        choices=["before", "sum", "after"],
        help="default: as in the run",
    )
    parser.add_argument("--metric", metavar="TASK/METRIC", help="sort by this; by default rec/acc@0.5, else ris/mIoU")
    parser.add_argument("--select-on", metavar="SPLIT", help="choose the best row on this split; default: the run's")
    parser.add_argument("--report-on", metavar="SPLIT", help="then report the chosen row on this split")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/sweep")
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="rows to print; default: %(default)s")
    options = parser.parse_args(argv[1:])
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    output: Path = options.output or options.run / "sweep"

    from bsap.runs.saved import read_run
    from bsap.sweep.sweep import Sweep, scorer_grid

    saved = read_run(options.run)
    model = saved.settings["model"]
    sweep = Sweep(saved, split=options.select_on)
    scorers = scorer_grid(options.scorers or model["scorers"], taus=options.tau, lams=options.lam)
    aggregates = options.aggregate or [model["aggregate"]]
    rows = list(sweep.rows(scorers, options.banks or [model["bank"]], aggregates, bank_seed=model["bank_seed"]))
    metric = options.metric or ("rec/acc@0.5" if "rec" in model["tasks"] else "ris/mIoU")
    if metric not in rows[0].metrics:
        raise unknown("metric", metric, rows[0].metrics)
    rows.sort(key=lambda row: -row.metrics[metric])
    best = rows[0]
    selected_on = options.select_on or saved.settings["data"].get("split", "val")

    tuned = selected_on.startswith("test")
    results = saved.finished()
    document = {
        "run": str(options.run),
        "selected_on": selected_on,
        "tuned_on_test": tuned,
        "partial": results["partial"],
        "complete": results["complete"],
        "counts": results["counts"],
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
    _write(output, rows, document, sweep.config(best, split=options.report_on))
    console.print(f"Written to {output}/ (sweep.csv, sweep.json, best.yaml)", highlight=False, soft_wrap=True)
    if tuned:
        print(f"bsap: {_tuned(selected_on)}", file=sys.stderr)
    return 0


def _tuned(split: str) -> str:
    return (
        f"the best row was chosen on {split}. Choosing on a test split is tuning on the test split: choose with "
        "--select-on val and report with --report-on testA."
    )


def _table(rows: list[Row], metric: str, *, title: str) -> Table:
    from bsap.reports.terminal import COUNTS, percent

    shown = [name for name in rows[0].metrics if name.split("/")[1] not in COUNTS and "Pr@" not in name]
    table = Table(title=title, title_justify="left")
    for name in ("scorer", "bank", "aggregate", *shown):
        table.add_column(f"{name} *" if name == metric else name, justify="right" if name in shown else "left")
    for row in rows:
        table.add_row(row.scorer, row.bank or "", row.aggregate, *(percent(row.metrics[name]) for name in shown))
    return table


def _write(output: Path, rows: list[Row], document: dict[str, Any], best: dict[str, Any]) -> None:
    import yaml

    remark = f"# {_tuned(document['selected_on'])}\n" if document["tuned_on_test"] else ""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "best.yaml").write_text(remark + yaml.safe_dump(best, sort_keys=False), encoding="utf-8")
        with (output / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["scorer", "bank", "aggregate", *rows[0].metrics])
            for row in rows:
                writer.writerow([row.scorer, row.bank or "", row.aggregate, *row.metrics.values()])
        (output / "sweep.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write the sweep to {output}: {error}. Choose another --output.") from error
