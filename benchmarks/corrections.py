"""Every scorer, transform and view on the drawn world of `bsap demo`: what each gains over plain CLIP, and its cost.

    python benchmarks/corrections.py
    python benchmarks/corrections.py --proposals ground_truth --bank colours
    python benchmarks/corrections.py --passes --encoder ViT-B-32-quickgelu

Prints Markdown. Plain CLIP is the crop with the scorer `clip`. Gains are in points of Acc@0.5, with 95 % intervals of a
paired bootstrap over pictures. Times are seconds of one CPU core, as ratios to plain CLIP in the same run: for scorers
and transforms from stored features to choices, for views the drawing and encoding of all regions. `--passes` measures
one picture instead: the dense view beside crops, by the number of regions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsap import Encoder, EncoderConfig
from bsap.analysis.bootstrap import bootstrap_interval
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.batch import collate
from bsap.datamodules.picture_files import scene_picture
from bsap.demo.dataset import DATASET, SPLIT_BY, make_demo_root
from bsap.features.ensemble import Ensemble
from bsap.features.region_bank import RegionBankConfig, draw_region_bank
from bsap.features.transforms import TRANSFORMS
from bsap.prompts.banks import load_bank
from bsap.scoring import NAMED_SCORERS, SCORERS
from bsap.sweep.stored_split import StoredSplit
from bsap.views import FALIP, VIEWS, Crop, GlobalLocal

OWN = {"global_local": GlobalLocal(block=2), "falip": FALIP(block=2)}
"""The demo's model has 4 blocks: these views start at the third."""
FIRST = ("clip", "bsap")
"""The scorers that transforms and views are shown with."""


class World:
    """The drawn world's test split, and what plain CLIP gets right of it."""

    def __init__(self, options: argparse.Namespace, store: Path) -> None:
        path = None if options.proposals == "ground_truth" else f"{DATASET}/{options.proposals}.json"
        config = ProposalConfig(options.proposals, path=path)
        data = RefCOCODataModule(
            str(make_demo_root()), config, dataset=DATASET, split_by=SPLIT_BY, split="test", limit=options.limit
        )
        data.setup("test")
        self.scenes, self.store, self.options = data.scenes, store, options
        self.encoder, self.bank = Encoder("demo"), load_bank(options.bank, split_texts=data.texts)
        train = data.load_split("train", unfiltered=True)
        self.others = draw_region_bank(train, RegionBankConfig(size=options.size))
        every = RegionBankConfig("test", size=None)
        self.every = draw_region_bank(data.load_split("test", unfiltered=True), every, same_split=True)
        self.pictures = [scene_picture(scene) for scene in self.scenes]

    def encode(self, view: Any) -> float:
        """Store the features of a view; the seconds of drawing and encoding."""
        ensemble = Ensemble([self.encoder], [view], store=self.store)
        started = time.process_time()
        for start in range(0, len(self.scenes), 8):
            part = slice(start, start + 8)
            ensemble.regions(collate(list(zip(self.scenes[part], self.pictures[part], strict=True))))
        took = time.process_time() - started
        ensemble.keep()
        ensemble.flush()
        return took

    def hits(self, view: Any, names: Iterable[str], transform: Any = None) -> dict[str, tuple[np.ndarray, float]]:
        """For each scorer whether each expression's choice is right, and the seconds from features to choices."""
        ensemble = Ensemble([self.encoder], [view], store=self.store, transform=transform)
        split = StoredSplit(self.scenes, ensemble, ["rec"])
        found = {}
        for name in names:
            scorer = SCORERS[name]
            others = self.every if scorer.needs_whole_split else self.others
            learnt = transform is not None and transform.needs_region_bank
            ensemble.fit(self.bank, others if scorer.needs_region_bank or learnt else None)
            if not scorer.needs_region_bank:
                ensemble.region_bank = None
            times = []
            for _ in range(self.options.repeats):
                started = time.process_time()
                choices = [scorer(similarities).choice for _, similarities in split.similarities(self.bank)]
                times.append(time.process_time() - started)
            right = [
                (part.iou.gather(-1, choice[..., None])[..., 0] >= 0.5)[part.real]
                for part, choice in zip(split.parts, choices, strict=True)
            ]
            found[name] = torch.cat(right).numpy(), statistics.median(times)
        self.pictures_of = [scene.image_id for part in split.parts for scene in part.scenes for _ in scene.expressions]
        return found


