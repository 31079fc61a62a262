"""``bsap sweep RUN --threshold OVER``: which threshold to answer with, chosen on one split and reported on another."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bsap.cli.arguments import write_files
from bsap.datamodules.files import dump_yaml
from bsap.errors import ConfigError, check_names
from bsap.reports.formats import json_text
from bsap.reports.run_table import COUNTS
from bsap.reports.terminal import percent
from bsap.reports.text import cell, say
from bsap.runs.saved import SavedRun
from bsap.scoring import AnswerRule, Scorer
from bsap.scoring.answers import WITHOUT_REGION_BANK, Over
from bsap.sweep.sweep import Row, Sweep, scorer_spec
from bsap.sweep.thresholds import SetOutcomes, set_outcomes

CURVE = 20
"""Points of the curves of accuracy over coverage that are written."""


def sweep_thresholds(options: argparse.Namespace, saved: SavedRun, scorers: Mapping[str, Scorer], output: Path) -> str:
    """Choose thresholds on one split, report them on another, write both and a configuration.

    Returns:
        The split that they were chosen on.
    """
    model = saved.settings["model"]
    check_names("value to set a threshold over", options.threshold, get_args(Over))
    banks, aggregates = options.banks or [model["bank"]], options.aggregate or [model["aggregate"]]
    if len(banks) > 1 or len(aggregates) > 1:
        raise ConfigError("--threshold takes one bank and one --aggregate. Choose them first, without --threshold.")
    selected_on = options.select_on or saved.settings["data"].get("split", "val")
    sweep = Sweep(saved, split=options.select_on, sets=True)
    setting = (options, scorers, banks[0], aggregates[0])
    found = _outcomes(sweep, *setting)
    chosen = {key: outcomes.choose(options.choose, model["tasks"]) for key, outcomes in found.items()}
    keys = sorted(found, key=lambda key: -chosen[key][1])
    rows = [_row(key, chosen[key][0], found[key], model["tasks"]) for key in keys]
    document = {"run": str(options.run), "selected_on": selected_on, "choose": options.choose, "rows": rows}
    console = Console()
    console.width = max(console.width, 120)  # a narrow terminal folds lines, but no number is cut
    console.print(_table(rows[: options.rows], f"{selected_on}: the thresholds with the best {options.choose}"))
    if options.report_on is not None:
        others = _outcomes(Sweep(saved, split=options.report_on, sets=True), *setting)
        reported = [_row(key, chosen[key][0], others[key], model["tasks"]) for key in keys]
        document |= {"reported_on": options.report_on, "report": reported}
        console.print(_table(reported[: options.rows], f"{options.report_on}: the thresholds chosen on {selected_on}"))
    best = rows[0]
    rule = AnswerRule("threshold", best["threshold"], best["over"], nms=AnswerRule.of(model.get("answer", "top")).nms)
    spec = scorer_spec(scorers[best["scorer"]], best["scorer"])
    row = Row(best["scorer"], spec, banks[0], False, aggregates[0], {})
    config = sweep.config(row, split=options.report_on)
    config["model"]["answer"] = asdict(rule)
    write_files(output, {"thresholds.json": json_text(document), "best.yaml": dump_yaml(config)})
    say(f"Written to {output}/ (thresholds.json, best.yaml)")
    return str(selected_on)


def _outcomes(
    sweep: Sweep, options: argparse.Namespace, scorers: Mapping[str, Scorer], bank: str, aggregate: Any
) -> dict[Any, SetOutcomes]:
    model = sweep.settings["model"]
    loaded = sweep.bank(bank, scorers, seed=model["bank_seed"])
    others = [f"--threshold {over}" for over in options.threshold if over not in WITHOUT_REGION_BANK]
    sweep.fit(scorers, loaded, others)
    nms = AnswerRule.of(model.get("answer", "top")).nms
    found = set_outcomes(sweep.split, scorers, loaded, options.threshold, aggregate=aggregate, nms=nms)
    sweep.split.ensemble.flush()
    return dict(found)


def _row(key: tuple[str, Any], threshold: float, outcomes: SetOutcomes, tasks: Sequence[str]) -> dict[str, Any]:
    coverage, accuracy = outcomes.curve(tasks)
    places = np.linspace(0, len(coverage) - 1, min(CURVE, len(coverage))).round().astype(int)
    return {
        "scorer": key[0],
        "over": key[1],
        "threshold": threshold,
        "metrics": outcomes.rejecting(tasks) | outcomes.at(threshold, tasks),
        "accuracy_over_coverage": [[coverage[n], accuracy[n]] for n in places],
    }


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    names = [name for name in rows[0]["metrics"] if name.rpartition("/")[2] not in COUNTS]
    shown = {name.rpartition("/")[2]: name for name in names}  # N-acc and T-acc are the same for both tasks
    table = Table(title=cell(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("scorer", "over", "threshold", *shown):
        table.add_column(name, justify="left" if name in ("scorer", "over") else "right", no_wrap=True)
    for row in rows:
        values = [percent(row["metrics"][name]) for name in shown.values()]
        table.add_row(cell(row["scorer"]), row["over"], f"{row['threshold']:.4g}", *values)
    return table
