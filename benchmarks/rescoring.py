"""Seconds to score stored features of the size of RefCOCO's val split, and to sweep 200 settings over them.

    python benchmarks/rescoring.py

Features are random unit vectors; what is measured does not look at their values. Prints JSON: seconds of imports, of
reading the annotations, of three scorers for REC and for RIS from the store, and of the sweep: the first time and the
median of the repeats. The first time, RIS also computes the intersections of masks, which the store keeps from then on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

START = time.perf_counter()

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import yaml  # noqa: E402
from pycocotools import mask as coco_mask  # noqa: E402
from world import boxes_in, sentence  # noqa: E402

from bsap.cli.progress import quiet  # noqa: E402
from bsap.features.cache import FeatureCache  # noqa: E402
from bsap.features.stored_model import StoredModel  # noqa: E402
from bsap.prompts.banks import load_bank  # noqa: E402
from bsap.runs.saved import SavedRun  # noqa: E402
from bsap.sweep.sweep import Sweep, scorer_grid  # noqa: E402
from bsap.views import make_view  # noqa: E402
from bsap.views.packing import default_pack  # noqa: E402

IMPORTS = time.perf_counter() - START
SCENES, REGIONS, EXPRESSIONS, WIDTH = 1500, 10, 10834, 512


def make_run(folder: Path, task: str) -> SavedRun:
    """Write annotations, stand-ins for pictures and stored features; the run that would have stored them."""
    import pickle

    rng = np.random.default_rng(0)
    root = folder / "refer"
    (root / "refcoco").mkdir(parents=True)
    (root / "images" / "train2014").mkdir(parents=True)
    images, annotations, refs, found = [], [], [], []
    texts: list[str] = []
    for number in range(SCENES):
        name = f"COCO_train2014_{number:012d}.jpg"
        (root / "images" / "train2014" / name).write_bytes(name.encode())
        images.append({"id": number, "file_name": name, "width": 640, "height": 480})
        boxes = boxes_in(rng, REGIONS, 640, 480)
        for box in boxes.tolist():
            row: dict[str, Any] = {"image_id": number, "bbox": box, "score": 0.9, "category_id": 1}
            if task == "ris":
                row["segmentation"] = rectangle(box)
            found.append(row)
        # Seven or eight sentences over three referents, as val has.
        count = EXPRESSIONS // SCENES + (number < EXPRESSIONS % SCENES)
        for part in np.array_split(np.arange(count), 3):
            ann = len(annotations)
            box = boxes[len(annotations) % REGIONS].tolist()
            annotations.append(
                {
                    "id": ann, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0,
                    "segmentation": rectangle(box) if task == "ris" else [],
                }
            )  # fmt: skip
            sentences = []
            for _ in part:
                texts.append(sentence(rng))
                key = len(texts)
                sentences.append({"raw": texts[-1], "sent": texts[-1], "sent_id": key, "tokens": texts[-1].split()})
            refs.append(
                {
                    "ref_id": ann, "ann_id": ann, "category_id": 1, "file_name": name, "image_id": number,
                    "split": "val", "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences,
                }
            )  # fmt: skip
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(document))
    (root / "proposals.json").write_text(json.dumps(found))

    model = {
        "label": "stand-in", "weights_sha256": "0" * 64, "architecture_sha256": "",
        "quickgelu": True, "context_length": 77, "size": [224, 224],
        "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "dim": WIDTH, "tau": 100.0,
    }  # fmt: skip
    settings = {
        "data": {
            "root": str(root), "dataset": "refcoco", "split": "val",
            "proposals": {"source": "masks" if task == "ris" else "detections", "path": str(root / "proposals.json")},
        },
        "model": {
            "tasks": [task], "encoders": [{"name": "stand-in"}], "views": ["crop"], "resize": "squash",
            "templates": {"query": "a photo of {}", "bank": "a photo of {}"}, "bank": str(folder / "bank.yaml"),
            "bank_seed": 0, "scorers": ["clip", "bsap", "bsap_h"], "aggregate": "before", "strict": False,
            "store": str(folder / "features"),
        },
    }  # fmt: skip
    bank = {"name": "hundred", "source": "the benchmark", "prompts": [f"thing number {i}" for i in range(100)]}
    (folder / "bank.yaml").write_text(yaml.safe_dump(bank))
    results: Any = {  # what a sweep asks for
        "metrics": {task: {"clip": {"n": EXPRESSIONS}}},
        "counts": {"seen": EXPRESSIONS, "selected": EXPRESSIONS, "published": EXPRESSIONS, "skipped": 0},
        "protocol": {
            "dataset": "refcoco", "split_by": "unc", "split": "val", "proposals": {}, "hit": "IoU >= 0.5",
            "bank": None, "encoders": settings["model"]["encoders"], "views": ["crop"],
        },
        "settings": settings, "models": [model], "complete": True,
        "precision": {"effective": "32-true"}, "partial": False, "transductive": False,
        "timing": {"attempts": [{}]},
    }  # fmt: skip
    store_features(folder, settings, model, [*texts, *bank["prompts"]])
    return SavedRun(folder, settings, results)


def rectangle(box: list[float]) -> dict[str, Any]:
    """RLE of a box, as JSON has it."""
    x, y, w, h = box
    (rle,) = coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], 480, 640)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def store_features(folder: Path, settings: dict[str, Any], model: dict[str, Any], texts: list[str]) -> None:
    """Random unit vectors under the keys that the sweep will ask for."""
    from bsap import RefCOCODataModule

    cache = FeatureCache(folder / "features", precision="32-true", resize="squash")
    identity, view = StoredModel.of(model, "demo"), make_view("crop")
    data = RefCOCODataModule(**settings["data"])
    data.setup("test")
    torch.manual_seed(0)
    for scene in data.scenes:
        key = cache.region_key(scene, identity, view, default_pack(identity.device))
        cache.store.put(key, F.normalize(torch.randn(REGIONS, WIDTH), dim=-1))
    for text in dict.fromkeys(texts):
        cache.store.put(cache.text_key(f"a photo of {text}", identity), F.normalize(torch.randn(WIDTH), dim=-1))
    for bank in ("coco_categories", "generic", "colours", "positions"):
        for prompt in load_bank(bank).prompts:
            cache.store.put(cache.text_key(f"a photo of {prompt}", identity), F.normalize(torch.randn(WIDTH), dim=-1))
    cache.flush()


def measure(task: str, repeats: int) -> dict[str, Any]:
    """Seconds, the first and the median of a few."""
    from bsap import RefCOCODataModule

    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        run = make_run(Path(name), task)
        for _ in range(repeats):
            start = time.perf_counter()
            data = RefCOCODataModule(**run.settings["data"])
            data.setup("test")
            read = time.perf_counter() - start
            start = time.perf_counter()
            sweep = Sweep(run)
            rows = list(
                sweep.rows(scorer_grid(["clip", "bsap", "bsap_h"]), [run.settings["model"]["bank"]], ["before"])
            )
            assert len(rows) == 3
            assert all(row.metrics[f"{task}/n"] == EXPRESSIONS for row in rows)
            both = time.perf_counter() - start
            start = time.perf_counter()
            grid = scorer_grid(["bsap", "bsap_h"], taus=[1, 2, 5, 10, 20, 50, 200], lams=[0.2, 0.4, 0.6, 0.8])
            banks = [run.settings["model"]["bank"], "coco_categories", "generic", "colours", "positions"]
            settings = len(list(sweep.rows(grid, banks, ["before"])))
            swept = time.perf_counter() - start
            found = {
                "read_annotations": read,
                "score_three": both - read,
                "sweep": swept,
                "sweep_200": swept * 200 / settings,
            }
            for key, value in found.items():
                times.setdefault(key, []).append(value)
    rounded = {
        key: {"first": round(values[0], 2), "median": round(statistics.median(values), 2)}
        for key, values in times.items()
    }
    return {"settings_swept": settings, **rounded}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    quiet()
    report = {
        "what": {"scenes": SCENES, "regions": REGIONS, "expressions": EXPRESSIONS, "prompts": 100, "width": WIDTH},
        "cores": torch.get_num_threads(),
        "seconds": {"imports": round(IMPORTS, 2), **{task: measure(task, options.repeats) for task in ("rec", "ris")}},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
