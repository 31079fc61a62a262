"""The command line: what is refused, how it is said, and what help looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsap.cli import main
from bsap.cli.entry import COMMANDS
from support.planted import Planted


def run(planted: Planted, tmp_path: Path, *flags: str, **changes: Any) -> int:
    path = tmp_path / "run.yaml"
    config = planted.config(run={"root": str(tmp_path / "runs"), "name": "r"}, **changes)
    path.write_text(yaml.safe_dump(config))
    return main(["test", "-c", str(path), *flags])


REFUSED = [
    (["--model.scorers", "[bsapp]"], "Unknown scorer 'bsapp'. Did you mean 'bsap'"),
    (["--model.bank", "colors"], "Unknown bank 'colors'. Did you mean 'colours'"),
    (["--model.views", "[crops]"], "Unknown view 'crops'. Did you mean 'crop'"),
    (["--data.split", "testC"], "testC"),
    (["--data.split_by", "umd"], "umd"),
    (["--data.dataset", "refcocoo"], "refcocoo"),
    (["--data.root", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--model.encoders", "[{name: 'local-dir:/nowhere'}]"], "/nowhere"),
    (["--model.encoders", "[{name: ViT-B-23, pretrained: openai}]"], "ViT-B-32"),
    (["--model.encoders", "[{nam: demo}]"], "'nam'"),
    (["--model.scorers", "[]"], "at least one scorer"),
    (["--model.scorers", "[clip, clip]"], "same name"),
    (["--model.views", "[crop, crop]"], "must differ"),
    (["--trainer.precision", "bf16-true"], "would round the boxes"),
    (["--trainer.precision", "16-true"], "would round the boxes"),
    (["--trainer.devices", "0"], "devices"),
    (["-c", "bsap:protocols/reclop.yaml"], "Did you mean 'protocols/reclip.yaml'"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_a_mistake_is_one_clear_error(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run(planted, tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs/*/results.json"))


@pytest.mark.parametrize("flag", ["--model.scorer=[clip]", "--data.spilt=val", "--run.nam=x", "--nonsense=1"])
def test_an_unknown_key_is_an_error(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(planted, tmp_path, flag)
    assert stopped.value.code == 2
    assert flag.split("=")[0].split(".")[-1].lstrip("-") in capsys.readouterr().err


def test_an_empty_bank_is_refused(planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = tmp_path / "empty.yaml"
    bank.write_text("name: empty\nsource: a test\nprompts: []\n")
    assert run(planted, tmp_path, "--model.bank", str(bank)) == 2
    assert "empty.yaml" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_left_alone(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "thesis.tex").write_text("mine")
    assert run(planted, tmp_path) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert (tmp_path / "runs" / "r" / "thesis.tex").read_text() == "mine"


def test_nan_box_in_the_proposals_is_refused(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(planted.proposals.read_text())
    rows[3]["bbox"][2] = float("nan")
    path = tmp_path / "nan.json"
    path.write_text(json.dumps(rows))
    assert run(planted, tmp_path, "--data.proposals.path", str(path)) == 2
    assert "nan.json" in capsys.readouterr().err


def test_ris_on_boxes_is_refused(planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{key: value for key, value in row.items() if key != "segmentation"} for row in _rows(planted)]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    assert run(planted, tmp_path, "--data.proposals.path", str(path)) == 2
    assert "boxes only" in capsys.readouterr().err


def test_a_list_of_encoders_replaces_an_earlier_one(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings of an encoder in an earlier file do not leak into another encoder at the same place of the list."""
    earlier = tmp_path / "earlier.yaml"
    earlier.write_text("model: {encoders: [{name: ViT-B-32-quickgelu, pretrained: openai, label: old}]}\n")
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(planted.config(run={"root": str(tmp_path), "name": "r"})))
    assert main(["test", "-c", str(earlier), "-c", str(config)]) == 0
    (model,) = json.loads((tmp_path / "r" / "results.json").read_text())["models"]
    assert model["label"] != "old"
    assert "pretrained" not in model


def test_predict_on_a_picture_of_ones_own(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    picture = planted.root / "images" / "train2014" / "COCO_train2014_000000000001.png"
    code = main(
        [
            "predict", "--data.picture", str(picture), "--data.boxes", "[[0,0,20,20],[20,0,40,20],[40,0,60,20]]",
            "--data.expressions", "[green, blue]", "--model.encoders", f"[{{name: 'local-dir:{planted.model}'}}]",
            "--model.views", "[crop]", "--model.scorers", "[clip]", "--model.store", "null",
            "--model.templates.query", "{}", "--trainer.accelerator", "cpu",
        ]
    )  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if "clip" in line]
    assert code == 0
    assert "20, 0, 40, 20" in lines[0]
    assert "40, 0, 60, 20" in lines[1]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: bsap {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["test", "predict", "fit"])
