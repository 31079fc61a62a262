"""Hand-written banks against learned ones on the drawn world: REC and RIS, mean and spread over seeds.

    python benchmarks/learned_prompts.py --output learned_prompts.json

Everything is learned on the train split. The best epoch and the number of prompts (`--count 16 64`) are chosen on the
validation split, the number by its mean accuracy over seeds; only banks of the chosen number see the test split. That
holds for one call: if you look at the table and call again with other settings, you have chosen on the test split, and
and need another one (`--world`).

A learned bank is compared with what is best without learning on the test split itself, of all scorers and of its own,
for each metric. The intervals are paired bootstraps over scenes, at the mean over seeds: what another draw of scenes
could change. The standard deviation is over seeds: what other starting points and batches could change. Regions are the
simulated mask proposals. Prints tables and writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bsap.analysis.bootstrap import Interval, bootstrap_interval
from bsap.cli.progress import quiet
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.demo.dataset import DATASET, SPLIT_BY, make_demo_root
from bsap.features.ensemble import Ensemble
from bsap.learning import LearningDataModule, PromptConfig, PromptLearner, TextConfig
from bsap.learning.scene_features import encode_regions
from bsap.models.encoder import Encoder, EncoderConfig
from bsap.prompts.banks import list_banks, load_bank
from bsap.runs.settings import RunConfig
from bsap.scoring import make_scorer
from bsap.sweep.stored_split import StoredSplit
from bsap.views import make_view

MODES: dict[str, dict[str, Any]] = {
    "images": {},
    "text only": {"text_only": True},
    "text only, projected": {"text_only": True, "gap_expressions": 200},
}
METRICS = ("rec acc@0.5", "ris oIoU", "ris mIoU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/learned_prompts"), help="runs and features")
    parser.add_argument("--output", type=Path, default=Path("learned_prompts.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--world", type=int, default=0, help="seed of the drawn scenes: another, other scenes")
    parser.add_argument("--train-scenes", type=int, default=3000)
    parser.add_argument("--val-scenes", type=int, default=300)
    parser.add_argument("--test-scenes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--count", type=int, nargs="+", default=[16, 64], help="K auxiliary prompts to choose from")
    parser.add_argument("--length", type=int, default=4, help="n context vectors each")
    parser.add_argument("--lr", type=float, default=0.01)
    options = parser.parse_args()
    quiet()
    sizes = {"train": options.train_scenes, "val": options.val_scenes, "test": options.test_scenes}
    root = make_demo_root(seed=options.world, sizes=sizes)
    data: dict[str, Any] = {
        "root": str(root),
        "proposals": ProposalConfig("masks", path=f"{DATASET}/masks.json"),
        "dataset": DATASET,
        "split_by": SPLIT_BY,
    }
    store = options.folder / "features"
    split, seconds = prepare(data, store)
    console = Console(width=120)
    console.print(f"region features of all splits in {seconds:.0f} s", highlight=False)

    chosen: dict[tuple[str, str], list[Any]] = {}
    validation: list[dict[str, Any]] = []
    took: dict[str, float] = {}
    for scorer in ("bsap", "bsap_h"):
        for mode in MODES:
            found: dict[int, list[Any]] = {}
            for count in options.count:
                started = time.perf_counter()
                found[count] = [
                    learn(data, store, options, scorer=scorer, mode=mode, count=count, seed=seed)
                    for seed in range(options.seeds)
                ]
                each = (time.perf_counter() - started) / options.seeds
                took[f"{scorer}, {mode}, {count}"] = round(each, 1)
                values = summary(bank.meta["val"] for bank in found[count])
                validation.append({"scorer": scorer, "mode": mode, "count": count} | values)
                console.print(f"{scorer}, {mode}, {count} prompts: validation {shown(values)}, {each:.0f} s a bank")
            best = max(options.count, key=lambda k: statistics.fmean(bank.meta["val"] for bank in found[k]))
            chosen[scorer, mode] = found[best]
            console.print(f"{scorer}, {mode}: {best} prompts are chosen", highlight=False)

    rows: dict[tuple[str, str], list[Outcome]] = {}
    for bank in list_banks():
        if not bank.transductive:
            for scorer in ("clip", "bsap", "bsap_h"):
                name = "" if scorer == "clip" else bank.name
                rows.setdefault((scorer, name), [Outcome(split, scorer, load_bank(bank.name))])
    hand_written = dict(rows)
    for (scorer, mode), banks in chosen.items():
        name = f"learned, {mode}, {len(banks[0].features)}"
        rows[scorer, name] = [Outcome(split, scorer, bank) for bank in banks]
    console.print(table(rows))
    differences = compare(rows, {key: found for key, (found,) in hand_written.items()})
    console.print(difference_table(differences))
    report = {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "learning_seconds": took,
        "validation": validation,
        "rows": [
            {"scorer": scorer, "bank": bank, "seeds": len(runs)}
            | {metric: summary(run.value(metric) for run in runs) for metric in METRICS}
            for (scorer, bank), runs in rows.items()
        ],
        "differences": differences,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"Written to {options.output}; learning took {took} s a bank", highlight=False, soft_wrap=True)


def prepare(data: dict[str, Any], store: Path) -> tuple[StoredSplit, float]:
    """Encode all splits once; returns the test split."""
    started = time.perf_counter()
    ensemble = Ensemble([Encoder("demo")], [make_view("crop")], store=store)
    for name in ("train", "val", "test"):
        scenes = RefCOCODataModule(**data).load_split(name)
        encode_regions(scenes, ensemble)
    return StoredSplit(scenes, ensemble, ["rec", "ris"]), time.perf_counter() - started


class Outcome:
    """What a scorer chose with a bank on the test split: its metrics, and for each expression what they are made of."""

    def __init__(self, split: StoredSplit, scorer: str, bank: Any) -> None:
        ranking = make_scorer(scorer)
        found = split.evaluate({scorer: ranking}, bank)
        self.metrics = {f"{task} {name}": found[task][scorer][name] for task, name in (m.split() for m in METRICS)}
        self.scenes = [scene.image_id for part in split.parts for scene in part.scenes for _ in scene.expressions]
        hits, pixels = [], []
        for part, similarities in split.similarities(bank):
            choice = ranking(similarities).choice.clamp(min=0)[..., None]
            hits.append((part.iou.gather(-1, choice)[..., 0] >= 0.5)[part.real])
            assert part.overlap is not None
            pixels.append(part.overlap.gather(-1, choice.expand(2, *choice.shape))[..., 0][:, part.real])
        self.hits = torch.cat(hits).double().numpy()
        self.intersections, self.unions = torch.cat(pixels, dim=1).double().numpy()

    def value(self, metric: str) -> float:
        """The metric."""
        return float(self.metrics[metric])

    def each(self, metric: str) -> NDArray[np.float64]:
        """(N,) what the metric is the mean of."""
        return self.hits if metric == "rec acc@0.5" else self.intersections / self.unions


def compare(
    rows: dict[tuple[str, str], list[Outcome]], hand_written: dict[tuple[str, str], Outcome]
) -> list[dict[str, Any]]:
    """Each learned bank against the best without learning, of all scorers and of its own."""
    found = []
    for (scorer, bank), runs in rows.items():
        if (scorer, bank) in hand_written:
            continue
        own = {key: outcome for key, outcome in hand_written.items() if key[0] == scorer}
        for metric in METRICS:
            for rival in sorted({best_of(hand_written, metric), best_of(own, metric)}):
                interval = gain(hand_written[rival], runs, metric)
                names = {"scorer": scorer, "bank": bank, "metric": metric, "rival": " ".join(rival)}
                found.append(names | interval._asdict())
    return found


def best_of(outcomes: dict[tuple[str, str], Outcome], metric: str) -> tuple[str, str]:
    return max(outcomes, key=lambda key: outcomes[key].value(metric))


def gain(rival: Outcome, runs: list[Outcome], metric: str) -> Interval:
    """What learned banks gain over a hand-written one, at the mean over seeds."""
    if metric == "ris oIoU":
        return overall_interval(rival, runs)
    mean = np.mean([run.each(metric) for run in runs], axis=0)
    return bootstrap_interval(rival.each(metric), mean, rival.scenes)


def overall_interval(rival: Outcome, runs: list[Outcome], *, n: int = 2000) -> Interval:
    """As ``bootstrap_interval``, for a ratio of sums: both sums are drawn again, scene by scene."""
    number = {scene: index for index, scene in enumerate(dict.fromkeys(rival.scenes))}
    scene = np.array([number[name] for name in rival.scenes])
    sums = [[np.bincount(scene, x) for x in (run.intersections, run.unions)] for run in (rival, *runs)]
    rng = np.random.default_rng(0)

    def change(drawn: NDArray[np.int64]) -> float:
        first, *others = (intersection[drawn].sum() / union[drawn].sum() for intersection, union in sums)
        return float(np.mean(others) - first)

    draws = [change(rng.integers(len(number), size=len(number))) for _ in range(n)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(change(np.arange(len(number))), float(low), float(high))


def learn(data: dict[str, Any], store: Path, options: Any, *, scorer: str, mode: str, count: int, seed: int) -> Any:
    seed_everything(seed, verbose=False)
    name = f"{scorer}-{mode.replace(', ', '-').replace(' ', '_')}-{count}-{seed}"
    module = PromptLearner(
        encoders=[EncoderConfig("demo")],
        views=["crop"],
        scorer=scorer,
        prompts=PromptConfig(count=count, length=options.length),
        text=TextConfig(gap="regions" if "projected" in mode else "none"),
        lr=options.lr,
        patience=options.epochs,
        run=RunConfig(root=str(options.folder), name=name, overwrite=True),
        store=str(store),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=options.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=options.folder,
    )
    trainer.fit(module, datamodule=LearningDataModule(**data, **MODES[mode], batch_size=32))
    return load_bank(f"learned:{options.folder / name / 'bank'}")


def summary(values: Iterable[float]) -> dict[str, float]:
    found = list(values)
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"mean": statistics.fmean(found), "stdev": spread, "min": min(found), "max": max(found)}


def shown(values: dict[str, float]) -> str:
    return f"{100 * values['mean']:.2f} ± {100 * values['stdev']:.2f}"


def table(rows: dict[tuple[str, str], list[Outcome]]) -> Table:
    made = Table(title="test split, per cent; learned banks: mean ± standard deviation over seeds")
    for name in ("scorer", "bank", *METRICS):
        made.add_column(name, no_wrap=True)
    for (scorer, bank), runs in sorted(rows.items(), key=lambda item: ("clip", "bsap", "bsap_h").index(item[0][0])):
        values = [summary(run.value(metric) for run in runs) for metric in METRICS]
        made.add_row(scorer, bank, *(shown(v) if len(runs) > 1 else f"{100 * v['mean']:.2f}" for v in values))
    return made


def difference_table(rows: list[dict[str, Any]]) -> Table:
    made = Table(title="test split, points: learned (mean over seeds) minus best without learning, 95 % over scenes")
    for name in ("scorer", "bank", "metric", "best without learning", "difference"):
        made.add_column(name, no_wrap=True)
    for row in rows:
        difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * row[key] for key in ("difference", "low", "high")))
        made.add_row(row["scorer"], row["bank"], row["metric"], row["rival"], escape(difference))
    return made


if __name__ == "__main__":
    main()
