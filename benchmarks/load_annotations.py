"""Seconds and peak memory of loading a full-size REFER root, drawn at random in RefCOCO's proportions.

Usage: python benchmarks/load_annotations.py [--refs 50000] [--pictures 20000] [--split train] [--no-masks]

Prints one line of JSON. The loading runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ["man", "woman", "left", "right", "red", "blue", "shirt", "dog", "standing", "behind", "the", "with", "white"]
SPLITS = ["train"] * 85 + ["val"] * 7 + ["testA"] * 4 + ["testB"] * 4


def write_root(root: Path, *, refs: int, pictures: int, objects: int = 10, sentences: float = 2.84) -> None:
    """Write ``refcoco/refs(unc).p``, ``refcoco/instances.json`` and empty picture files."""
    rng = random.Random(0)
    names = [f"COCO_train2014_{n:012d}.jpg" for n in range(pictures)]
    images = [{"id": n, "file_name": name, "width": 640, "height": 480} for n, name in enumerate(names)]
    annotations = [annotation(rng, n, n // objects) for n in range(pictures * objects)]
    ref_list, sent_id = [], 0
    for n in range(refs):
        ann_id = n * len(annotations) // refs
        image_id = ann_id // objects
        count = rng.choice([2, 3, 3, 3, 3]) + (rng.random() < sentences - 2.8)
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(count)]
        ref_list.append(
            {
                "sent_ids": list(range(sent_id, sent_id + count)),
                "file_name": f"{names[image_id][:-4]}_{ann_id}.jpg",
                "ann_id": ann_id,
                "ref_id": n,
                "image_id": image_id,
                "split": SPLITS[image_id % len(SPLITS)],
                "sentences": [
                    {"tokens": text.split(), "raw": text, "sent_id": sent_id + i, "sent": text}
                    for i, text in enumerate(texts)
                ],
                "category_id": 1 + ann_id % 80,
            }
        )
        sent_id += count
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(ref_list, protocol=2))
    categories = [{"id": n, "name": f"category {n}", "supercategory": "thing"} for n in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    stored = root / "images" / "train2014"
    stored.mkdir(parents=True)
    for name in names:
        (stored / name).touch()


def annotation(rng: random.Random, n: int, image_id: int) -> dict[str, object]:
    """One object with a polygon of COCO's usual length."""
    x, y, w, h = rng.uniform(0, 400), rng.uniform(0, 300), rng.uniform(20, 200), rng.uniform(20, 150)
    corners = rng.randint(8, 60)
    polygon = []
    for corner in range(corners):
        angle, radius = 2 * math.pi * corner / corners, rng.uniform(0.35, 0.5)
        polygon += [
            round(x + w * (0.5 + radius * math.cos(angle)), 2),
            round(y + h * (0.5 + radius * math.sin(angle)), 2),
        ]
    return {
        "id": n,
        "image_id": image_id,
        "category_id": 1 + n % 80,
        "bbox": [round(v, 2) for v in (x, y, w, h)],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [polygon],
    }


def load(root: str, split: str, masks: bool) -> dict[str, object]:
    """Set up a data module and say what that took."""
    started = time.perf_counter()
    from bsap.datamodules.proposals import ProposalConfig
    from bsap.datamodules.refcoco import RefCOCODataModule

    imported = time.perf_counter()
    cpu, before = time.process_time(), peak_mib()
    data = RefCOCODataModule(root, ProposalConfig("ground_truth"), split=split, masks=masks)
    data.setup("test")
    return {
        "split": split,
        "masks": masks,
        "expressions": data.summary.selected,
        "pictures": data.summary.scenes,
        "regions": data.summary.regions,
        "seconds": round(time.perf_counter() - imported, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "seconds_importing": round(imported - started, 2),
        "peak_mib": peak_mib(),
        "peak_mib_after_importing": before,
    }


def peak_mib() -> int:
    """Peak memory of this process alone: getrusage's figure would include the parent's at the time of forking."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Write the root, load it elsewhere, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--refs", type=int, default=50_000)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--masks", action=argparse.BooleanOptionalAction, default=True, help="whether all masks are encoded, too"
    )
    parser.add_argument("--root", help="a root to load instead of a drawn one")
    parser.add_argument("--loading", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loading:
        print(json.dumps(load(args.root, args.split, args.masks)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = args.root
        if root is None:
            root = folder
            write_root(Path(folder), refs=args.refs, pictures=args.pictures)
        command = [sys.executable, __file__, "--loading", "--root", root, "--split", args.split]
        command += ["--masks" if args.masks else "--no-masks"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sizes = {p.name: round(p.stat().st_size / 2**20, 1) for p in Path(root).glob("refcoco/*")}
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({"refs": args.refs, "pictures_annotated": args.pictures, "mib": sizes, **found, "cores": cores}))


if __name__ == "__main__":
    main()
