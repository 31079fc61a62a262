"""``bsap sweep RUN``: many settings over the features that a run has stored."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bsap.errors import ConfigError, unknown

if TYPE_CHECKING:
    from bsap.sweep import Row


def run(argv: list[str]) -> int:
    """Sweep, print the sorted table, write CSV, JSON and the best row's configuration."""
    parser = argparse.ArgumentParser(
        prog="bsap sweep",
        description="Evaluate many scorers, banks, temperatures and hybrid weights over the features that a run has "
        "stored. No picture is opened and no image encoder runs.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run folder: its data, models and views")
    parser.add_argument("--scorers", nargs="+", default=["clip", "bsap", "bsap_h"], metavar="NAME")
    parser.add_argument("--banks", nargs="+", metavar="BANK", help="by default the run's bank")
    parser.add_argument("--tau", nargs="+", type=float, default=[], metavar="T", help="besides the model's own")
    parser.add_argument("--lam", nargs="+", type=float, default=[], metavar="L", help="weights of BSAP in BSAP-H")
    parser.add_argument("--aggregate", nargs="+", choices=["before", "sum", "after"], metavar="HOW")
    parser.add_argument("--metric", metavar="TASK/METRIC", help="sort by this; by default rec/acc@0.5, else ris/mIoU")
    parser.add_argument("--select-on", metavar="SPLIT", help="choose the best row on this split; default: the run's")
    parser.add_argument("--report-on", metavar="SPLIT", help="then report the chosen row on this split")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/sweep")
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="rows to print; default: %(default)s")
    options = parser.parse_args(argv[1:])

    from bsap.saved_run import read_run
    from bsap.sweep import Sweep, scorer_grid

    saved = read_run(options.run)
    model = saved.settings["model"]
    sweep = Sweep(saved, split=options.select_on)
    scorers = scorer_grid(options.scorers, taus=options.tau, lams=options.lam)
    aggregates = options.aggregate or [model["aggregate"]]
    rows = list(sweep.rows(scorers, options.banks or [model["bank"]], aggregates, bank_seed=model["bank_seed"]))
    metric = options.metric or ("rec/acc@0.5" if "rec" in model["tasks"] else "ris/mIoU")
    if metric not in rows[0].metrics:
        raise unknown("metric", metric, rows[0].metrics)
    rows.sort(key=lambda row: -row.metrics[metric])
    best = rows[0]
    selected_on = options.select_on or saved.settings["data"].get("split", "val")

    output = options.output or options.run / "sweep"
    output.mkdir(parents=True, exist_ok=True)
    document = {
        "run": str(options.run),
        "selected_on": selected_on,
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
    _write(output, rows, document)
    import yaml

    config = sweep.config(best, split=options.report_on)
    (output / "best.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    console.print(f"Written to {output}/ (sweep.csv, sweep.json, best.yaml)", highlight=False, soft_wrap=True)
    if tuned_on_test(selected_on, options.report_on):
        print(
            f"bsap: the best row was chosen on {selected_on} itself. Choosing on a test split is tuning on the test "
            "split: choose with --select-on val and report with --report-on testA.",
            file=sys.stderr,
        )
    return 0


def tuned_on_test(selected_on: str, reported_on: str | None) -> bool:
    """Whether the chosen row's number is one that was chosen on.

    Example:
        >>> tuned_on_test("testA", None), tuned_on_test("val", None), tuned_on_test("val", "testA")
        (True, False, False)
    """
    return selected_on.startswith("test") and reported_on in (None, selected_on)


def _table(rows: list[Row], metric: str, *, title: str) -> Table:
    from bsap.tables import COUNTS, percent

    shown = [name for name in rows[0].metrics if name.split("/")[1] not in COUNTS and "Pr@" not in name]
    table = Table(title=title, title_justify="left")
    for name in ("scorer", "bank", "aggregate", *shown):
        table.add_column(f"{name} *" if name == metric else name, justify="right" if name in shown else "left")
    for row in rows:
        table.add_row(row.scorer, row.bank or "", row.aggregate, *(percent(row.metrics[name]) for name in shown))
    return table


def _write(output: Path, rows: list[Row], document: dict[str, object]) -> None:
    try:
        with (output / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["scorer", "bank", "aggregate", *rows[0].metrics])
            for row in rows:
                writer.writerow([row.scorer, row.bank or "", row.aggregate, *row.metrics.values()])
        (output / "sweep.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write the sweep to {output}: {error}. Choose another --output.") from error
