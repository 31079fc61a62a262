from __future__ import annotations

import os
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bsap.datamodules.loader import SceneDataset, scene_loader, sensible_workers
from bsap.datamodules.picture_files import PictureError, PictureFolder, load_picture, picture_size, size_differences
from bsap.datamodules.scene import Proposals, Scene
from bsap.errors import DataError

W, H = 20, 12


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def loaded(path: Path, width: int = W, height: int = H) -> np.ndarray:
    tensor = load_picture(path, width, height)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (3, height, width)
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P"])
def test_modes_are_what_pillow_converts_them_to(tmp_path: Path, rgb: np.ndarray, mode: str) -> None:
    stored = Image.fromarray(rgb).convert(mode)
    stored.save(tmp_path / "x.png")
    np.testing.assert_array_equal(loaded(tmp_path / "x.png"), np.asarray(stored.convert("RGB")))


def test_gray_becomes_three_equal_planes(tmp_path: Path) -> None:
    Image.new("L", (W, H), 77).save(tmp_path / "x.png")
    assert (loaded(tmp_path / "x.png") == 77).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Cyan ink at full strength over white paper takes the red away."""
    Image.new("CMYK", (W, H), (255, 0, 0, 0)).save(tmp_path / "x.jpg")
    red, green, blue = loaded(tmp_path / "x.jpg").reshape(-1, 3).mean(axis=0)
    assert red < 10
    assert min(green, blue) > 245


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, W * H).astype(np.uint16).reshape(H, W)
    Image.fromarray(deep).save(tmp_path / "x.png")
    np.testing.assert_array_equal(loaded(tmp_path / "x.png")[:, :, 1], (deep >> 8).astype(np.uint8))
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(PictureError, match="no defined range"):
        loaded(tmp_path / "x.tiff")


def test_annotations_decide_about_exif_rotation(tmp_path: Path, rgb: np.ndarray) -> None:
    for orientation, turned in [(6, np.rot90(rgb, -1)), (8, np.rot90(rgb)), (3, rgb[::-1, ::-1])]:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(rgb).save(tmp_path / "x.png", exif=exif)
        np.testing.assert_array_equal(loaded(tmp_path / "x.png"), rgb)  # annotated as stored
        if turned.shape != rgb.shape:
            np.testing.assert_array_equal(loaded(tmp_path / "x.png", H, W), turned)
    with pytest.raises(PictureError, match=r"has 20 x 12 pixels, but its annotations are for 19 x 12"):
        loaded(tmp_path / "x.png", 19, 12)
    Image.fromarray(rgb).save(tmp_path / "plain.png")
    with pytest.raises(PictureError, match="Use the original picture"):
        loaded(tmp_path / "plain.png", H, W)


def test_broken_files_are_named(tmp_path: Path, rgb: np.ndarray) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.tile(rgb, (20, 20, 1))).save(whole)
    data = whole.read_bytes()
    for name, content in [("cut.jpg", data[: len(data) // 2]), ("empty.jpg", b""), ("text.jpg", b"<html>")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=rf"Cannot decode the picture .*{name}.*Download it again"):
            load_picture(tmp_path / name, W * 20, H * 20)
    with pytest.raises(PictureError, match="Cannot decode"):
        load_picture(tmp_path / "gone.jpg", W, H)
    with pytest.raises(PictureError, match="Cannot read"):
        picture_size(tmp_path / "text.jpg")
    assert picture_size(whole) == (W * 20, H * 20)


def test_folders(tmp_path: Path) -> None:
    second = tmp_path / "images/mscoco/images/train2014"
    second.mkdir(parents=True)
    (second / "a.jpg").touch()
    (second / "b.jpg").touch()
    folder = PictureFolder(tmp_path)
    assert folder.find(["b.jpg", "a.jpg"]) == [second / "b.jpg", second / "a.jpg"]
    assert folder.locate(["a.jpg", "c.jpg"]) == [second / "a.jpg", None]
    with pytest.raises(
        DataError, match=r"1 of 2 pictures are missing, first c\.jpg; expected in .*mscoco.*data\.images"
    ):
        folder.find(["a.jpg", "c.jpg"])
    for dataset, advised in (("refcoco+", True), ("kitchens", False)):
        with pytest.raises(DataError, match=r"Set data\.images if they are elsewhere") as caught:
            folder.find(["c.jpg"], dataset=dataset)
        assert ("zips/train2014" in str(caught.value)) == advised, "other datasets have pictures of their own"
    with pytest.raises(DataError, match=r"2 of 2 pictures are missing.* expected in .*images/train2014 or .*mscoco"):
        folder.find(["x.jpg", "deep/\0.jpg"])
    own = tmp_path / "own" / "deep"
    own.mkdir(parents=True)
    (own / "a.jpg").touch()
    assert PictureFolder(tmp_path, "own").find(["deep/a.jpg"]) == [own / "a.jpg"]
    assert PictureFolder(Path("elsewhere"), str(own)).find(["a.jpg"]) == [own / "a.jpg"]
    with pytest.raises(DataError, match=r"expected in .*own"):
        PictureFolder(tmp_path, "own").find(["a.jpg"])


def test_coco_pictures_by_their_other_names(tmp_path: Path) -> None:
    """The 2017 release names pictures by number alone and spreads those of train2014 over two folders."""
    names = [f"COCO_train2014_{n:012d}.jpg" for n in (7, 8, 9)]
    files = [tmp_path / "images" / folder / f"{n:012d}.jpg" for folder, n in (("train2017", 7), ("val2017", 8))]
    for file in (*files, tmp_path / "images" / "val2017" / "kitchen.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert PictureFolder(tmp_path).locate([*names, "kitchen.jpg"]) == [*files, None, None]
    first = tmp_path / "images" / "train2014" / names[0]
    first.parent.mkdir()
    first.touch()
    assert PictureFolder(tmp_path).locate(names) == [first, files[1], None]
    assert PictureFolder(tmp_path).locate([("gone.jpg", names[0])]) == [first], "the first name that exists"


def test_names_outside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "images" / "a").mkdir(parents=True)
    (root / "inside.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    for name in ("../../secret.jpg", str(tmp_path / "secret.jpg"), "a/../../../secret.jpg"):
        with pytest.raises(DataError, match=r"leads out of .*images.*`data\.allow_outside`"):
            PictureFolder(root, str(root / "images")).find([name])
    assert PictureFolder(root, "images").find(["../inside.jpg"]) == [root / "images" / "../inside.jpg"]
    allowed = PictureFolder(root, "images", allow_outside=True)
    assert allowed.find([str(tmp_path / "secret.jpg")]) == [tmp_path / "secret.jpg"]


@pytest.mark.parametrize("name", ["x.avif", "x.blp", "x.dds", "x.eps", "x.ico", "x.icns", "x.tga", "x.pcx"])
def test_formats_that_are_not_read(tmp_path: Path, rgb: np.ndarray, name: str) -> None:
    """Decoders of rare formats are not reached, whatever the file is called."""
    for saved_as in (tmp_path / name, tmp_path / "x.png"):
        try:
            Image.fromarray(rgb).convert("P" if name == "x.blp" else "RGB").save(saved_as, format=name[2:].upper())
        except (KeyError, OSError, ValueError):
            pytest.skip("this Pillow does not write the format")
        with pytest.raises(PictureError, match=r"must be one of JPEG"):
            load_picture(saved_as, W, H)


def test_pipes_devices_and_folders_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(PictureError, match="it is a folder, a pipe or a device"):
            load_picture(path, W, H)
        with pytest.raises(PictureError, match="it is a folder, a pipe or a device"):
            picture_size(path)


@pytest.mark.parametrize("wider", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("higher", [-2, -1, 0, 1, 2])
def test_a_size_within_the_tolerance(tmp_path: Path, rgb: np.ndarray, wider: int, higher: int) -> None:
    """The upper left corner stays where it is: the rest is cut, or the last column and row are repeated."""
    Image.fromarray(rgb).save(tmp_path / "x.png")
    width, height = W + wider, H + higher
    expected = np.zeros((height, width, 3), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            expected[y, x] = rgb[min(y, H - 1), min(x, W - 1)]
    loaded = load_picture(tmp_path / "x.png", width, height, 2)
    np.testing.assert_array_equal(loaded.permute(1, 2, 0).numpy(), expected)
    differences = size_differences([tmp_path / "x.png"], [(width, height)], 1)
    most = max(abs(wider), abs(higher))
    assert [difference.tolerated for difference in differences] == ([most <= 1] if most else [])
    if most:
        assert f"has {W} x {H} pixels, but its annotations are for {width} x {height}" in differences[0].message
        with pytest.raises(PictureError, match="but its annotations are for"):
            load_picture(tmp_path / "x.png", width, height, most - 1)


def test_sizes_from_headers(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(rgb).save(tmp_path / "plain.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "plain.png").read_bytes()[:12])
    names = ["turned.png", "turned.png", "plain.png", "plain.png", "cut.png", "gone.png"]
    sizes = [(W, H), (H, W), (W, H), (H, W), (W, H), (W, H)]
    differences = size_differences([tmp_path / name for name in names], sizes, 1)
    assert [difference.tolerated for difference in differences] == [False, False, False]
    for name, difference in zip(("plain.png", "cut.png", "gone.png"), differences, strict=True):
        assert name in difference.message


def test_a_workers_error_keeps_its_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    boxes = np.zeros((0, 4), dtype=np.float32)
    scene = Scene("1", tmp_path / "bad.jpg", W, H, Proposals(boxes), ())
    loader = scene_loader([scene], torch.utils.data.SequentialSampler(range(1)), batch_size=1, num_workers=1)
    batches = iter(loader)
    with pytest.raises(PictureError) as caught:
        next(batches)
    # Collected as part of a cycle, the iterator would lose its queue first, and wait ten seconds for its worker.
    traceback.clear_frames(caught.tb)
    del batches
    assert str(caught.value).startswith(f"Cannot decode the picture {tmp_path / 'bad.jpg'}")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(PictureError) as direct:
        SceneDataset([scene])[0]
    assert str(direct.value) == str(caught.value)


def test_sensible_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert [sensible_workers(b, p) for b, p in [(3, 1), (100, 1), (100, 4), (100, 8), (100, 16), (100, 0)]] == [
        0, 8, 3, 1, 0, 8,
    ]  # fmt: skip
