"""The demo's test on 1, 2, 3, 4 and 7 processes: how long, and whether the result is the same.

    python benchmarks/processes.py
    python benchmarks/processes.py --processes 1 2 8 --scenes 200

Prints the table of docs/cluster.md. Every row is one `bsap test`, which starts its own processes; ``loop`` is the test
itself, ``all`` includes starting the processes and loading the model in each of them. Scores are compared with those of
the first row; ``choices`` counts other choices of any scorer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bsap.demo.dataset import make_demo_root
from bsap.runs.records import read_predictions

COMPARED = ("metrics", "counts", "breakdown", "complete", "partial", "protocol", "models")


def evaluate(root: Path, runs: Path, processes: int) -> tuple[float, dict[str, Any], list[dict[str, Any]]]:
    """One run: seconds, results and records."""
    config = {
        "trainer": {"accelerator": "cpu", "devices": processes, "default_root_dir": str(runs)},
        "data": {
            "root": str(root),
            "dataset": "demo",
            "split_by": "drawn",
            "split": "test",
            "num_workers": 0,
            "proposals": {"source": "masks", "path": "demo/masks.json"},
        },
        # Stored features would serve every run after the first.
        "model": {"tasks": ["rec", "ris"], "encoders": [{"name": "demo"}], "views": ["crop"], "store": None},
        "run": {"root": str(runs), "name": str(processes), "breakdown": ["category", "words", "distractors"]},
    }
    file = runs / f"{processes}.yaml"
    file.write_text(yaml.safe_dump(config))
    start = time.perf_counter()
    command = [sys.executable, "-m", "bsap", "test", "-c", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - start
    results = json.loads((runs / str(processes) / "results.json").read_text(encoding="utf-8"))
    return seconds, results, read_predictions(runs / str(processes) / "predictions.jsonl")


def compare(records: list[dict[str, Any]], first: list[dict[str, Any]]) -> tuple[int, float]:
    """Number of other choices, and the greatest difference of a score."""
    other, greatest = 0, 0.0
    for mine, theirs in zip(records, first, strict=True):
        assert mine["id"] == theirs["id"]
        for name, row in mine["scorers"].items():
            other += row["region"] != theirs["scorers"][name]["region"]
            greatest = max(greatest, abs((row["score"] or 0.0) - (theirs["scorers"][name]["score"] or 0.0)))
    return other, greatest


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3, 4, 7])
    parser.add_argument("--scenes", type=int, default=100)
    options = parser.parse_args()
    print(
        "| processes | s, loop | s, all | Acc@0.5, BSAP | oIoU, BSAP | metrics and counts | choices | scores within |"
    )
    print("|---:|---:|---:|---:|---:|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        root = make_demo_root(Path(folder), sizes={"test": options.scenes})
        first: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
        for processes in options.processes:
            seconds, results, records = evaluate(root, Path(folder), processes)
            first = first or (results, records)
            same = all(results[key] == first[0][key] for key in COMPARED)
            other, greatest = compare(records, first[1])
            rec, ris = (results["metrics"][task]["bsap"] for task in ("rec", "ris"))
            cells = [
                str(processes),
                f"{results['timing']['seconds']:.1f}",
                f"{seconds:.1f}",
                repr(rec["acc@0.5"]),
                repr(ris["oIoU"]),
                "the same" if same else "DIFFER",
                str(other),
                f"{greatest:.0e}" if greatest else "0",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
