"""The main job on the embedded world: all scorers, three kinds of proposals, three banks, one table and one picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from PIL import Image
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
from bsap.reports.scene_picture import contact_sheet, draw_scene
from bsap.runs.records import read_predictions
from bsap.runs.schema import Record, Task
from bsap.runs.settings import RunConfig

BANKS = ("coco_categories", "colours", "generic")
SCORERS = ("clip", "bsap", "bsap_h")
PROPOSALS: dict[str, tuple[ProposalConfig, tuple[Task, ...]]] = {
    "ground truth": (ProposalConfig("ground_truth"), ("rec", "ris")),
    "detections": (ProposalConfig("detections", path=f"{DATASET}/detections.json"), ("rec",)),
    "masks": (ProposalConfig("masks", path=f"{DATASET}/masks.json"), ("ris",)),
}


@dataclass(frozen=True)
class Run:
    """One evaluation and what came of it."""

    proposals: str
    bank: str
    folder: Path
    results: dict[str, Any]
    records: list[Record]
    data: RefCOCODataModule


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
    folder = runs / name
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Run(proposals, bank, folder, results, read_predictions(folder / "predictions.jsonl"), data)


def gain(run: Run, scorer: str) -> Interval | None:
    """What a scorer gains over CLIP in Acc@0.5 (or, without boxes, in IoU), with a bootstrap interval over scenes."""
    if not run.records:
        return None

    def value(record: Record, name: str) -> float:
        row = record["scorers"][name]
        if "rec" in run.results["metrics"]:
            return float(row["region"] is not None and row["box_iou"] >= 0.5)
        return float(row["intersection"] / row["union"])

    return bootstrap_interval(
        [value(record, "clip") for record in run.records],
        [value(record, scorer) for record in run.records],
        [record["image_id"] for record in run.records],
    )


def table(runs: Sequence[Run]) -> Table:
    """All results: a row for each kind of proposals, scorer and bank."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in ("proposals", "scorer", "bank"):
        rows.add_column(name, no_wrap=True)
    for name in ("REC\nAcc@0.5", "RIS\noIoU", "RIS\nmIoU", "gain over CLIP\n\\[95 % interval]"):
        rows.add_column(name, justify="right", no_wrap=True)
    for proposals in dict.fromkeys(run.proposals for run in runs):
        rows.add_section()
        for number, run in enumerate(run for run in runs if run.proposals == proposals):
            for scorer in SCORERS:
                if scorer == "clip" and number:
                    continue
                metrics = [
                    _percent(run.results, task, scorer, name)
                    for task, name in (("rec", "acc@0.5"), ("ris", "oIoU"), ("ris", "mIoU"))
                ]
                found = None if scorer == "clip" else gain(run, scorer)
                shown = "" if found is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in found))
                first = not number and scorer == "clip"
                rows.add_row(proposals if first else "", scorer, "" if scorer == "clip" else run.bank, *metrics, shown)
    return rows


def _percent(results: dict[str, Any], task: str, scorer: str, name: str) -> str:
    value = results["metrics"].get(task, {}).get(scorer, {}).get(name)
    return "" if value is None else f"{100 * value:.2f}"


def disagreements(run: Run, root: Path, *, count: int = 9) -> Image.Image | None:
    """A contact sheet of expressions for which scorers choose different boxes, spread over the split."""
    scenes = {scene.image_id: scene for scene in run.data.scenes}
    found = [
        record for record in run.records if len({row["region"] for row in record["scorers"].values()}) > 1
    ]  # fmt: skip
    if not found:
        return None
    drawn = []
    for record in found[:: max(1, len(found) // count)][:count]:
        scene = scenes[record["image_id"]]
        rows = record["scorers"]
        with Image.open(scene.path) as picture:
            drawn.append(
                draw_scene(
                    picture,
                    boxes=scene.proposals.boxes,
                    referent=record["referent"]["boxes"],
                    choices={name: row["region"] for name, row in rows.items() if row["region"] is not None},
                    hits={name: row["box_iou"] >= 0.5 for name, row in rows.items()},
                    title=record["text"],
                )
            )
    return contact_sheet(drawn)


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
    console.print(
        f"Gains: REC's Acc@0.5 where there are boxes to hit, else RIS's IoU; bootstrap over {counts['scenes']} scenes, "
        f"{counts['seen']} expressions.",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"Prompts with words that the tiny model never saw: {_unseen()}.", soft_wrap=True, highlight=False)
    if rejected:
        none, known = rejected[0].expressions
        console.print(rejection_table(rejected))
        console.print(
            f"Rejecting {none} sentences that mean nothing in their picture among {known} that mean one or several "
            f"objects; ground truth, bank {BANK}, thresholds chosen on val, bootstrap over scenes.",
            soft_wrap=True,
            highlight=False,
        )
    sheet = disagreements(next(run for run in runs if run.proposals == "detections"), root)
    if sheet is not None:
        sheet.save(output / "disagreements.png")
        console.print(f"Where scorers disagree: {output / 'disagreements.png'}", soft_wrap=True, highlight=False)
    console.print(f"Run folders: {output}/", soft_wrap=True, highlight=False)
    console.print(
        "This is a drawn world and a tiny model trained on it: a demonstration and a test bed, no benchmark.",
        soft_wrap=True,
    )
    return runs
