"""Sweeping over stored features gives what running gives."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from bsap.cli import main
from bsap.errors import DataError
from bsap.models.encoder import Encoder
from bsap.runs.saved import read_run
from bsap.sweep.sweep import Sweep, scorer_grid
from support.planted import Planted


@pytest.fixture(scope="module")
def stored(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its features stored."""
    folder = tmp_path_factory.mktemp("stored")
    config = planted.config(
        run={"root": str(folder), "name": "run"}, model={"store": "auto", "views": ["crop", "blur"]}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(folder / "config.yaml")]) == 0
    return folder / "run"


def results(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "results.json").read_text())["metrics"]
    return metrics


def test_sweep_equals_the_run(stored: Path) -> None:
    sweep = Sweep(read_run(stored))
    model = read_run(stored).settings["model"]
    rows = list(sweep.rows(scorer_grid(["clip", "bsap", "bsap_h"]), [model["bank"]], ["before"]))
    expected = results(stored)
    assert len(rows) == 3
    for row in rows:
        assert row.metrics == {f"{t}/{k}": v for t, scorers in expected.items() for k, v in scorers[row.scorer].items()}


@pytest.mark.parametrize(
    ("bank", "aggregate"),
    [
        *product(("generic", "captions", "scene"), ("before", "after")),
        ("negated", "before"),
        ("dropped_words", "after"),
    ],
)
def test_sweep_of_another_bank_equals_its_own_run(stored: Path, tmp_path: Path, bank: str, aggregate: str) -> None:
    (row,) = Sweep(read_run(stored)).rows(scorer_grid(["bsap_h_product"]), [bank], [aggregate])
    flags = ["--model.bank", bank, "--model.aggregate", aggregate, "--model.scorers", "[bsap_h_product]"]
    where = ["--run.root", str(tmp_path), "--run.name", "r", "--model.store", "null"]
    assert main(["test", "-c", str(stored / "config.yaml"), *flags, *where]) == 0
    expected = results(tmp_path / "r")
    assert row.metrics == {f"{t}/{k}": v for t, s in expected.items() for k, v in s["bsap_h_product"].items()}


