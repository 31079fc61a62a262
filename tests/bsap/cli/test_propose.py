"""`bsap propose`: with a detector that knows the planted colours exactly, and with torchvision's own architectures."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

import bsap.propose.detectors
from bsap.cli import main
from bsap.cli.propose import progress
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.picture_files import PictureFolder
from bsap.errors import ConfigError, DataError, ModelError
from bsap.propose.detectors import Detector, load_detector
from bsap.propose.picture_list import Picture, pictures_in, pictures_of
from bsap.propose.run import propose, rows_of
from bsap.runs.parts import seal
from support.planted import Planted

FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"


class Colours:
    """A detector of rectangles in one of the RGB cube's corner colours; the larger, the higher the score."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []

    def __call__(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.batches.append([tuple(image.shape[1:]) for image in images])
        return [self.look(image) for image in images]

    def look(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        boxes, masks = [], []
        for code in range(8):
            corner = torch.tensor([code >> 2 & 1, code >> 1 & 1, code & 1], dtype=torch.float32)
            inside = (image == corner[:, None, None]).all(0)
            if inside.any():
                rows, columns = inside.nonzero().unbind(1)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                masks.append(inside[None].float())
        size = torch.tensor([mask.sum() for mask in masks])
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": 0.5 + size / (2 * height * width + 1),
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "masks": torch.stack(masks) if masks else torch.zeros(0, 1, height, width),
        }


def stub(find: Callable[[list[Tensor]], Any] | None = None) -> Detector:
    return Detector("colours", find or Colours(), "0" * 64, "colours.pth")


@pytest.fixture
def pictures(planted: Planted) -> list[Picture]:
    return pictures_in(planted.root / "images")


def by_picture(path: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text()):
        found.setdefault(row["image_id"], []).append(row)
    return found


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_holds_exactly_what_was_planted(planted: Planted, pictures: list[Picture], tmp_path: Path) -> None:
    record = propose(pictures, tmp_path / "found.json", stub())
    found, truth = by_picture(tmp_path / "found.json"), by_picture(planted.proposals)
    assert found.keys() == truth.keys()
    for image_id, rows in truth.items():
        key = lambda row: tuple(row["bbox"])  # noqa: E731
        for mine, theirs in zip(sorted(found[image_id], key=key), sorted(rows, key=key), strict=True):
            assert mine["bbox"] == theirs["bbox"]
            assert mine["segmentation"] == theirs["segmentation"]
    assert record["regions"] == 7
    assert record["pictures_without"] == 1
    assert record == json.loads((tmp_path / "found.json.origin.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "found.json.origin.json"]


def test_a_run_on_what_was_found_scores_as_planted(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bsap.propose.detectors, "load_detector", lambda *args, **options: stub())
    output = tmp_path / "found.json"
    split = ["--root", str(planted.root), "--dataset", "refcoco", "--split-by", "unc", "--split", "val"]
    assert main(["propose", str(output), *split, "--device", "cpu", "--workers", "0"]) == 0
    assert "7 regions in 4 pictures, 1 of them without any" in capsys.readouterr().out
    (tmp_path / "run.json").write_text(
        json.dumps(
            planted.config(
                run={"root": str(tmp_path), "name": "run"},
                data={"proposals": {"source": "masks", "path": str(output)}},
            )
        )
    )
    assert main(["test", "-c", str(tmp_path / "run.json")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["metrics"]["rec"]["clip"] == {"acc@0.5": 5 / 8, "n": 8, "missing": 1}
    assert results["metrics"]["rec"]["bsap"] == {"acc@0.5": 6 / 8, "n": 8, "missing": 1}
    assert results["metrics"]["ris"]["bsap"]["oIoU"] == 2736 / 4636
    origin = json.loads((tmp_path / "found.json.origin.json").read_text())
    assert origin["sha256"] == results["protocol"]["proposals"]["sha256"], "a result leads back to the detector"


@pytest.mark.parametrize(
    "before", ["", "--dataset refcoco", "--split val", "--split val val", "--device cpu --split val"]
)
def test_the_output_stands_anywhere(
    planted: Planted, tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsap.propose.detectors, "load_detector", lambda *args, **options: stub())
    output = tmp_path / "found.jsonl"
    options = ["--root", str(planted.root), "--split-by", "unc", "--workers", "0", "--device", "cpu"]
    assert main(["propose", *before.split(), str(output), *options]) == 0
    first = output.read_bytes()
    assert main(["propose", *options, *before.split(), str(output), "--overwrite"]) == 0
    assert output.read_bytes() == first


def test_without_an_output(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    for split in (["val"], ["val", "testA"]):
        with pytest.raises(SystemExit):
            main(["propose", "--root", str(planted.root), "--split", *split])
        assert "Name the file to write" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["propose", "--help"])
    assert "example: bsap propose dets.jsonl --root" in capsys.readouterr().out


def test_lines_also_list_pictures_without_objects(planted: Planted, pictures: list[Picture], tmp_path: Path) -> None:
    propose(pictures, tmp_path / "found.jsonl", stub())
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [(line["image_id"], len(line["proposals"])) for line in lines] == [(1, 3), (2, 2), (3, 0), (4, 2)]
    source = ProposalConfig("masks", path=str(tmp_path / "found.jsonl"))
    data = RefCOCODataModule(str(planted.root), source, dataset="refcoco", split_by="unc")
    data.setup("test")
    assert data.summary.proposals["pictures_not_in_file"] == 0
    assert data.summary.missing == 1


def test_batches_hold_one_size_and_change_nothing(pictures: list[Picture], tmp_path: Path) -> None:
    twice = [*pictures, *(Picture(f"copy of {p.image_id}", p.path, p.width, p.height) for p in pictures)]
    texts = []
    for size in (1, 3):
        colours = Colours()
        propose(twice, tmp_path / f"{size}.json", stub(colours), batch_size=size)
        assert all(len(set(batch)) == 1 for batch in colours.batches)
        assert max(map(len, colours.batches)) == min(size, 2)
        texts.append((tmp_path / f"{size}.json").read_text())
    assert texts[0] == texts[1]
    ids = list(dict.fromkeys(row["image_id"] for row in json.loads(texts[0])))
    assert ids == [1, 2, 4, "copy of 1", "copy of 2", "copy of 4"]


def test_rows_are_cut_thresholded_and_sorted() -> None:
    found = {
        "boxes": torch.tensor([[0, 0, 5, 5], [-3, 2, 99, 8], [4, 4, 4, 9], [1, 1, 2, 2], [0, 0, 10, 10.0]]),
        "scores": torch.tensor([0.5, 0.9, 0.99, 0.49, 0.5]),
        "labels": torch.tensor([3, 1, 1, 1, 7]),
        "masks": torch.full((5, 1, 8, 10), 0.5),
    }
    found["masks"][1, 0, 2:8] = 0.51
    rows = rows_of(found, Picture("1", Path("1.png"), 10, 8), score=0.5, most=2)
    assert [(row["category_id"], row["bbox"], row["score"]) for row in rows] == [
        (1, [0, 2, 10, 6], 0.9),
        (3, [0, 0, 5, 5], 0.5),
    ]
    dense = [coco_mask.decode(row["segmentation"]) for row in rows]
    assert dense[0].sum() == 60
    assert dense[0][2:8].all()
    assert dense[1].sum() == 0, "0.5 is outside"


# --- going on --------------------------------------------------------------------------------------------------------


def broken_after(count: int) -> Iterator[Any]:
    colours = Colours()

    def find(images: list[Tensor]) -> list[dict[str, Tensor]]:
        if len(colours.batches) == count:
            raise KeyboardInterrupt
        return colours(images)

    return find  # type: ignore[return-value]


def test_a_killed_run_goes_on(pictures: list[Picture], tmp_path: Path) -> None:
    output, whole = tmp_path / "a.json", tmp_path / "b.json"
    propose(pictures, whole, stub())
    with pytest.raises(KeyboardInterrupt):
        propose(pictures, output, stub(broken_after(2)))
    part = tmp_path / "a.json.part"
    assert not output.exists()
    with part.open("a") as file:
        file.write('{"image_id": 3, "byt')  # what a killed process may leave
    colours, steps = Colours(), []
    record = propose(pictures, output, stub(colours), advance=steps.append)
    assert len(colours.batches) == 2
    assert steps == [2, 1, 1]
    assert record["resumed_pictures"] == 2
    assert output.read_text() == whole.read_text()


def test_what_is_finished_is_not_made_again(pictures: list[Picture], tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    first = propose(pictures, output, stub())
    assert propose(pictures, output, stub(broken_after(0))) == first
    assert propose(pictures, output, stub(), overwrite=True)["sha256"] == first["sha256"]


def test_cut_off_between_the_last_two_files(pictures: list[Picture], tmp_path: Path) -> None:
    output, part, origin = (tmp_path / name for name in ("a.jsonl", "a.jsonl.part", "a.jsonl.origin.json"))
    record = propose(pictures, output, stub())
    lines = [json.dumps({"settings": record["settings"]}), *output.read_text().splitlines()]
    part.write_text("".join(map(seal, lines)))
    origin.unlink()
    again = propose(pictures, output, stub(broken_after(0)))
    assert again["sha256"] == record["sha256"]
    assert origin.exists()
    assert not part.exists()


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Picture], bytes, bytes]:
    """Six pictures, of which five are done; the part file and the result of an undisturbed run."""
    folder = tmp_path_factory.mktemp("unfinished")
    for index, colour in enumerate(["red", "lime", "blue", "yellow", "white", "cyan"]):
        picture = Image.new("RGB", (24, 16), "gray")
        picture.paste(colour, (index, 2, index + 9, 12))
        picture.save(folder / f"{index}.bmp")
    pictures = pictures_in(folder)
    with pytest.raises(KeyboardInterrupt):
        propose(pictures, folder / "a.json", stub(broken_after(5)), batch_size=1)
    propose(pictures, folder / "whole.json", stub(), batch_size=1)
    return pictures, (folder / "a.json.part").read_bytes(), (folder / "whole.json").read_bytes()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_to_the_part_file_never_reaches_the_result(
    unfinished: tuple[list[Picture], bytes, bytes], data: st.DataObject
) -> None:
    """One byte changed, a piece cut out, a line repeated, or the end lost: what is damaged is processed again."""
    pictures, part, whole = unfinished
    place = data.draw(st.integers(0, len(part) - 1))
    damage = data.draw(st.sampled_from(["change", "cut", "repeat", "end"]))
    line = part[: place + 1].splitlines(keepends=True)[-1]
    damaged = {
        "change": part[:place] + bytes([part[place] ^ data.draw(st.integers(1, 255))]) + part[place + 1 :],
        "cut": part[:place] + part[place + data.draw(st.integers(1, 50)) :],
        "repeat": part + line,
        "end": part[:place],
    }[damage]
    with TemporaryDirectory() as folder:
        output = Path(folder, "a.json")
        Path(folder, "a.json.part").write_bytes(damaged)
        propose(pictures, output, stub(), batch_size=1)
        assert output.read_bytes() == whole
        assert sorted(path.name for path in Path(folder).iterdir()) == ["a.json", "a.json.origin.json"]


def test_damaged_lines_are_counted_and_only_theirs_are_processed_again(
    unfinished: tuple[list[Picture], bytes, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, part, whole = unfinished
    lines = part.splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"score": 0.', b'"score": 0.9')
    (tmp_path / "a.json.part").write_bytes(b"".join(lines))
    colours = Colours()
    propose(pictures, tmp_path / "a.json", stub(colours), batch_size=1)
    assert len(colours.batches) == 2, "the damaged one and the one that was left to do"
    assert "1 of 6 lines of" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_bytes() == whole


def test_a_part_file_without_checksums_is_begun_again(
    unfinished: tuple[list[Picture], bytes, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As versions before checksums wrote it."""
    pictures, part, whole = unfinished
    (tmp_path / "a.json.part").write_bytes(b"".join(line.split(b"\t")[0] + b"\n" for line in part.splitlines()))
    propose(pictures, tmp_path / "a.json", stub(), batch_size=1)
    assert "6 of 6 lines of" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_bytes() == whole


def test_two_processes_on_one_output(pictures: list[Picture], tmp_path: Path) -> None:
    """The second one is refused while the first one works, and changes nothing."""
    output, release = tmp_path / "a.json", tmp_path / "release"
    context = multiprocessing.get_context("spawn")
    first = context.Process(target=holding, args=(pictures, output, release))
    first.start()
    try:
        while not (tmp_path / "a.json.part").exists() or b"image_id" not in (tmp_path / "a.json.part").read_bytes():
            assert first.is_alive()
            time.sleep(0.02)
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match=r"Another process is writing .*a\.json\. Wait for it"):
                propose(pictures, output, stub(), overwrite=overwrite)
    finally:
        release.touch()
        first.join()
    assert first.exitcode == 0
    propose(pictures, tmp_path / "b.json", stub())
    assert output.read_bytes() == (tmp_path / "b.json").read_bytes()


def holding(pictures: list[Picture], output: Path, release: Path) -> None:
    """Find objects, and wait after the first batch until a file appears."""
    colours = Colours()

    def find(images: list[Tensor]) -> list[dict[str, Tensor]]:
        while colours.batches and not release.exists():
            time.sleep(0.02)
        return colours(images)

    propose(pictures, output, stub(find), batch_size=1, num_workers=0)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_the_difference(
    pictures: list[Picture], tmp_path: Path, finished: bool
) -> None:
    output = tmp_path / "a.json"
    if finished:
        propose(pictures, output, stub())
    else:
        with pytest.raises(KeyboardInterrupt):
            propose(pictures, output, stub(broken_after(1)))
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"score: 0\.5 -> 0\.7"):
        propose(pictures, output, stub(), score=0.7)
    other = Detector("colours", Colours(), "1" * 64, "colours.pth")
    with pytest.raises(ConfigError, match="weights_sha256: '000"):
        propose(pictures, output, other)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_finished_for_other_pictures_is_refused(pictures: list[Picture], tmp_path: Path) -> None:
    propose(pictures[:2], tmp_path / "a.json", stub())
    with pytest.raises(ConfigError, match=r"pictures\.count: 2 -> 4"):
        propose(pictures, tmp_path / "a.json", stub())


def test_a_file_of_somebody_else_is_left_alone(pictures: list[Picture], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"no a\.json\.origin\.json says what made it"):
        propose(pictures, tmp_path / "a.json", stub())
    assert (tmp_path / "a.json").read_text() == "[]"


def test_a_finished_file_that_was_changed_is_refused(pictures: list[Picture], tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    propose(pictures, output, stub())
    output.write_text("[]")
    with pytest.raises(ConfigError, match=r"a\.json was changed after it was made.*--overwrite"):
        propose(pictures, output, stub())
    assert output.read_text() == "[]"
    propose(pictures, output, stub(), overwrite=True)
    assert output.read_text() != "[]"


def test_a_changed_picture_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{name}.bmp")
    with pytest.raises(KeyboardInterrupt):
        propose(pictures_in(tmp_path), tmp_path / "out.json", stub(broken_after(1)), batch_size=1)
    Image.new("RGB", (10, 20)).save(tmp_path / "a.bmp")
    with pytest.raises(DataError, match=r"a\.bmp is not the picture a\.bmp that .*part was begun with"):
        propose(pictures_in(tmp_path), tmp_path / "out.json", stub())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_picture_is_named_and_the_rest_kept(tmp_path: Path, workers: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.jpg")
    Image.fromarray(noise[:20]).save(tmp_path / "zbad.jpg")
    whole = (tmp_path / "zbad.jpg").read_bytes()
    (tmp_path / "zbad.jpg").write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out.json"
    with pytest.raises(DataError, match=r"zbad\.jpg.*\n?.*1 of 2 pictures are done and kept in .*out\.json\.part"):
        propose(pictures_in(tmp_path), output, stub(), num_workers=workers)
    assert len((tmp_path / "out.json.part").read_text().splitlines()) == 2


# --- pictures --------------------------------------------------------------------------------------------------------


def test_ids_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "kitchen").mkdir()
    for name in ("COCO_train2014_000000266240.jpg", "000000000309.png", "kitchen/1.jpg", "17.jpg"):
        Image.new("L", (30, 20)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = pictures_in(tmp_path)
    assert [picture.image_id for picture in found] == ["309", "17.jpg", "266240", "kitchen/1.jpg"]
    assert {(picture.width, picture.height) for picture in found} == {(30, 20)}
    Image.new("L", (30, 20)).save(tmp_path / "COCO_val2014_000000000309.png")
    with pytest.raises(DataError, match="would both be the picture 309"):
        pictures_in(tmp_path)


def test_what_systems_leave_beside_pictures_is_left_out(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "1.jpg")
    for name in ("._1.jpg", ".hidden/2.jpg", "__MACOSX/._1.jpg", "@eaDir/1.jpg/thumb.jpg", "sub/.3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "folder.jpg").mkdir()
    assert [picture.image_id for picture in pictures_in(tmp_path)] == ["1.jpg"]


@pytest.mark.parametrize("kind", ["fifo", "device", "broken link"])
def test_what_never_ends_is_no_picture(tmp_path: Path, kind: str) -> None:
    """Neither in a folder, nor by the name that an annotation gives."""
    path = tmp_path / "1.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "gone")
    message = r"1\.png is a pipe, a device" if kind != "broken link" else r"Cannot read the picture .*1\.png"
    with pytest.raises(DataError, match=message):
        pictures_in(tmp_path)
    line: dict[str, Any] = {
        "picture": "1.png",
        "width": 30,
        "height": 20,
        "objects": [{"id": "a", "bbox": [0, 0, 5, 5]}],
    }
    line["expressions"] = [{"text": "it", "target": "a"}]
    (tmp_path / "own.jsonl").write_text(json.dumps(line) + "\n")
    data = RefCOCODataModule(str(tmp_path), ProposalConfig("ground_truth"), dataset="own", annotations="own.jsonl")
    with pytest.raises(DataError, match=message):
        pictures_of([data.read("val")], PictureFolder(tmp_path))


def test_a_disk_that_is_full_at_the_end_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "1.png")
    pictures, output = pictures_in(tmp_path), tmp_path / "found.json"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"Cannot write .*found\.json: No space left"):
        propose(pictures, output, stub())
    assert not output.exists()
    monkeypatch.undo()
    assert propose(pictures, output, stub())["resumed_pictures"] == 1


def test_a_folder_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="No picture"):
        pictures_in(tmp_path)
    assert main(["propose", str(tmp_path / "a.json"), "--pictures", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["propose", str(tmp_path / "a.json")])


def test_pictures_of_one_s_own_lines_have_their_ids(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "1.png")
    box = {"id": "a", "bbox": [0, 0, 5, 5]}
    line = {"picture": "1.png", "width": 30, "height": 20, "objects": [box]}
    line["expressions"] = [{"text": "it", "target": "a"}]
    (tmp_path / "own.jsonl").write_text(json.dumps(line) + "\n")
    data = RefCOCODataModule(str(tmp_path), ProposalConfig("ground_truth"), dataset="own", annotations="own.jsonl")
    records = data.read("val")
    assert pictures_of([records, records], PictureFolder(tmp_path)) == pictures_in(tmp_path)


def test_a_log_file_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 20.0, 21.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(10) as advance:
        for count in (2, 1, 3, 1, 3):
            advance(count)
    assert capsys.readouterr().err == "bsap: 6 of 10 pictures, about 20 s left\n"


# --- torchvision's detectors -----------------------------------------------------------------------------------------


def test_random_weights_through_the_command(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for name in ("a", "b"):
        output = tmp_path / f"{name}.json"
        where = [str(output), "--pictures", str(planted.root / "images"), "--device", "cpu", "--workers", "0"]
        what = ["--detector", FASTER, "--random-init", "--min-size", "64", "--score", "0", "--max-per-picture", "4"]
        assert main(["propose", *where, *what]) == 0
        assert "WITH RANDOM WEIGHTS" in capsys.readouterr().out
        texts.append(output.read_text())
    assert texts[0] == texts[1], "random weights are seeded"
    record = json.loads((tmp_path / "a.json.origin.json").read_text())
    assert record["settings"]["random_init"] is True
    assert record["settings"]["detector"] == FASTER
    data = RefCOCODataModule(
        str(planted.root), ProposalConfig("detections", path=str(tmp_path / "a.json")), split_by="unc"
    )
    data.setup("test")
    assert data.summary.regions == record["regions"] > 0
    assert all(len(scene.proposals) <= 4 and scene.proposals.masks is None for scene in data.scenes)


def test_mask_r_cnn_writes_masks_of_the_picture_s_size(planted: Planted, tmp_path: Path) -> None:
    detector = load_detector("maskrcnn_resnet50_fpn_v2", random_init=True, min_size=48, score=0.0, max_per_picture=3)
    detector.find.rpn._post_nms_top_n["testing"] = 8  # type: ignore[attr-defined]  # random weights propose a thousand
    pictures = pictures_in(planted.root / "images")[:1]
    propose(pictures, tmp_path / "a.json", detector, score=0.0, max_per_picture=3)
    rows = json.loads((tmp_path / "a.json").read_text())
    assert len(rows) == 3
    assert all(row["segmentation"]["size"] == [40, 60] for row in rows)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_detector(FASTER, random_init=True).find
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save({"model": model.state_dict()}, path)  # type: ignore[attr-defined]
    return path


def test_a_weight_file_finds_what_its_model_found(weights: Path, tmp_path: Path) -> None:
    """The reference is torchvision's own model, filled by hand."""
    from safetensors.torch import save_file
    from torchvision import models

    state = torch.load(weights, weights_only=True)["model"]
    save_file(state, tmp_path / "own.safetensors")
    reference = models.get_model(FASTER, weights=None, weights_backbone=None, min_size=64, box_score_thresh=0.5).eval()
    reference.load_state_dict(state)
    detector, again = (
        load_detector(FASTER, weights=file, min_size=64) for file in (weights, tmp_path / "own.safetensors")
    )
    picture = [torch.rand(3, 40, 60)]
    with torch.inference_mode():
        expected = reference(picture)[0]["boxes"]
    assert torch.equal(detector.find(picture)[0]["boxes"], expected)
    assert torch.equal(again.find(picture)[0]["boxes"], expected)
    assert not detector.find.training  # type: ignore[attr-defined]
    assert again.describe()["weights"] == "own.safetensors"
    assert again.weights_sha256 != detector.weights_sha256


def published(monkeypatch: pytest.MonkeyPatch, hub: Path, content: bytes | None) -> tuple[Path, Path]:
    """Publish another weight file for FASTER, at a ``file:`` address; returns it and its place in torch hub's cache."""
    from torchvision import models

    digits = hashlib.sha256(content or b"").hexdigest()[:8]
    source = hub / "server" / f"{FASTER}-{digits}.pth"
    source.parent.mkdir()
    if content is not None:
        source.write_bytes(content)
    member = models.get_model_weights(FASTER).DEFAULT
    monkeypatch.setattr(member, "_value_", replace(member.value, url=source.as_uri()))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    return source, hub / "checkpoints" / source.name


def frozen(weights: Path, tmp_path: Path) -> bytes:
    """The file as torchvision publishes it: the state alone."""
    torch.save(torch.load(weights, weights_only=True)["model"], tmp_path / "published.pth")
    return (tmp_path / "published.pth").read_bytes()


def test_published_weights_are_downloaded_once_and_checked(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cached = published(monkeypatch, tmp_path, frozen(weights, tmp_path))
    detector = load_detector(FASTER)
    kinds = {type(module).__name__ for module in detector.find.modules()}  # type: ignore[attr-defined]
    assert "FrozenBatchNorm2d" in kinds, "as torchvision builds it for published weights"
    assert detector.weights == cached.name
    source.unlink()
    assert load_detector(FASTER) == replace(detector, find=ANY)
    cached.write_bytes(cached.read_bytes() + b"!")
    with pytest.raises(ModelError, match=r"\.pth is damaged, its SHA-256 does not begin with \w{8}\. Delete the file"):
        load_detector(FASTER)


def test_a_download_that_is_damaged_is_refused(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cached = published(monkeypatch, tmp_path, frozen(weights, tmp_path))
    source.write_bytes(source.read_bytes() + b"!")
    with pytest.raises(ModelError, match=r"cannot be downloaded \(invalid hash value"):
        load_detector(FASTER)
    assert not cached.exists()


def test_published_weights_in_a_file_are_loaded_as_published(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cached = published(monkeypatch, tmp_path, frozen(weights, tmp_path))
    (tmp_path / "mine.pth").write_bytes(source.read_bytes())
    source.unlink()
    detector = load_detector(FASTER, weights=tmp_path / "mine.pth")
    kinds = {type(module).__name__ for module in detector.find.modules()}  # type: ignore[attr-defined]
    assert "FrozenBatchNorm2d" in kinds
    assert cached.is_file()


def test_published_weights_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"w": Payload()}, tmp_path / "bad.pth")
    published(monkeypatch, tmp_path, (tmp_path / "bad.pth").read_bytes())
    with pytest.raises(ModelError, match="cannot be"):
        load_detector(FASTER)
    assert not (tmp_path / "ran").exists()


def test_offline_without_weights_says_which_file_where(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, cached = published(monkeypatch, tmp_path, None)
    where = ["--pictures", str(planted.root / "images"), "--detector", FASTER, "--device", "cpu"]
    assert main(["propose", str(tmp_path / "a.json"), *where]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"not at {cached}" in message
    assert source.as_uri() in message
    assert "set --weights to it" in message
    assert not (tmp_path / "a.json.part").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "is not a state dictionary, or is damaged"),
        (b"", "is not a state dictionary, or is damaged"),
        (None, "does not exist. Set --weights"),
        ({"x": torch.ones(1)}, "do not fit"),
    ],
)
def test_other_files_are_no_weights(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ModelError, match=message):
        load_detector(FASTER, weights=file)


def test_a_weight_file_cannot_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"w": Payload()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth is not a state dictionary.*safetensors") as caught:
        load_detector(FASTER, weights=tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value), "torch's advice"
    assert not (tmp_path / "ran").exists()


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"Unknown detector 'maskrcnn'"):
        load_detector("maskrcnn")
    with pytest.raises(ConfigError, match="exclude each other"):
        load_detector(FASTER, random_init=True, weights="x.pth")
    with pytest.raises(ConfigError, match="cannot be built"):
        load_detector("ssdlite320_mobilenet_v3_large", random_init=True, min_size=64)


def test_regions_of_any_class(tmp_path: Path, planted: Planted) -> None:
    """The first stage by hand: head, anchors, decoding, the best of each level after NMS, in the picture's pixels."""
    from torchvision.ops import batched_nms, clip_boxes_to_image

    found = load_detector(FASTER, random_init=True, class_agnostic=True, score=0.0, max_per_picture=20)
    plain: Any = load_detector(FASTER, random_init=True).find
    image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (got,) = found.find([image])
        batch, _ = plain.transform([image])
        maps = list(plain.backbone(batch.tensors).values())
        objectness, deltas = plain.rpn.head(maps)
        anchors = plain.rpn.anchor_generator(batch, maps)[0]
        boxes, scores, levels = [], [], []
        start = 0
        for level, (score, delta) in enumerate(zip(objectness, deltas, strict=True)):
            kinds = score.shape[1]
            flat = score[0].permute(1, 2, 0).reshape(-1)
            moves = delta[0].reshape(kinds, 4, *delta.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4)
            own = anchors[start : start + len(flat)]
            start += len(flat)
            size, middle = own[:, 2:] - own[:, :2], (own[:, :2] + own[:, 2:]) / 2
            middle, size = middle + moves[:, :2] * size, size * moves[:, 2:].clamp(max=np.log(1000 / 16)).exp()
            best = flat.argsort(descending=True, stable=True)[: plain.rpn.pre_nms_top_n()]
            corners = torch.cat([middle - size / 2, middle + size / 2], 1)
            boxes.append(clip_boxes_to_image(corners, batch.image_sizes[0])[best])
            scores.append(flat[best].sigmoid())
            levels.append(torch.full((len(best),), level))
        every, value = torch.cat(boxes), torch.cat(scores)
        kept = batched_nms(every, value, torch.cat(levels), plain.rpn.nms_thresh)[:20]
    height, width = batch.image_sizes[0]
    expected = every[kept] * torch.tensor([70 / width, 50 / height] * 2)
    torch.testing.assert_close(got["scores"], value[kept])
    torch.testing.assert_close(got["boxes"], expected, atol=1e-3, rtol=1e-4)
    assert found.describe()["detector"] == f"{FASTER}, first stage"
    with pytest.raises(ConfigError, match="finds classes in one stage"):
        load_detector("ssdlite320_mobilenet_v3_large", random_init=True, class_agnostic=True)
    output = tmp_path / "any.jsonl"
    flags = ["propose", str(output), "--root", str(planted.root), "--detector", FASTER, "--score", "0", "--random-init"]
    assert main([*flags, "--split", "val", "--class-agnostic", "--max-per-picture", "7", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {str(row["image_id"]) for row in rows} == {p.image_id for p in planted_pictures(planted)}, (
        "of this split only"
    )
    assert all(0 < len(row["proposals"]) <= 7 for row in rows)


def planted_pictures(planted: Planted) -> list[Picture]:
    data = RefCOCODataModule(str(planted.root), ProposalConfig("ground_truth"))
    return pictures_of([data.read("val")], PictureFolder(planted.root))
