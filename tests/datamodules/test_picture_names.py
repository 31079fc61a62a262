from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsap.datamodules.picture_names import by_picture, coco_names, leaves, number, stem
from bsap.datamodules.records import PictureRecord
from bsap.errors import DataError


def picture(image_id: str, file_name: str) -> PictureRecord:
    return PictureRecord("x", image_id, file_name, 40, 30, {})


COCO = [picture(str(n), f"COCO_train2014_{n:012d}.jpg") for n in (7, 70, 154)]
WAYS = {
    "image_id": lambda p: p.image_id,
    "file_name": lambda p: p.file_name,
    "file name without suffix": lambda p: stem(p.file_name),
    "number of the image_id": lambda p: p.image_id.zfill(5),
    "number of the file name": lambda p: "000" + number(p.file_name),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_to_name_pictures(way: str) -> None:
    pictures = [picture(f"{n + 4}", f"scene/COCO_train2014_{n:012d}.png") for n in (7, 70, 154)]
    found, named_by = by_picture({WAYS[way](p): p.image_id for p in pictures[1:]} | {"other": "x"}, pictures, "f.json")
    assert (found, named_by) == ({p.image_id: p.image_id for p in pictures[1:]}, way)


def test_the_most_exact_way_that_fits_most_pictures() -> None:
    """Keys that could be padded ids of one picture or the file names of another are the file names."""
    pictures = [picture("9", "00005.jpg"), picture("5", "00009.jpg")]
    found, named_by = by_picture({"00009": "a", "00005": "b"}, pictures, "f.json")
    assert (found, named_by) == ({"5": "a", "9": "b"}, "file name without suffix")
    found, named_by = by_picture({"9": "a", "5": "b"}, pictures, "f.json")
    assert (found, named_by) == ({"9": "a", "5": "b"}, "image_id")
    assert by_picture({}, pictures, "f.json") == ({}, "image_id")


def test_names_that_do_not_tell_pictures_apart_are_not_used() -> None:
    """The boxes of the picture 1 must not become those of a/1.jpg and of b/1.jpg."""
    pictures = [picture(name, name) for name in ("a/1.jpg", "b/1.jpg", "a/2.jpg")]
    assert by_picture({"1": "x", "2": "y", "3": "z"}, pictures, "f.json") == ({}, "image_id")
    assert by_picture({"1": "x", "2": "y"}, pictures[1:], "f.json")[0] == {"b/1.jpg": "x", "a/2.jpg": "y"}


def test_a_picture_under_two_names() -> None:
    with pytest.raises(DataError, match=r"f\.json: '007' and '0007' are the same picture"):
        by_picture({"007": 1, "0007": 2}, COCO, "f.json")


def test_coco_names_of_both_years() -> None:
    names = {"COCO_train2014_000000000007.jpg", "COCO_val2014_000000000007.jpg", "000000000007.jpg"}
    for name in names:
        assert set(coco_names(name)) == names - {name}
    for name in ("COCO_train2014_7.jpg", "kitchen.jpg", "0000000000007.jpg", "COCO_test2015_000000000007.jpg"):
        assert coco_names(name) == ()


@given(st.text(max_size=20), st.integers(0, 9))
def test_numbers_do_not_depend_on_padding(text: str, zeros: int) -> None:
    assert number(f"{'0' * zeros}7") == "7"
    assert number(number(text)) == number(text)


def test_names_that_leave_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "images"
    roots = [tmp_path / "root", folder]
    for name in (
        "a.jpg",
        "deep/a.jpg",
        "../a.jpg",
        "deep/../../a.jpg",
        str(folder / "a.jpg"),
        "..a.jpg",
        "a/..b/c.jpg",
    ):
        assert not leaves(name, folder, roots), name
    for name in (
        "../../a.jpg",
        "deep/../../../a.jpg",
        "/etc/passwd",
        str(tmp_path / "a.jpg"),
        f"{tmp_path}/root2/a.jpg",
    ):
        assert leaves(name, folder, roots), name
