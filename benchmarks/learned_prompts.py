"""Hand-written banks against learned ones on the drawn world: REC and RIS, mean and spread over seeds.

    python benchmarks/learned_prompts.py --output learned_prompts.json

Everything is learned on the train split and chosen on the validation split; the test split is looked at once. Regions
are the simulated mask proposals. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from rich.table import Table

from bsap.banks import list_banks, load_bank
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.demo.dataset import DATASET, SPLIT_BY, make_demo_root
from bsap.encoder import Encoder, EncoderConfig
from bsap.feature_cache import FeatureCache, StoredTexts
from bsap.features import Member
from bsap.learning import LearningDataModule, PromptConfig, PromptLearner, TextConfig
from bsap.learning.regions import encode_regions
from bsap.progress import quiet
from bsap.run_folder import RunConfig
from bsap.scoring import make_scorer
from bsap.similarity import TextSide
from bsap.stored_split import StoredSplit
from bsap.text import Templates, TextCache
from bsap.views import make_view

MODES: dict[str, dict[str, Any]] = {
    "images": {},
    "text only": {"text_only": True},
    "text only, projected": {"text_only": True, "gap_expressions": 200},
}
METRICS = (("rec", "acc@0.5"), ("ris", "oIoU"), ("ris", "mIoU"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/learned_prompts"), help="runs and features")
    parser.add_argument("--output", type=Path, default=Path("learned_prompts.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train-scenes", type=int, default=3000)
    parser.add_argument("--test-scenes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--count", type=int, default=64, help="K auxiliary prompts")
    parser.add_argument("--length", type=int, default=4, help="n context vectors each")
    parser.add_argument("--lr", type=float, default=0.01)
    options = parser.parse_args()
    quiet()
    sizes = {"train": options.train_scenes, "val": options.train_scenes // 10, "test": options.test_scenes}
    root = make_demo_root(sizes=sizes)
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

    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for bank in list_banks():
        if not bank.transductive:
            for scorer, values in evaluate(split, load_bank(bank.name)).items():
                rows[scorer, "" if scorer == "clip" else bank.name] = [values]
    took: dict[str, list[float]] = {}
    for scorer in ("bsap", "bsap_h"):
        for mode in MODES:
            for seed in range(options.seeds):
                started = time.perf_counter()
                bank = learn(data, store, options, scorer=scorer, mode=mode, seed=seed)
                took.setdefault(f"{scorer}, {mode}", []).append(round(time.perf_counter() - started, 1))
                rows.setdefault((scorer, f"learned, {mode}"), []).append(evaluate(split, bank)[scorer])
                console.print(f"{scorer}, {mode}, seed {seed}: {took[f'{scorer}, {mode}'][-1]:.0f} s", highlight=False)
    console.print(table(rows))
    report = {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "learning_seconds": took,
        "rows": [
            {"scorer": scorer, "bank": bank, "seeds": len(runs)}
            | {name: summary(run[name] for run in runs) for name in runs[0]}
            for (scorer, bank), runs in rows.items()
        ],
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"Written to {options.output}; learning took {took} s", highlight=False, soft_wrap=True)


def prepare(data: dict[str, Any], store: Path) -> tuple[StoredSplit, float]:
    """Encode all splits once; gives back the test split."""
    started = time.perf_counter()
    encoder, view = Encoder("demo"), make_view("crop")
    cache = FeatureCache(store, precision="32-true", resize="squash")
    for name in ("train", "val", "test"):
        scenes = RefCOCODataModule(**data).load_split(name)
        encode_regions(scenes, [Member(encoder, view)], cache, resize="squash")
    texts = TextCache(StoredTexts(encoder, cache))
    side = TextSide(texts.features, Templates(), encoder.dim, encoder.tau)
    split = StoredSplit(scenes, models=[encoder], views=[view], sides=[side], cache=cache, tasks=["rec", "ris"])  # type: ignore[list-item]
    return split, time.perf_counter() - started


def evaluate(split: StoredSplit, bank: Any) -> dict[str, dict[str, float]]:
    scorers = {name: make_scorer(name) for name in ("clip", "bsap", "bsap_h")}
    found = split.evaluate(scorers, bank)
    return {name: {f"{task}/{metric}": found[task][name][metric] for task, metric in METRICS} for name in scorers}


def learn(data: dict[str, Any], store: Path, options: Any, *, scorer: str, mode: str, seed: int) -> Any:
    seed_everything(seed, verbose=False)
    name = f"{scorer}-{mode.replace(', ', '-').replace(' ', '_')}-{seed}"
    module = PromptLearner(
        encoders=[EncoderConfig("demo")],
        views=["crop"],
        scorer=scorer,
        prompts=PromptConfig(count=options.count, length=options.length),
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


def table(rows: dict[tuple[str, str], list[dict[str, float]]]) -> Table:
    shown = Table(title="test split, per cent; learned banks: mean ± standard deviation over seeds")
    for name in ("scorer", "bank", *(f"{task.upper()} {metric}" for task, metric in METRICS)):
        shown.add_column(name, no_wrap=True)
    for (scorer, bank), runs in sorted(rows.items(), key=lambda item: ("clip", "bsap", "bsap_h").index(item[0][0])):
        cells = []
        for task, metric in METRICS:
            values = summary(run[f"{task}/{metric}"] for run in runs)
            cells.append(f"{100 * values['mean']:.2f}" + (f" ± {100 * values['stdev']:.2f}" if len(runs) > 1 else ""))
        shown.add_row(scorer, bank, *cells)
    return shown


if __name__ == "__main__":
    main()
