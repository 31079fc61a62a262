"""`bsap predict`: one picture or several, the files it writes, and regions from a detector."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bsap.cli import main
from bsap.datamodules.own_picture import PictureDataModule
from bsap.propose.detectors import Detector

BOXES = [[0, 0, 20, 20], [20, 0, 40, 20], [40, 0, 60, 20]]
COLOURS = ("red", "lime", "blue")
WORDS = {"red": 0, "green": 1, "blue": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with a red, a green and a blue square; in the second they stand the other way round."""
    (tmp_path / "pictures").mkdir()
    for name, colours in (("a", COLOURS), ("b", COLOURS[::-1])):
        picture = Image.new("RGB", (60, 20))
        for box, colour in zip(BOXES, colours, strict=True):
            ImageDraw.Draw(picture).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], fill=colour)
        picture.save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run(planted: Any) -> Any:
    def run(*argv: str) -> int:
        return main(
            [
                "predict", *argv, "--model.encoders", f"local-dir:{planted.model}", "--model.views", "crop",
                "--model.store", "null", "--model.templates.query", "{}", "--trainer.accelerator", "cpu",
            ]
        )  # fmt: skip

    return run


def opened(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def squares() -> list[dict[str, Any]]:
    """Objects whose masks are the left halves of their boxes."""
    halves = [[x, y, x + 10, y, x + 10, y + 20, x, y + 20] for x, y, *_ in BOXES]
    return [{"bbox": [half[0], half[1], 20, 20], "segmentation": [half]} for half in halves]


def test_answers_of_several_regions_and_of_none(
    run: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "objects.json").write_text(json.dumps(squares()))
    flags = [
        "--data.picture", str(folder / "a.png"), "--data.boxes", str(tmp_path / "objects.json"),
        "--data.expressions", "['the red one','the blue one']", "--model.scorers", "clip",
        "--model.answer.rule", "threshold", "--model.answer.over", "cosine", "--output", str(tmp_path / "x.json"),
        "--output-mask", str(tmp_path / "m.png"), "--output-picture", str(tmp_path / "p.png"),
    ]  # fmt: skip
    assert run(*flags, "--model.answer.value=-1") == 0
    several = json.loads((tmp_path / "x.json").read_text())["pictures"][0]["expressions"]
    answers = [expression["scorers"]["clip"] for expression in several]
    assert [sorted(answer["regions"]) for answer in answers] == [[0, 1, 2]] * 2
    assert [answer["regions"][0] for answer in answers] == [0, 2] == [answer["region"] for answer in answers]
    assert [sorted(answer["boxes"]) for answer in answers] == [[[x, 0, x + 20, 20] for x in (0, 20, 40)]] * 2
    expected = np.zeros((20, 60), np.uint8)
    for x in (0, 20, 40):
        expected[:, x : x + 10] = 255
    assert np.array_equal(opened(tmp_path / "m-1.png"), expected)
    first = opened(tmp_path / "p.png")
    capsys.readouterr()
    assert run(*flags, "--model.answer.value", "1") == 0
    assert capsys.readouterr().out.count("none") == 2
    (none, _) = json.loads((tmp_path / "x.json").read_text())["pictures"][0]["expressions"]
    assert (none["scorers"]["clip"]["regions"], none["scorers"]["clip"]["region"]) == ([], 0)
    assert not opened(tmp_path / "m-1.png").any()
    assert not np.array_equal(opened(tmp_path / "p.png"), first)


def test_answers_are_written(run: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(squares()))
    out = tmp_path / "new" / "folder"
    status = run(
        "--data.picture", str(folder / "a.png"), "--data.boxes", str(tmp_path / "boxes.json"),
        "--data.expressions", "green", "blue", "--model.scorers", "clip",
        "--output", str(out / "result.json"), "--output-picture", str(out / "out.png"),
        "--output-mask", str(out / "m.png"),
    )  # fmt: skip
    assert status == 0
    assert "Written:" in capsys.readouterr().out
    content = json.loads((out / "result.json").read_text())
    (picture,) = content["pictures"]
    assert (picture["width"], picture["height"]) == (60, 20)
    assert [answer["text"] for answer in picture["expressions"]] == ["green", "blue"]
    assert [answer["scorers"]["clip"]["region"] for answer in picture["expressions"]] == [1, 2]
    assert picture["expressions"][0]["scorers"]["clip"]["box"] == [20.0, 0.0, 40.0, 20.0]
    assert content["models"][0]["weights_sha256"]
    assert opened(out / "out.png").shape[1] >= 480
    for n, region in ((1, 1), (2, 2)):
        pixels = opened(out / f"m-{n}.png")
        expected = np.zeros((20, 60), np.uint8)
        expected[:, 20 * region : 20 * region + 10] = 255
        np.testing.assert_array_equal(pixels, expected)


def test_one_mask_for_each_scorer(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(squares()))
    argv = ["--data.picture", str(folder / "a.png"), "--data.boxes", str(tmp_path / "boxes.json")]
    out = str(tmp_path / "m.png")
    assert run(*argv, "--data.expressions", "red", "--model.scorers", "clip", "bsap", "--output-mask", out) == 0
    assert {path.name for path in tmp_path.glob("m*.png")} == {"m-clip.png", "m-bsap.png"}
    assert run(*argv, "--data.expressions", "red", "--model.scorers", "clip", "--output-mask", out) == 0
    assert (tmp_path / "m.png").exists()


def regions(path: Path) -> dict[str, list[int]]:
    return {
        Path(picture["picture"]).stem: [answer["scorers"]["clip"]["region"] for answer in picture["expressions"]]
        for picture in json.loads(path.read_text())["pictures"]
    }


def test_a_folder_of_pictures(run: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.txt").write_text("no picture")
    out = tmp_path / "result.json"
    argv = ["--data.picture", str(folder), "--data.boxes", json.dumps(BOXES), "--data.expressions", *WORDS]
    assert run(*argv, "--model.scorers", "clip", "--output", str(out), "--output-picture", str(tmp_path / "drawn")) == 0
    assert regions(out) == {"a": [0, 1, 2], "b": [2, 1, 0]}
    rows = [[part.strip() for part in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if len(row) == 2] == [
        [picture, word] for name in "ab" for picture, word in zip((name, "", ""), WORDS, strict=True)
    ]
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"a.png", "b.png"}
    assert run(*argv, "--model.scorers", "clip", "--output-picture", str(tmp_path / "one.png")) == 2


def test_a_file_of_pictures(run: Any, folder: Path, tmp_path: Path) -> None:
    lines = [
        {"picture": "pictures/b.png", "boxes": BOXES, "expressions": ["blue"]},
        {"picture": "pictures/a.png", "boxes": BOXES[:2]},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "result.json"
    argv = ["--data.picture", str(tmp_path / "mine.jsonl"), "--data.expressions", "green", "red"]
    assert run(*argv, "--model.scorers", "clip", "--output", str(out)) == 0
    assert regions(out) == {"b": [0], "a": [1, 0]}


def test_regions_from_a_detector(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = torch.zeros(3, 1, 20, 60)
    for n in range(3):
        masks[n, 0, :, 20 * n : 20 * n + 10] = 0.9
    found = {"boxes": torch.tensor(BOXES).float(), "masks": masks, "scores": torch.ones(3), "labels": torch.ones(3)}
    asked: list[Any] = []

    def load(name: str, *, weights: str, **options: Any) -> Detector:
        asked.append(weights)
        return Detector(name, lambda pictures: [found for _ in pictures], "0" * 64)

    monkeypatch.setattr("bsap.propose.detectors.load_detector", load)
    out = tmp_path / "result.json"
    argv = ["--data.picture", str(folder), "--data.expressions", "red", "--model.scorers", "clip", "--output", str(out)]
    assert run(*argv, "--propose", "default", "--output-mask", str(tmp_path / "masks")) == 0
    assert asked == ["default"]
    assert regions(out) == {"a": [0], "b": [2]}
    assert opened(tmp_path / "masks" / "b.png")[:, 40:50].min() == 255
    found.update({name: values[:0] for name, values in found.items()})
    assert run(*argv, "--propose", "default") == 2
    assert "The detector found nothing in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data.picture", "a.png", "--data.expressions", "red"], "There are no boxes for"),
        (
            ["--data.picture", "a.png", "--data.boxes", "[[0, 0, 9, 9], [0, 0 9, 9]]", "--data.expressions", "x"],
            "`boxes`: not readable as JSON: Expecting ',' delimiter: line 1 column 22",
        ),
        (["--data.picture", "a.png", "--data.boxes", json.dumps(BOXES)], "`expressions` must be one or more sentences"),
        (["--data.picture", "none.png", "--data.boxes", "[]", "--data.expressions", "x"], "none.png does not exist"),
        (["--data.picture", "empty", "--data.boxes", "[]", "--data.expressions", "x"], "has no pictures"),
        (["--data.picture", "empty.jsonl", "--data.expressions", "x"], "is empty"),
        (["--data.picture", "odd.jsonl", "--data.expressions", "x"], "unknown key 'bokses'"),
        (["--data.picture", "lost.jsonl", "--data.expressions", "x"], ".png does not exist. Correct"),
        (
            [
                "--data.picture",
                "a.png",
                "--data.boxes",
                json.dumps(BOXES),
                "--data.expressions",
                "red",
                "--output-mask",
                "m.png",
            ],
            "have boxes only",
        ),
    ],
)
def test_mistakes(
    run: Any, folder: Path, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").write_text("\n")
    (folder / "odd.jsonl").write_text('{"picture": "a.png", "bokses": []}')
    (folder / "lost.jsonl").write_text('{"picture": "c.png"}')
    monkeypatch.setattr("lightning.pytorch.Trainer.predict", lambda *a, **k: pytest.fail("the models ran before"))
    assert run(*argv) == 2
    assert message in capsys.readouterr().err


def test_objects_in_the_command_line(run: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    argv = ["--data.picture", str(folder / "a.png"), "--data.expressions", "red", "--model.scorers", "clip"]
    assert run(*argv, "--data.boxes", json.dumps(squares()), "--output", str(out)) == 0
    assert regions(out) == {"a": [0]}


def test_a_pil_picture_in_python(folder: Path) -> None:
    with Image.open(folder / "a.png") as picture:
        data = PictureDataModule(picture, BOXES, ["red"])  # type: ignore[arg-type]
    data.setup("predict")
    (scene,) = data.scenes
    assert (scene.width, scene.height) == (60, 20)
    np.testing.assert_array_equal(opened(scene.path), opened(folder / "a.png"))
    assert repr(data).startswith("PictureDataModule(")
    path = scene.path
    del data, scene
    gc.collect()
    assert not path.exists(), "the file goes with the data module"


def test_the_help_leaves_out_what_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    text = capsys.readouterr().out
    for name in (
        "--output FILE",
        "--output-picture",
        "--output-mask",
        "--propose",
        "--data.picture",
        "--model.encoders",
    ):
        assert name.partition(" ")[0] in text
    for name in ("--run.", "--model.tasks", "--model.strict", "--model.missing_mask", "--seed_everything"):
        assert name not in text
