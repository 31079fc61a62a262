"""`bsap show` on a run over the planted world, whose choices and views are known by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bsap.cli import main
from bsap.errors import ConfigError, DataError
from bsap.reports.draw import draw_expression, looks_of, notes_of
from bsap.reports.draw_choices import draw_choices
from bsap.reports.panels import OVERLAP, PanelRow, overlap, panel
from bsap.reports.scene_picture import CHOICES, REFERENT
from bsap.reports.shown_run import ShownRun, file_name, spread
from support.planted import Planted
from support.results import change_results

RED = (255, 0, 0)


@pytest.fixture(scope="module")
def world(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted data and a run over them, in one folder that may be copied."""
    folder = tmp_path_factory.mktemp("shown")
    shutil.copytree(planted.root, folder / "data")
    config = planted.config(
        run={"root": str(folder), "name": "run"},
        data={
            "root": str(folder / "data"),
            "proposals": {"source": "detections", "path": str(folder / "data" / "proposals.json")},
        },
    )
    (folder / "run.json").write_text(json.dumps(config))
    assert main(["test", "-c", str(folder / "run.json")]) == 0
    return folder


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """A run folder to spoil, over data to spoil."""
    shutil.copytree(world, tmp_path / "world")
    results = tmp_path / "world" / "run" / "results.json"
    results.write_text(results.read_text().replace(str(world), str(tmp_path / "world")))
    return tmp_path / "world" / "run"


def keys(records: list[dict[str, Any]]) -> list[int]:
    return [int(record["id"].rsplit("/", 1)[1]) for record in records]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(2).sum())


def lowest(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int(np.flatnonzero((np.asarray(image) == colour).all(2).any(1))[-1])


# --- which -----------------------------------------------------------------------------------------------------------


def test_expressions_are_found_by_id_and_by_key(world: Path) -> None:
    run = ShownRun(world / "run")
    assert keys(run.find(["5", "refcoco/unc/val/2"])) == [5, 2]
    with pytest.raises(DataError, match=r"no expression 'refcoco/unc/vall/2'. Did you mean refcoco/unc/val/2"):
        run.find(["refcoco/unc/vall/2"])
    run.records.append({**run.records[3], "id": "other/unc/val/3"})
    with pytest.raises(DataError, match=r"2 expressions '3': give the whole id, refcoco/unc/val/3, other/unc/val/3"):
        run.find(["3"])


def test_wrong_and_disagreeing_ones_are_selected(world: Path) -> None:
    run = ShownRun(world / "run")
    assert keys(run.select()) == list(range(8))
    assert keys(run.select(disagree=True)) == [3]
    assert keys(run.select(wrong="clip")) == [3, 4, 7]
    assert keys(run.select(wrong="bsap")) == [4, 7]
    assert run.select(wrong="bsap", disagree=True) == []
    with pytest.raises(ConfigError, match=r"Unknown scorer 'bsapp'\. Did you mean 'bsap'"):
        run.select(wrong="bsapp")


def test_wrong_goes_by_the_run_s_own_rule(copy: Path) -> None:
    change_results(copy, lambda results: results["settings"]["model"].update(strict=True))
    assert keys(ShownRun(copy).select(wrong="clip")) == [2, 3, 4, 7], "an IoU of exactly 0.5 is no hit"
    run = ShownRun(copy)
    for record in run.records:
        for row in record["scorers"].values():
            del row["box_iou"]
    assert keys(run.select(wrong="clip")) == [3, 4, 7], "masks have one rule only: 200 of 400 is a hit"


def test_spread_takes_each_once_and_in_order() -> None:
    records = [{"n": n} for n in range(7)]
    assert spread(records, 100) == records
    assert [record["n"] for record in spread(records, 3)] == [0, 2, 4]


def test_file_names_are_plain_and_distinct() -> None:
    names = [file_name(f"own/own/val/{key}") for key in ("a b", "a_b", "a?b", "..", "é", "x" * 300)]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and len(name) < 100 and not name.startswith(".") for name in names)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_panel_shows_what_the_model_saw(world: Path) -> None:
    run = ShownRun(world / "run")
    (look,) = looks_of(run)
    assert (look.label, look.size, look.fill) == ("crop", (8, 8), (127.5, 127.5, 127.5))
    scene = draw_choices(run, run.records[3], width=560)
    image = draw_expression(run, run.records[3])
    left = image.crop((0, 0, scene.width, scene.height))
    assert left.tobytes() == scene.tobytes()
    right = image.crop((scene.width, 0, image.width, image.height))
    # CLIP chose the white region, BSAP the red one: its crop is 8 x 8 pixels of red, shown 16 times as large.
    assert count(right, RED) == 128 * 128
    for colour in (*CHOICES[:3], REFERENT):
        assert count(right, colour) == 15 * 15 + (colour == REFERENT) * 11 * 11, "a mark, and the masks' legend"
    clip, bsap, best, red = (lowest(right, colour) for colour in (*CHOICES[:2], REFERENT, RED))
    assert clip < bsap <= best <= bsap + 22 < red, (
        "the red region is BSAP's and the best, and stands below what is said of it"
    )
    assert red - best < 128 + 10
    assert clip < bsap - 128


def test_the_scene_marks_choice_and_referent(world: Path) -> None:
    run = ShownRun(world / "run")
    image = draw_choices(run, run.records[0])
    assert all(count(image, colour) > 300 for colour in (*CHOICES[:3], REFERENT))