def test_help_tells_the_settings_of_the_command_before_those_of_the_trainer(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert text.index("--model.views") < text.index("--trainer.devices")
    if command == "predict":  # it writes no run folder
        assert "--run.root" not in text
    else:
        assert text.index("--model.views") < text.index("--run.root") < text.index("--trainer.devices")
    assert "--trainer.gradient_clip_val" not in text  # accepted all the same
    assert "``" not in text
    assert ":class:" not in text


def test_a_printed_configuration_can_be_given_back(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.root", str(planted.root), "--data.proposals.source", "ground_truth"]
    printed = []
    for changed in (["--trainer.limit_test_batches", "3", "--model.bank", "generic"], []):
        with pytest.raises(SystemExit) as stopped:
            main(["test", *flags, *changed, "--print_config"])
        assert stopped.value.code == 0
        printed.append(capsys.readouterr().out)
        (planted.root / "printed.yaml").write_text(printed[0])
        flags = ["-c", str(planted.root / "printed.yaml")]
    assert printed[0] == printed[1]
    assert yaml.safe_load(printed[1])["trainer"]["limit_test_batches"] == 3


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tset"]) == 2
    assert "Did you mean 'test'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["banks", "views", "scorers", "transforms", "models"])
def test_lists(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    expected = {
        "banks": "coco_categories",
        "views": "crop",
        "scorers": "bsap_h",
        "transforms": "i0t",
        "models": "ViT-B-32",
    }
    assert expected[kind] in capsys.readouterr().out


def test_lists_are_whole_lines_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from bsap.scoring import NAMED_SCORERS

    monkeypatch.setenv("COLUMNS", "40")
    assert main(["list", "scorers"]) == 0
    rows = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == [scorer.name for scorer in NAMED_SCORERS]


def test_the_list_of_views_says_what_they_need_and_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "views"]) == 0
    rows = [line.split("\t")[:3] for line in capsys.readouterr().out.splitlines()]
    assert ["blur", "boxes", "Blur(shape=box, std=100)"] in rows
    assert ["global_local", "masks", "GlobalLocal(v=0.95, block=9, background=mean, resampling=direct)"] in rows


def _rows(planted: Planted) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(planted.proposals.read_text())
    return rows


def test_data_check_compares_with_the_published_counts(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(planted.root)]) == 1
    assert "8/10834" in capsys.readouterr().out
    assert main(["data", "check", str(planted.root), "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    (val,) = [split for split in report["splits"] if split["split"] == "val"]
    assert val["found"]["expressions"] == 8


def test_data_check_names_a_missing_picture(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(planted.root), "--images", str(tmp_path)]) == 1
    assert "COCO_train2014_000000000001" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As `head` after a pipe."""
    command = [sys.executable, "-m", "bsap", "test", "--help"]  # longer than the buffer, and without torch
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 1)


@pytest.mark.parametrize("content", ["# caf\xe9\n".encode("latin-1"), "data: {}\n".encode("utf-16")])
def test_settings_in_another_encoding_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert main(["test", "-c", str(tmp_path / "a.yaml")]) == 2
    assert "Save it as UTF-8" in capsys.readouterr().err


def test_a_pipe_of_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert main(["test", f"--config={tmp_path / 'a.yaml'}"]) == 2
    assert "a pipe or a device" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["first/parts/second", "parts", "~/second", "a/../b"])
def test_run_names_that_reach_elsewhere(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(planted.config(run={"root": str(tmp_path / "runs")})))
    assert main(["test", "-c", str(tmp_path / "a.yaml"), "--run.name", name]) == 2
    assert "Expected `run.name` to be the name of a folder inside `run.root`" in capsys.readouterr().err


def test_proposals_in_another_unit_are_warned_of(planted: Planted, tmp_path: Path) -> None:
    """A quarter of the pixels, as of a picture that was shrunk: the boxes are in the picture, not at objects."""
    rows = json.loads(planted.proposals.read_text())
    for row in rows:
        row["bbox"] = [value / 4 for value in row["bbox"]]
        del row["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    config = planted.config(
        data={"proposals": {"source": "detections", "path": str(tmp_path / "boxes.json")}},
        model={"tasks": ["rec"]},
        run={"root": str(tmp_path / "runs")},
    )
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    with pytest.warns(UserWarning, match="so that every answer is wrong"):
        assert main(["test", "-c", str(tmp_path / "a.yaml")]) == 0
