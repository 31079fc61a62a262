"""Published numbers as rows beside those of runs, each with its source and with what was done differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

from bsap.reports.run_table import Row, Setting, metric_column, plain, short
from bsap.runs.saved import SavedRun


@dataclass(frozen=True)
class Published:
    """A method with its published numbers; ``configs/published.yaml`` describes the fields. Empty is not known."""

    name: str
    task: str
    source: str
    proposals: str
    results: dict[str, dict[str, float]]
    method: str
    expressible: str
    missing: str | None = None
    ground_truth: bool = False
    hit: str | None = None
    encoders: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)


def load_published() -> list[Published]:
    """The published numbers that the package ships."""
    text = files("bsap.configs").joinpath("published.yaml").read_text(encoding="utf-8")
    return [Published(**entry) for entry in yaml.safe_load(text)]


def published_rows(runs: Sequence[SavedRun], methods: Sequence[Published] | None = None) -> list[Row]:
    """Rows for the splits and tasks of some runs.

    Args:
        runs: finished runs, whose settings the rows are compared with.
        methods: by default those that the package ships.
    """
    methods = load_published() if methods is None else methods
    by_split: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        protocol = run.finished()["protocol"]
        split = "/".join((protocol["dataset"], protocol["split_by"], protocol["split"]))
        by_split.setdefault(split, []).append(run.finished())
    return [
        _row(method, split, [results for results in group if method.task in results["metrics"]])
        for split, group in by_split.items()
        for method in methods
        if split in method.results and any(method.task in results["metrics"] for results in group)
    ]


def _row(method: Published, split: str, group: Sequence[Mapping[str, Any]]) -> Row:
    known = {"proposals": method.proposals, "hit": method.hit, "model": method.encoders, "views": method.views}
    settings = {name: plain(value) for name, value in known.items() if value}
    settings["split"] = Setting(split, split.replace("/", " "))
    return Row(
        run=method.name,
        scorer="",
        settings=settings,
        metrics={metric_column(method.task, name): value for name, value in method.results[split].items()},
        marks=("ground_truth",) if method.ground_truth else (),
        source=method.source,
        differs=tuple(_differs(method, group)),
    )


def _differs(method: Published, group: Sequence[Mapping[str, Any]]) -> list[str]:
    """How a published number was made, where the runs beside it were made otherwise."""
    lines = [method.method]
    # Two files of detections are never known to be the same one; annotated objects are.
    if not (method.ground_truth and all(_source(results) == "ground_truth" for results in group)):
        lines.append(f"chooses among {method.proposals}")
    if method.task == "rec" and method.hit is None:
        lines.append("hit rule not stated")
    elif method.task == "rec" and any(results["protocol"]["hit"] != method.hit for results in group):
        lines.append(f"a hit is {method.hit}")
    if method.encoders and any(_encoders(results) != sorted(method.encoders) for results in group):
        lines.append(f"model {short(method.encoders)}")
    if method.views and any(results["protocol"]["views"] != method.views for results in group):
        lines.append(f"views {short(method.views)}")
    return lines


def _source(results: Mapping[str, Any]) -> str | None:
    return (results["protocol"]["proposals"] or {}).get("source")


def _encoders(results: Mapping[str, Any]) -> list[str]:
    return sorted(encoder["name"].removesuffix("-quickgelu") for encoder in results["protocol"]["encoders"])