def test_a_text_that_was_cut_is_not_shown_as_whole(world: Path) -> None:
    run = ShownRun(world / "run")
    record = run.records[0]
    assert all("cut" not in note for note in notes_of(run, record, looks_of(run)))
    notes = notes_of(run, {**record, "text_cut": True}, looks_of(run))
    assert notes[1].endswith(f"{record['text']} (cut at the context length)")


def test_a_picture_without_proposals_has_no_rows(world: Path) -> None:
    run = ShownRun(world / "run")
    image = draw_expression(run, run.records[4])
    assert image.width == 560, "nothing beside the scene"
    assert count(image, REFERENT) > 300


def test_the_command_writes_one_picture_per_expression(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(world / "run"), "3", "refcoco/unc/val/0"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.relative_to(world / "run").as_posix() for path in written] == ["pictures/3.png", "pictures/0.png"]
    assert all(size(path)[0] > 600 for path in written)
    assert main(["show", str(world / "run"), "99"]) == 2


def test_the_command_writes_sheets(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["show", str(world / "run"), "--output", str(tmp_path)]
    assert main([*command, "--sheet", "4"]) == 0
    assert main([*command, "--wrong", "clip", "--disagree"]) == 0
    assert main([*command, "--wrong", "bsap", "--disagree"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/sheet.png: 4 of 8 expressions",
        f"{tmp_path}/sheet-disagree-wrong-clip.png: 1 of 1 expressions where scorers differ and clip is wrong",
        f"{world}/run has no expression where scorers differ and bsap is wrong.",
    ]
    assert size(tmp_path / "sheet.png")[0] == 3 * 480 + 4 * 8
    assert size(tmp_path / "sheet-disagree-wrong-clip.png")[0] == 480 + 2 * 8
    for misuse in (["0", "--disagree"], ["--sheet", "0"]):
        with pytest.raises(SystemExit):
            main([*command, *misuse])


# --- data that are not there -----------------------------------------------------------------------------------------


def test_other_proposals_are_refused(copy: Path) -> None:
    proposals = copy.parent / "data" / "proposals.json"
    rows = json.loads(proposals.read_text())
    rows[0]["bbox"][2] += 1
    proposals.write_text(json.dumps(rows))
    run = ShownRun(copy)
    draw_choices(run, run.records[3])
    with pytest.raises(DataError, match="refcoco/unc/val/0: the data have changed since the run"):
        draw_choices(run, run.records[0])


def test_a_missing_picture_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy.parent / "data" / "images" / "train2014" / "COCO_train2014_000000000002.png").unlink()
    assert main(["show", str(copy), "0"]) == 2
    assert "COCO_train2014_000000000002.png" in capsys.readouterr().err


def test_data_may_have_moved(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = copy.parent / "moved"
    # The file of proposals stays where the settings say.
    shutil.copytree(copy.parent / "data", moved)
    for name in ("refcoco", "images"):
        shutil.rmtree(copy.parent / "data" / name)
    gone = str(copy.parent / "gone")
    change_results(copy, lambda results: results["settings"]["data"].update(root=gone))
    assert main(["show", str(copy), "0"]) == 2
    assert (
        f"evaluated on data in {gone}, which is not a folder here. Set the place of the data with `--root"
        in capsys.readouterr().err
    )
    assert main(["show", str(copy), "0", "--root", str(moved)]) == 0


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("results.json", "has no results.json: the run is not finished"),
        ("predictions.jsonl", "has no predictions.jsonl"),
    ],
)
def test_an_unfinished_run_says_so(copy: Path, lost: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / lost).unlink()
    assert main(["show", str(copy)]) == 2
    assert message in capsys.readouterr().err


# --- the panel -------------------------------------------------------------------------------------------------------


def test_small_pictures_are_whole_and_unchanged() -> None:
    exact, small = Image.new("RGB", (200, 100), (1, 2, 3)), Image.new("RGB", (20, 30), (3, 2, 1))
    image = panel(
        Image.new("RGB", (480, 50)),
        columns=["a", "a column with a long name " * 4],
        rows=[PanelRow("first", [("mark", (9, 9, 9))], [exact, small]), PanelRow("second", [], [small, exact])],
        notes=["x" * 500],
    )
    assert count(image, (1, 2, 3)) == 2 * 200 * 100
    assert count(image, (3, 2, 1)) == 2 * (20 * 5) * (30 * 5), "enlarged by the least whole number that gives 128"
    with pytest.raises(ValueError, match="`rows` to have 1 pictures each, but got 2"):
        panel(exact, columns=["a"], rows=[PanelRow("", [], [exact, small])])


def test_overlap_colours_each_part_of_the_masks() -> None:
    chosen, meant = np.zeros((2, 30, 30), bool)
    chosen[0:10, 0:10] = True
    meant[0:10, 5:20] = True
    image = overlap(Image.new("RGB", (30, 30), (100, 100, 100)), chosen, [meant], size=220)
    assert image.size == (220, 110), (
        "the masks' 20 x 10 pixels, and a tenth of each side around them within the picture"
    )
    mixed = [tuple(round(0.4 * 100 + 0.6 * value) for value in colour) for colour in OVERLAP.values()]
    areas = [count(image, colour) for colour in mixed]
    assert areas == [5 * 10 * 100, 5 * 10 * 100, 10 * 10 * 100]
    assert overlap(Image.new("RGB", (30, 30)), np.zeros((30, 30), bool), []).size == (224, 224)
