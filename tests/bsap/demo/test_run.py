from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from PIL import Image

import bsap.demo.run as demo
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


def test_the_table_fits_a_terminal_and_says_what_it_is(done: tuple[Path, list[Run], str]) -> None:
    text = done[2]
    assert "…" not in text
    assert all(name in text for name in (*PROPOSALS, *BANKS, *SCORERS))
    assert "67 of 80 in coco_categories" in text
    assert "no benchmark" in text
