"""``bsap score RUN``: compute the metrics again from saved predictions and compare them with the saved ones."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bsap.cli.arguments import Arguments, path_text
from bsap.reports.formats import json_text
from bsap.reports.run_table import TASKS
from bsap.reports.terminal import percent, results_table
from bsap.reports.text import cell, say
from bsap.runs.buckets import FIELDS
from bsap.runs.saved import read_run
from bsap.runs.schema import Metrics, Results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bsap.runs.rec_detail import Detail
    from bsap.runs.rescore import Rescored

DIFFERENT = 1
"""Exit status when the predictions do not give the numbers of ``results.json``."""

MAIN = {"rec": ("acc@0.5", "Pr@F1", "N-acc", "T-acc"), "ris": ("oIoU", "mIoU", "gIoU", "cIoU")}
"""The metrics that a breakdown shows in a table; JSON has all."""


def run(argv: list[str]) -> int:
    """Print the metrics of a run's predictions."""
    parser = Arguments(
        "bsap score",
        "Compute a run's metrics again from predictions.jsonl, without a model, and compare them with results.json bit "
        f"for bit. The exit status is {DIFFERENT} if they differ.",
    )
    parser.add("RUN", "the run folder")
    parser.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        help="count a REC hit with IoU > 0.5 (--strict) or with IoU >= 0.5 (--no-strict); by default as in the run",
    )
    parser.add(
        "--breakdown FIELD...", f"also show the metrics for each value of {', '.join(FIELDS)}; by default as in the run"
    )
    parser.add(
        "--detail [SIZES]",
        "also show REC accuracy at IoU 0.5, 0.75, 0.9 and its mean over 0.5, 0.55, ..., 0.95: for all referents, by "
        "their size, and averaged over their classes. Objects are small below 128 and large above 256 pixels, the "
        "square root of the area (ref_l4, the default), or below 32 and above 96 (coco)",
        const="ref_l4",
        choices=["ref_l4", "coco"],
    )
    parser.add(
        "--review FILE",
        "also show the metrics with and without the label errors that Ref-L4's review of RefCOCO, RefCOCO+ or RefCOCOg "
        "found: its file DATASET_SPLIT_reviewed.json",
    )
    parser.add(
        "--answer RULE",
        "answer by another rule and show the metrics of sets: top, or '{rule: threshold, value: 0.5, over: p}' as for "
        "`model.answer`. A threshold needs a run with `--run.all_scores true`. Reads the run's data, no pictures",
    )
    parser.add(
        "--variant",
        "where answers are sets: compute N-acc and T-acc of masks (rela_code), or match boxes (grec_code), as the "
        "released code does",
        "paper",
        choices=["paper", "rela_code", "grec_code"],
    )
    parser.add("--root FOLDER", "for --answer: the root of the data, if it has moved", type=path_text)
    parser.add("--format", "form of the output", "table", choices=["table", "json"])
    options = parser.parse_args(argv[1:])

    from bsap.runs.rescore import rescore

    rule = scene_of = None
    if options.answer is not None:
        from bsap.datamodules.files import parse_yaml
        from bsap.reports.shown_run import ShownRun
        from bsap.scoring import AnswerRule

        rule = AnswerRule.of(parse_yaml(options.answer, "--answer"))
        scene_of = ShownRun(options.run, root=options.root).scene
    scored = rescore(
        options.run,
        strict=options.strict,
        breakdown=options.breakdown,
        sizes=options.detail,
        review=options.review,
        answer=rule,
        scene_of=scene_of,
        variant=options.variant,
    )
    results = read_run(options.run).results
    if options.format == "json":
        print(json_text(report(scored)), end="")
    else:
        _print(scored, results)
    return DIFFERENT if scored.differences else 0


def report(scored: Rescored) -> dict[str, Any]:
    """What ``--format json`` prints."""
    return {
        "run": str(scored.folder),
        "hit": _hit(scored),
        "equal": None if scored.differences is None else not scored.differences,
        "uncompared": scored.uncompared,
        "differences": scored.differences or [],
        "metrics": scored.metrics,
        "counts": scored.counts,
        "breakdown": scored.breakdown,
    } | ({} if scored.detail is None else {"detail": scored.detail})


def _hit(scored: Rescored) -> str:
    return "IoU > 0.5" if scored.strict else "IoU >= 0.5"


def _print(scored: Rescored, results: Results | None) -> None:
    console = Console()
    title = f"{scored.folder}" + (f", a hit is {_hit(scored)}" if "rec" in scored.metrics else "")
    console.print(results_table(scored.metrics, title=title))
    for field, groups in scored.breakdown.items():
        console.print(breakdown_table(field, groups))
    if scored.detail is not None:
        console.print(detail_table(scored.detail))
    counts = scored.counts
    line = f"{counts['seen']} expressions, {counts['no_proposals']} without proposals, {counts['no_mask']} without mask"
    if results is not None:
        total = results["counts"]
        state = "complete" if results["complete"] else "partial" if results["partial"] else "incomplete"
        published = "" if total["published"] is None else f", {total['published']} published"
        line += f"; {total['selected']} selected, {total['skipped']} skipped{published}: {state}"
    lines = [line]
    if scored.differences is None:
        lines.append(f"Not compared with results.json: {scored.uncompared}.")
    elif scored.differences:
        lines.append(f"The predictions do NOT give the numbers of results.json, in {len(scored.differences)} places:")
        lines += [f"  {difference}" for difference in scored.differences]
    else:
        lines.append("Equal to results.json, bit for bit.")
    for line in lines:
        say(line)


def detail_table(detail: Mapping[str, Detail]) -> Table:
    """One row for each group of referents and scorer; ``n`` of the class average counts classes."""
    table = Table("referents", "scorer", title="REC in detail", title_justify="left")
    groups = next(iter(detail.values()))
    names = list(next(iter(groups.values())))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        for number, (scorer, rows) in enumerate(detail.items()):
            values = [str(value) if name == "n" else percent(value) for name, value in rows[group].items()]
            table.add_row("" if number else group, cell(scorer), *values)
        table.add_section()
    return table


def breakdown_table(field: str, groups: dict[str, Metrics]) -> Table:
    """One row for each bucket and scorer, with the main metrics."""
    table = Table(field, "scorer", title=f"by {field}", title_justify="left")
    first = next(iter(groups.values()), {})
    tasks = [task for task in MAIN if task in first]
    shown = {task: [name for name in MAIN[task] if name in next(iter(first[task].values()))] for task in tasks}
    for task in tasks:
        for name in (*shown[task], "n"):
            table.add_column(f"{TASKS[task]}\n{name}", justify="right", no_wrap=True)
    for bucket, metrics in groups.items():
        for number, scorer in enumerate(next(iter(metrics.values()))):
            rows = [(task, metrics[task][scorer]) for task in tasks]
            cells = [c for task, row in rows for c in (*(percent(row[name]) for name in shown[task]), str(row["n"]))]
            table.add_row(cell("" if number else bucket), cell(scorer), *cells)
        table.add_section()
    return table
