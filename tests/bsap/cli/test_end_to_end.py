"""`bsap test` on the planted world, where every choice and every metric is known by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsap.cli import main
from support.planted import Planted

# The chosen region of each of the eight expressions, by hand; None: the picture has no proposal.
CLIP = [0, 0, 1, 0, None, 1, 1, 1]
BSAP = [0, 0, 1, 1, None, 1, 1, 1]
INTERSECTION = {"clip": [400, 400, 200, 0, 0, 768, 768, 0], "bsap": [400, 400, 200, 200, 0, 768, 768, 0]}
UNION = {"clip": [400, 400, 400, 300, 100, 1024, 1024, 1088], "bsap": [400, 400, 400, 200, 100, 1024, 1024, 1088]}
METRICS = {
    "rec": {
        "clip": {"acc@0.5": 5 / 8, "n": 8, "missing": 1},
        "bsap": {"acc@0.5": 6 / 8, "n": 8, "missing": 1},
    },
    "ris": {
        "clip": {
            "oIoU": 2536 / 4736, "mIoU": 4 / 8, "Pr@0.5": 5 / 8, "Pr@0.6": 4 / 8, "Pr@0.7": 4 / 8, "Pr@0.8": 2 / 8,
            "Pr@0.9": 2 / 8, "n": 8, "missing": 1,
        },
        "bsap": {
            "oIoU": 2736 / 4636, "mIoU": 5 / 8, "Pr@0.5": 6 / 8, "Pr@0.6": 5 / 8, "Pr@0.7": 5 / 8, "Pr@0.8": 3 / 8,
            "Pr@0.9": 3 / 8, "n": 8, "missing": 1,
        },
    },
}  # fmt: skip
for rows in METRICS.values():
    rows["bsap_h"] = rows["bsap"]


def write(config: dict[str, Any], folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def check(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert results["metrics"] == METRICS
    assert results["counts"] | {"seen": 8, "selected": 8, "no_proposals": 1} == results["counts"]
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"refcoco/unc/val/{key}" for key in range(8)]
    for scorer, choices in (("clip", CLIP), ("bsap", BSAP), ("bsap_h", BSAP)):
        rows = [record["scorers"][scorer] for record in records]
        assert [row["region"] for row in rows] == choices
        base = "clip" if scorer == "clip" else "bsap"
        assert [row["intersection"] for row in rows] == INTERSECTION[base]
        assert [row["union"] for row in rows] == UNION[base]
    assert not (folder / "parts").exists()
    return results


def test_every_metric_is_as_planted(planted: Planted, tmp_path: Path) -> None:
    config = planted.config(run={"root": str(tmp_path), "name": "one"})
    assert main(["test", "-c", str(write(config, tmp_path))]) == 0
    results = check(tmp_path / "one")
    assert results["counts"]["published"] == 10834
    assert results["complete"] is False, "eight expressions are not the published split"
    assert results["models"][0]["tau"] == pytest.approx(10.0)
    assert len(results["models"][0]["weights_sha256"]) == 64


def test_two_processes_give_the_same(planted: Planted, tmp_path: Path) -> None:
    config = planted.config(run={"root": str(tmp_path), "name": "two"}, trainer={"devices": 2})
    command = [sys.executable, "-m", "bsap", "test", "-c", str(write(config, tmp_path))]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert check(tmp_path / "two")["timing"]["processes"] == 2


def test_strict_hit_rule(planted: Planted, tmp_path: Path) -> None:
    config = planted.config(run={"root": str(tmp_path), "name": "strict"}, model={"strict": True, "tasks": ["rec"]})
    assert main(["test", "-c", str(write(config, tmp_path))]) == 0
    metrics = json.loads((tmp_path / "strict" / "results.json").read_text())["metrics"]
    assert metrics["rec"]["clip"]["acc@0.5"] == 4 / 8
    assert metrics["rec"]["bsap"]["acc@0.5"] == 5 / 8


def test_config_of_a_run_runs_again(planted: Planted, tmp_path: Path) -> None:
    config = planted.config(run={"root": str(tmp_path / "a"), "name": "first"})
    assert main(["test", "-c", str(write(config, tmp_path))]) == 0
    saved = tmp_path / "a" / "first" / "config.yaml"
    assert main(["test", "-c", str(saved), "--run.root", str(tmp_path / "b")]) == 0
    check(tmp_path / "b" / "first")