def test_texts_are_encoded_in_the_precision_of_the_run(planted: Planted, tmp_path: Path) -> None:
    """They are kept under that precision, for runs to find."""
    config = planted.config(
        run={"root": str(tmp_path), "name": "run"},
        model={"store": "auto", "encoders": [{"name": "demo"}]},
        trainer={"precision": "bf16-mixed"},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    sweep = Sweep(read_run(tmp_path / "run"))
    (swept,) = sweep.split.ensemble.members[0].texts.features(["a sentence of no run"])
    encoder = Encoder("demo")
    with torch.autocast("cpu", torch.bfloat16):
        (expected,) = encoder.encode_text(["a sentence of no run"])
    (exact,) = encoder.encode_text(["a sentence of no run"])
    assert torch.equal(swept, expected)
    assert not torch.equal(exact, expected)


def test_no_picture_is_opened_and_no_model_loaded(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *a, **k: pytest.fail("a picture was opened"))
    monkeypatch.setattr("bsap.features.stored_model.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    bank = read_run(stored).settings["model"]["bank"]
    assert len(list(Sweep(read_run(stored)).rows(scorer_grid(["clip", "bsap"]), [bank], ["before"]))) == 2


def test_a_second_run_opens_no_picture(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsap.datamodules.loader.scene_picture", lambda *a, **k: pytest.fail("a picture was opened"))
    flags = ["--run.root", str(tmp_path), "--model.store", str(stored.parent / "features"), "--run.name", "again"]
    assert main(["test", "-c", str(stored / "config.yaml"), *flags]) == 0
    assert results(tmp_path / "again") == results(stored)


def test_command_writes_table_rows_and_best(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    flags = ["--scorers", "clip", "bsap", "bsap_h", "--tau", "5", "50", "--lam", "0.3", "--output", str(output)]
    assert main(["sweep", str(stored), *flags]) == 0
    assert "chosen on" not in capsys.readouterr().err, "val is there to choose on"
    with (output / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    # clip; bsap at 3 temperatures; bsap_h at 3 temperatures and 2 weights
    assert len(rows) == 1 + 3 + 6
    values = [float(row["rec/acc@0.5"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert json.loads((output / "sweep.json").read_text())["selected_on"] == "val"
    where = ["--run.root", str(tmp_path), "--run.name", "best"]
    assert main(["test", "-c", str(output / "best.yaml"), *where]) == 0
    (scorer,) = results(tmp_path / "best")["rec"].values()
    assert scorer["acc@0.5"] == values[0]


def test_missing_features_say_how_to_make_them(stored: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    moved.mkdir()
    for name in ("config.yaml", "results.json", "predictions.jsonl"):
        (moved / name).write_bytes((stored / name).read_bytes())
    with pytest.raises(DataError, match=r"features, where .* is not there. Make them with `bsap test -c .*overwrite"):
        Sweep(read_run(moved))
    (tmp_path / "features").mkdir()
    with pytest.raises(DataError, match="Make them with `bsap test`"):
        Sweep(read_run(moved))
    assert not list((tmp_path / "features").iterdir())


def test_from_inside_of_the_run_folder(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stored)
    assert main(["sweep", ".", "--scorers", "clip", "--output", str(tmp_path / "out")]) == 0
    assert not (stored / "features").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_folder_whose_name_is_not_utf8(stored: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stored, tmp_path / os.fsdecode(b"run\xff"))
    shutil.copytree(stored.parent / "features", tmp_path / "features")
    assert main(["sweep", str(run), "--scorers", "clip", "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))["run"] == str(run)
    assert main(["explain", str(run), "--bank", "generic"]) == 0
    assert json.loads((run / "explain.json").read_text(encoding="utf-8"))["run"] == str(run)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--tau", "0"], "`tau`"), (["--tau", "nan"], "`tau`"), (["--lam", "2"], "`lam`"), (["--output", "FILE"], "FILE")],
)
def test_bad_settings_of_a_sweep(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (tmp_path / "FILE").touch()
    flags = [str(tmp_path / "FILE") if flag == "FILE" else flag for flag in flags]
    assert main(["sweep", str(stored), *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_splits_has_one_only(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ReCLIP's lines do not say their split: another name for the same lines is no other split."""
    line = {
        "file_name": "COCO_train2014_000000000001_1.png", "image_id": 1, "ann_id": 1, "width": 60, "height": 40,
        "anns": [{"id": 1, "bbox": [0, 0, 20, 20]}, {"id": 2, "bbox": [20, 0, 20, 20]}],
        "sentences": [{"raw": "red"}, {"raw": "green"}],
    }  # fmt: skip
    (tmp_path / "lines.jsonl").write_text(json.dumps(line) + "\n")
    config = planted.config(
        run={"root": str(tmp_path), "name": "run"}, model={"store": "auto", "tasks": ["rec"]},
        data={"annotations": str(tmp_path / "lines.jsonl"), "split": "testA", "proposals": {"source": "ground_truth"}},
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    capsys.readouterr()
    assert main(["sweep", str(tmp_path / "run"), "--select-on", "val", "--report-on", "testA"]) == 2
    assert "testA and val are the same expressions" in capsys.readouterr().err
    assert main(["sweep", str(tmp_path / "run"), "--report-on", "testA"]) == 0
    assert "tuning on the test split" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "sweep" / "sweep.json").read_text())["tuned_on_test"] is True
    assert "tuning on the test split" in (tmp_path / "run" / "sweep" / "best.yaml").read_text().splitlines()[0]


def test_unknown_metric(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(stored), "--metric", "rec/acc"]) == 2
    assert "rec/acc@0.5" in capsys.readouterr().err


def test_a_learned_bank_at_another_tau_is_told(stored: Path, tmp_path: Path) -> None:
    run = read_run(stored)
    (model,) = run.finished()["models"]
    save_file({"features": torch.eye(model["dim"])[:2]}, tmp_path / "bank.safetensors")
    meta = {"name": "mine", "model": model, "scorer": "bsap", "learned": {"tau": 3.0}}
    (tmp_path / "bank.json").write_text(json.dumps(meta))
    sweep, bank = Sweep(run), f"learned:{tmp_path}"
    with pytest.warns(UserWarning, match="learned with a tau or lam of its own"):
        list(sweep.rows(scorer_grid(["bsap"]), [bank], ["before"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(sweep.rows(scorer_grid(["bsap"], taus=[3.0]), [bank], ["before"]))