def rows(world: World) -> None:
    """Print all three tables."""
    world.encode(Crop(margin=0.1))  # the first pictures are slower
    crop = world.encode(VIEWS["crop"])
    world.hits(VIEWS["crop"], FIRST)  # encodes the texts, which all share
    found = world.hits(VIEWS["crop"], [named.name for named in NAMED_SCORERS])
    plain, base = found["clip"]

    def row(name: str, right: np.ndarray, ratio: float) -> str:
        gain = bootstrap_interval(plain, right, world.pictures_of)
        shown = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in gain))
        return f"| `{name}` | {100 * right.mean():.1f} | {shown} | {ratio:.2f} |"

    count = sum(len(scene.proposals) for scene in world.scenes)
    print(
        f"{len(plain)} expressions, {len(world.scenes)} pictures, {count} regions ({world.options.proposals}); bank "
        f"`{world.options.bank}`; region bank of {len(world.others)} regions of `train`. Plain CLIP: "
        f"{100 * plain.mean():.1f}; {1e3 * base / len(plain):.3f} ms from stored features to the choice of an "
        f"expression, {1e3 * crop / count:.1f} ms to draw and encode a region.\n"
    )
    header = "| Acc@0.5 | gain over plain CLIP | time |\n|---|--:|--:|--:|"
    print(f"| scorer {header}")
    for name, (right, took) in found.items():
        print(row(name, right, took / base))
    print(f"\n| transform, scorer {header}")
    for name, transform in TRANSFORMS.items():
        for scorer, (right, took) in world.hits(VIEWS["crop"], FIRST, transform).items():
            print(row(f"{name}, {scorer}", right, took / base))
    print(f"\n| view, scorer {header}")
    for name, view in VIEWS.items():
        took = crop if name == "crop" else world.encode(OWN.get(name, view))
        for scorer, (right, _) in world.hits(OWN.get(name, view), FIRST).items():
            print(row(f"{name}, {scorer}", right, took / crop))


def passes(options: argparse.Namespace) -> None:
    """Print what one picture costs by the dense view and by crops."""
    config = "demo" if options.encoder == "demo" else EncoderConfig(options.encoder, random_init=True)
    encoder, seen = Encoder(config), []
    encoder.model.visual.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8, generator=generator)
    print(
        f"{encoder.label}, {encoder.size[0]} pixels, on a CPU with {torch.get_num_threads()} thread; one picture of "
        "640 x 480.\n\n| regions | pictures through the tower: crop | dense | seconds: crop | dense | ratio |"
    )
    print("|--:|--:|--:|--:|--:|--:|")
    for count in (10, 50, 500):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([500.0, 340.0])
        boxes = torch.cat([corner, corner + 40 + 100 * torch.rand(count, 2, generator=generator)], dim=1)
        shown = {}
        for name in ("crop", "dense"):
            times = []
            for _ in range(options.repeats):
                seen.clear()
                started = time.process_time()
                VIEWS[name].features(encoder, [picture], [boxes], [None])
                times.append(time.process_time() - started)
            shown[name] = sum(seen), statistics.median(times)
        (crops, slow), (once, fast) = shown["crop"], shown["dense"]
        print(f"| {count} | {crops} | {once} | {slow:.3f} | {fast:.3f} | {slow / fast:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", choices=["masks", "ground_truth"], default="masks")
    parser.add_argument("--bank", default="coco_categories")
    parser.add_argument("--size", type=int, default=1000, help="regions of the region bank")
    parser.add_argument("--limit", type=int, help="evaluate only so many expressions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--passes", action="store_true", help="measure the dense view beside crops instead")
    parser.add_argument("--encoder", default="demo", help="for --passes: demo, or an open_clip architecture")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with torch.inference_mode():
        if options.passes:
            passes(options)
        else:
            with tempfile.TemporaryDirectory() as store:
                rows(World(options, Path(store)))


if __name__ == "__main__":
    main()
