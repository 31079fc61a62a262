"""The main job on the embedded world: all scorers, three kinds of proposals, three banks, one table and one picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bsap.analysis.bootstrap import Interval, bootstrap_interval
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.demo.dataset import DATASET, SPLIT_BY, make_demo_root
from bsap.demo.rejecting import BANK, rejection_table, rejections
from bsap.demo.vocabulary import unseen_words
from bsap.models.encoder import EncoderConfig
from bsap.module import BSAPModule
from bsap.prompts.banks import load_bank
from bsap.reports.draw_choices import draw_sheet
from bsap.reports.shown_run import ShownRun, overlap_of, spread
from bsap.reports.terminal import percent
from bsap.reports.text import say
from bsap.runs.schema import Task
from bsap.runs.settings import RunConfig

BANKS = ("coco_categories", "colours", "generic")
SCORERS = ("clip", "bsap", "bsap_h")
SHOWN = 9
"""Expressions on the sheet of disagreements."""
PROPOSALS: dict[str, tuple[ProposalConfig, tuple[Task, ...]]] = {
    "ground truth": (ProposalConfig("ground_truth"), ("rec", "ris")),
    "detections": (ProposalConfig("detections", path=f"{DATASET}/detections.json"), ("rec",)),
    "masks": (ProposalConfig("masks", path=f"{DATASET}/masks.json"), ("ris",)),
}


class Run(ShownRun):
    """One evaluation, with the proposals and the bank that it used."""

    def __init__(self, folder: Path, proposals: str, bank: str) -> None:
        super().__init__(folder)
        self.proposals, self.bank = proposals, bank


def evaluate(root: Path, proposals: str, bank: str, *, runs: Path, limit: int | None) -> Run:
    """Test on the drawn world exactly as one would on RefCOCO."""
    config, tasks = PROPOSALS[proposals]
    data = RefCOCODataModule(str(root), config, dataset=DATASET, split_by=SPLIT_BY, split="test", limit=limit)
    name = f"{proposals.replace(' ', '_')}-{bank}" + (f"-{limit}" if limit else "")
    model = BSAPModule(
        tasks=tasks,
        encoders=[EncoderConfig(name="demo")],
        views=["crop"],
        bank=bank,
        scorers=SCORERS,
        run=RunConfig(root=str(runs), name=name, overwrite=True, all_scores=True),
    )
    trainer = Trainer(
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=runs / name,
    )
    trainer.test(model, data, verbose=False)
    return Run(runs / name, proposals, bank)


def gain(run: Run, scorer: str) -> Interval:
    """What a scorer gains over CLIP in Acc@0.5 (or, without boxes, in IoU), with a bootstrap interval over scenes."""

    def values(name: str) -> list[float]:
        if "rec" in run.tasks:
            return [float(run.hit(record, name) or 0) for record in run.records]
        return [overlap_of(record["scorers"][name]) or 0.0 for record in run.records]

    return bootstrap_interval(values("clip"), values(scorer), [record["image_id"] for record in run.records])


def table(runs: Sequence[Run]) -> Table:
    """All results: a row for each kind of proposals, scorer and bank."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in ("proposals", "scorer", "bank"):
        rows.add_column(name, no_wrap=True)
    for name in ("REC\nAcc@0.5", "RIS\noIoU", "RIS\nmIoU", "gain over CLIP\n\\[95 % interval]"):
        rows.add_column(name, justify="right", no_wrap=True)
    above = ""
    for run in runs:
        metrics = run.results["metrics"]
        if run.proposals != above:
            rows.add_section()
        for scorer in SCORERS:
            shown = [
                percent(metrics[task][scorer][name]) if task in metrics else ""
                for task, name in (("rec", "acc@0.5"), ("ris", "oIoU"), ("ris", "mIoU"))
            ]
            if scorer != "clip":
                points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in gain(run, scorer)))
                rows.add_row("", scorer, run.bank, *shown, points)
            elif run.proposals != above:  # CLIP does not depend on the bank
                rows.add_row(run.proposals, scorer, "", *shown, "")
        above = run.proposals
    return rows


def _unseen() -> str:
    """For each bank, how many of its prompts are partly noise to the demo's model."""
    banks = {name: load_bank(name).prompts for name in BANKS}
    unknown = {name: sum(bool(unseen_words([prompt])) for prompt in prompts) for name, prompts in banks.items()}
    return ", ".join(f"{unknown[name]} of {len(prompts)} in {name}" for name, prompts in banks.items())


def run_demo(output: Path, *, limit: int | None = None, cache: Path | None = None) -> list[Run]:
    """Draw the world, evaluate, print one table, write one contact sheet.

    Args:
        output: where run folders and the sheet are written.
        limit: evaluate only so many expressions.
        cache: where the drawn scenes are kept; ``$BSAP_CACHE`` or ``~/.cache/bsap`` if None.
    """
    root = make_demo_root(cache)
    jobs = [(proposals, bank) for proposals in PROPOSALS for bank in BANKS]
    progress = track(jobs, "evaluating", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    # The model is so small that threads would spend more time waiting for each other than computing.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [evaluate(root, proposals, bank, runs=output, limit=limit) for proposals, bank in progress]
        rejected = rejections(root, output / "features", limit=limit)
    finally:
        torch.set_num_threads(threads)
    console = Console()
    console.print(table(runs))
    counts = runs[0].results["counts"]
    say(
        f"Gains: REC's Acc@0.5 where there are boxes to hit, else RIS's IoU; bootstrap over {counts['scenes']} scenes, "
        f"{counts['seen']} expressions."
    )
    say(f"Prompts with words that the tiny model never saw: {_unseen()}.")
    if rejected:
        none, known = rejected[0].expressions
        console.print(rejection_table(rejected))
        say(
            f"Rejecting {none} sentences that mean nothing in their picture among {known} that mean one or several "
            f"objects; ground truth, bank {BANK}, thresholds chosen on val, bootstrap over scenes."
        )
    detections = next(run for run in runs if run.proposals == "detections")
    if differ := detections.select(disagree=True):
        draw_sheet(detections, spread(differ, SHOWN)).save(output / "disagreements.png")
        say(f"Where scorers disagree: {output / 'disagreements.png'}")
    say(f"Run folders: {output}/")
    say("This is a drawn world and a tiny model trained on it: a demonstration and a test bed, no benchmark.")
    return runs
