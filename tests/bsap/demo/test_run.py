from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

import bsap.demo.run as demo
from bsap.cli import main
from bsap.demo.rejecting import rejections
from bsap.demo.run import BANKS, PROPOSALS, SCORERS, Run, gain, run_demo


@pytest.fixture(scope="module")
def done(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run], str]:
    output = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(demo, "make_demo_root", lambda cache: demo_root)
        patch.setenv("COLUMNS", "80")
        runs = run_demo(output)
    return output, runs, printed.getvalue()


def test_every_bank_is_tried_on_every_kind_of_proposals(done: tuple[Path, list[Run], str]) -> None:
    output, runs, _ = done
    assert [(run.proposals, run.bank) for run in runs] == [(p, b) for p in PROPOSALS for b in BANKS]
    for run in runs:
        assert run.results["complete"]
        assert list(run.records[0]["scorers"]) == list(SCORERS)
        assert (run.folder / "predictions.jsonl").exists()
    with Image.open(output / "disagreements.png") as sheet:
        assert sheet.width > 400


def test_clip_does_not_depend_on_the_bank(done: tuple[Path, list[Run], str]) -> None:
    for proposals in PROPOSALS:
        choices = [
            [record["scorers"]["clip"]["region"] for record in run.records]
            for run in done[1]
            if run.proposals == proposals
        ]
        assert choices == [choices[0]] * len(BANKS)


def test_the_gain_is_the_difference_of_the_metrics(done: tuple[Path, list[Run], str]) -> None:
    for run in done[1]:
        task, metric = ("rec", "acc@0.5") if "rec" in run.results["metrics"] else ("ris", "mIoU")
        values = run.results["metrics"][task]
        found = gain(run, "bsap")
        assert found is not None
        assert found.difference == pytest.approx(values["bsap"][metric] - values["clip"][metric], abs=1e-9)
        assert found.low <= found.difference <= found.high


def test_the_demos_ground_truth_is_easier_than_its_detections(done: tuple[Path, list[Run], str]) -> None:
    rec = {run.proposals: run.results["metrics"].get("rec", {}) for run in done[1]}
    assert rec["ground truth"]["clip"]["acc@0.5"] > rec["detections"]["clip"]["acc@0.5"] > 0.3


@pytest.mark.parametrize("place", [1, 4])
def test_rejecting_is_what_a_run_with_that_threshold_gives(
    done: tuple[Path, list[Run], str], demo_root: Path, tmp_path: Path, place: int
) -> None:
    row = rejections(demo_root, done[0] / "features")[place]
    flags = {
        "data.root": demo_root, "data.dataset": "demo", "data.split_by": "sets", "data.split": "test",
        "data.proposals.source": "ground_truth", "data.num_workers": 0, "model.encoders": "demo", "model.views": "crop",
        "model.scorers": row.scorer, "model.answer.rule": "threshold", "model.answer.value": row.threshold,
        "model.answer.over": row.over, "model.region_bank.split": "train", "model.region_bank.size": 400,
        "run.root": tmp_path, "run.name": "run", "trainer.accelerator": "cpu",
    }  # fmt: skip
    assert main(["test", *(f"--{key}={value}" for key, value in flags.items())]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]["rec"][row.scorer]
    for name in ("N-acc", "T-acc"):
        value, low, high = row.measures[name]
        assert value == pytest.approx(found[name], abs=1e-12)
        assert low <= value <= high
    assert sum(row.expressions) == found["n"]
    assert f"Rejecting {row.expressions[0]} sentences" in done[2]


def test_the_table_fits_a_terminal_and_says_what_it_is(done: tuple[Path, list[Run], str]) -> None:
    text = done[2]
    assert "…" not in text
    assert all(name in text for name in (*PROPOSALS, *BANKS, *SCORERS))
    assert "67 of 80 in coco_categories" in text
    assert "no benchmark" in text
