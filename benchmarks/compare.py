"""Seconds to compare two runs of the size of RefCOCO's val split with 10,000 resamples.

    python benchmarks/compare.py

Writes the predictions of two runs over the same expressions, with hits and overlaps that the expressions of a picture
share in part, and times ``bsap compare`` in a process of its own, as a user starts it, and the statistics alone. Prints
JSON: the median of the repeats, for REC (one metric), RIS (seven) and both, and for both in groups of words.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from world import sentence

from bsap.analysis.comparison import compare_sides, read_sides
from bsap.runs.saved import read_run

PICTURES, EXPRESSIONS, RESAMPLES = 1500, 10_834, 10_000
RIS = ("oIoU", "mIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9")
METRICS = {"rec": ("acc@0.5",), "ris": RIS}


def write_run(folder: Path, *, seed: int) -> None:
    """The files of a finished run: only what a comparison reads is more than a stand-in."""
    rng, texts = np.random.default_rng(seed), np.random.default_rng(0)
    level = np.random.default_rng(1).beta(2, 2, PICTURES)
    lines = []
    for number in range(EXPRESSIONS):
        picture, text = number * PICTURES // EXPRESSIONS, sentence(texts)
        share = float(np.clip(level[picture] + rng.normal(0, 0.3), 0, 1))
        union = 10_000 + number
        choice = {"region": 1, "score": 0.5, "box": [0.0, 0.0, 9.0, 9.0]}
        choice |= {"box_iou": share, "intersection": round(share * union), "union": union}
        record = {
            "id": f"refcoco/unc/val/{number}", "picture": f"{picture}.jpg", "image_id": str(picture), "text": text,
            "n_regions": 10, "status": "ok", "category": "object", "text_cut": False, "words": len(text.split()),
            "distractors": number % 4, "scorers": {"clip": choice},
            "referent": {"id": str(number // 3), "ann_ids": ["1"], "boxes": [[0.0, 0.0, 9.0, 9.0]], "areas": [81]},
        }  # fmt: skip
        lines.append(json.dumps(record) + "\n")
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(lines))
    values = {"n": EXPRESSIONS, "missing": 0}
    results: dict[str, Any] = {
        "metrics": {task: {"clip": {**dict.fromkeys(names, 0.5), **values}} for task, names in METRICS.items()},
        "settings": {"seed_everything": 0, "trainer": {}, "data": {}, "model": {"strict": False}},
        "counts": dict.fromkeys(
            ("seen", "selected", "published", "no_proposals", "no_mask", "skipped", "texts_cut", "scenes", "regions"), 0
        ),
        "protocol": {
            "dataset": "refcoco", "split_by": "unc", "split": "val", "proposals": {}, "hit": "IoU >= 0.5", "bank": None,
            "encoders": [], "views": [],
        },
        "complete": True, "partial": False, "transductive": False, "selection": {}, "models": [], "versions": {},
        "precision": {"requested": "32-true", "effective": "32-true"},
        "timing": {"seconds": 0.0, "resumed_expressions": 0, "attempts": [], "processes": 1, "device": "cpu"},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    read_run(folder)


def seconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """The median of a few: seconds on the clock, and of processors, which a busy machine changes less."""
    found: dict[str, list[float]] = {"clock": [], "processors": []}
    for _ in range(repeats):
        before = os.times()
        call()
        clock = os.times().elapsed - before.elapsed
        found["clock"].append(clock)
        found["processors"].append(sum(os.times()[:4]) - sum(before[:4]))
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    report: dict[str, Any] = {"expressions": EXPRESSIONS, "pictures": PICTURES, "resamples": RESAMPLES}
    with tempfile.TemporaryDirectory() as name:
        a, b = (Path(name) / run for run in "ab")
        write_run(a, seed=2)
        write_run(b, seed=3)
        command = [sys.executable, "-m", "bsap", "compare", str(a), str(b)]
        tasks = {"rec": ["rec/acc@0.5"], "ris": [f"ris/{metric}" for metric in RIS], "both": []}
        for task, metrics in tasks.items():
            chosen = [*command, *(["--metrics", *metrics] if metrics else [])]
            report[f"command, {task}"] = seconds(
                lambda chosen=chosen: subprocess.run(chosen, check=True, capture_output=True), options.repeats
            )
        by_words = [*command, "--by", "words"]
        report["command, both, by words"] = seconds(
            lambda: subprocess.run(by_words, check=True, capture_output=True), options.repeats
        )
        ((one, other),) = read_sides(str(a), str(b))
        report["statistics, both"] = seconds(lambda: compare_sides(one, other, resamples=RESAMPLES), options.repeats)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
