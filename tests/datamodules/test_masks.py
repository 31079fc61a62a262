from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from bsap.datamodules.masks import PictureMasks, boxes_of_masks, encode_mask, encode_masks, pack_polygons, whole_mask
from bsap.datamodules.records import RegionRecord
from bsap.errors import DataError

# pycocotools' own arrays do not know numpy 2's keyword
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

W, H = 23, 17


def runs_of(dense: np.ndarray) -> list[int]:
    """Run lengths by columns, zeros first, by a plain loop."""
    runs, current, length = [], 0, 0
    for pixel in dense.T.reshape(-1).tolist():
        if pixel != current:
            runs.append(length)
            current, length = pixel, 0
        length += 1
    return [*runs, length]


masks = arrays(np.uint8, (H, W), elements=st.integers(0, 1))


@settings(max_examples=150, deadline=None)
@given(dense=masks)
def test_every_form_of_run_lengths(dense: np.ndarray) -> None:
    compressed = coco.encode(np.asfortranarray(dense))["counts"]
    for counts in (compressed, compressed.decode(), runs_of(dense)):
        rle = encode_mask({"size": [H, W], "counts": counts}, W, H, "x")
        assert rle is not None
        assert rle["counts"] == compressed
        np.testing.assert_array_equal(coco.decode(rle), dense)


def test_long_runs() -> None:
    """Runs that need many characters, and differences of both signs."""
    dense = np.zeros((2000, 3000), dtype=np.uint8, order="F")
    dense[:, 100:2900] = 1
    dense[7, 200] = dense[1999, 2899] = 0
    rle = coco.encode(dense)
    read = encode_mask({"size": [2000, 3000], "counts": rle["counts"].decode()}, 3000, 2000, "x")
    assert read is not None
    assert int(coco.area(read)) == int(dense.sum())


def test_polygons_are_united_not_subtracted() -> None:
    """Two overlapping squares: their union, also where they overlap."""
    a, b = [1, 1, 9, 1, 9, 9, 1, 9], [5, 5, 13, 5, 13, 13, 5, 13]
    rle = encode_mask([a, b], W, H, "x")
    expected = np.zeros((H, W), dtype=np.uint8)
    expected[1:9, 1:9] = 1
    expected[5:13, 5:13] = 1
    assert rle is not None
    np.testing.assert_array_equal(coco.decode(rle), expected)
    packed = encode_mask(pack_polygons([a, [float(v) for v in b]]), W, H, "x")
    assert packed == rle


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 4))
def test_forms_of_the_same_mask(data: st.DataObject, count: int) -> None:
    """Polygons as flat numbers, as pairs, and as run-length encodings, alone or several: always the same union."""
    number = st.integers(0, 13)
    corners = [data.draw(st.lists(st.tuples(number, number), min_size=3, max_size=6)) for _ in range(count)]
    corners[0] += [(0, 0), (13, 0), (13, 3)]  # not within one pixel
    flat = [[value for corner in polygon for value in corner] for polygon in corners]
    expected = np.zeros((H, W), dtype=np.uint8)
    for drawn in coco.frPyObjects([[float(v) for v in polygon] for polygon in flat], H, W):
        expected |= coco.decode(drawn)
    parts = coco.frPyObjects([[float(v) for v in polygon] for polygon in flat], H, W)
    texts = [{"size": p["size"], "counts": p["counts"].decode()} for p in parts]
    plain = [{"size": [H, W], "counts": runs_of(coco.decode(p))} for p in parts]
    forms: list[object] = [flat, [[list(c) for c in polygon] for polygon in corners], parts, texts, plain]
    forms.append([texts[0], *flat[1:]])
    if count == 1:
        forms += [flat[0], [list(c) for c in corners[0]], texts[0]]
    for form in forms:
        for given_as in (form, pack_polygons(form)):
            encoded = encode_mask(given_as, W, H, "x")
            assert encoded is not None
            np.testing.assert_array_equal(coco.decode(encoded), expected)


def test_none_and_whole() -> None:
    assert encode_mask(None, W, H, "x") is None
    assert encode_mask([], W, H, "x") is None
    assert coco.decode(whole_mask(W, H)).sum() == W * H
    rle = encode_mask([[2, 3, 6, 3, 6, 10, 2, 10]], W, H, "x")
    assert rle is not None
    np.testing.assert_array_equal(boxes_of_masks([rle]), [[2, 3, 4, 7]])
    assert boxes_of_masks([]).shape == (0, 4)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [W, H], "counts": [W * H]}, r"size \[23, 17\] is not \[height, width\] = \[17, 23\]"),
        ({"size": [H, W], "counts": [5, 5]}, "cover 10 pixels"),
        ({"size": [H, W], "counts": [-1, W * H + 1]}, "whole numbers"),
        ({"size": [H, W], "counts": [True, W * H - 1]}, "whole numbers"),
        ({"size": [H, W], "counts": [1.5, W * H - 1.5]}, "whole numbers"),
        ({"size": [H, W], "counts": [2**62, 2**62, 2**62, 2**62]}, "whole numbers"),
        ({"size": [H, W], "counts": ""}, "not a run-length encoding"),
        ({"size": [H, W], "counts": "`"}, "not a run-length encoding"),  # "more follows", but nothing does
        ({"size": [H, W], "counts": "PPPPPPPPPPPPPPPP0"}, "cover|not a run-length"),
        ({"size": [H, W], "counts": "é"}, "cover|not a run-length"),
        ({"size": [H, W], "counts": "o" * 40 + "0"}, "not a run-length encoding"),
        ({"size": [H, W], "counts": None}, "not a run-length encoding"),
        ({"size": [H, W], "counts": 7}, "not a run-length encoding"),
        ({"size": "17x23", "counts": [1]}, "size"),
        ({"counts": [W * H]}, "must be polygons or a run-length encoding"),
        ("gUW3", "must be polygons"),
        (7, "must be polygons"),
        ([[1, 2, 3, 4]], "at least three"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three"),
        ([1, 2, 3, 4, 5, 6, 7], "at least three"),
        ([[1, 2], [3, 4]], "at least three"),
        ([[1, 2], [3, 4], [5]], "at least three"),
        ([[1, 2], [3, 4], [5, None]], "at least three"),
        ([[[1, 2], [3, 4]]], "at least three"),
        ([{"size": [H, W], "counts": [W * H]}, {"size": [W, H], "counts": [W * H]}], "size"),
        ([[0.2, 0.2, 0.6, 0.2, 0.6, 0.9]], "normalised"),
        ([[0.2, 0.2], [0.6, 0.2], [0.6, 0.9]], "normalised"),
        ([[1, 2, 3, 4, 5, "6"]], "at least three"),
        ([[1, 2, 3, 4, 5, None]], "at least three"),
        ([[1, 2, 3, 4, 5, float("nan")]], "beyond its picture"),
        ([[1, 2, 3, 4, 5, float("inf")]], "beyond its picture"),
        ([[1, 2, 3, 4, 10**400, 6]], "beyond its picture"),
        ([[1, 2, 3, 4, 1e9, 6]], "beyond its picture"),
        ([[-3, 2, 3, 4, 5, 6]], "beyond its picture"),
        ([[1, 2, 3, 4, 5, H + 3]], "beyond its picture"),
    ],
)
def test_refusals_name_the_place(segmentation: object, message: str) -> None:
    for given_as in (segmentation, pack_polygons(segmentation)):
        with pytest.raises(DataError, match=f"^annotation 5: .*({message})"):
            encode_mask(given_as, W, H, "annotation 5")


@settings(max_examples=400, deadline=None)
@given(counts=st.binary(max_size=30) | st.text(max_size=30) | st.text("0123456789:;PQRSo`abc", max_size=30))
def test_no_other_counts_reach_pycocotools(counts: bytes | str) -> None:
    """Whatever passes must decode to the picture's size with the same runs."""
    try:
        rle = encode_mask({"size": [4, 5], "counts": counts}, 5, 4, "x")
    except DataError:
        return
    assert rle is not None
    dense = coco.decode(rle)
    assert dense.shape == (4, 5)
    assert set(np.unique(dense)) <= {0, 1}


def test_masks_of_one_picture_in_one_go() -> None:
    """Polygons of several parts between other forms keep their places."""
    forms: list[object] = [
        [[1, 1, 9, 1, 9, 9, 1, 9], [5, 5, 13, 5, 13, 13, 5, 13]],
        None,
        {"size": [H, W], "counts": [0, W * H]},
        [[2, 3, 6, 3, 6, 10, 2, 10]],
        [],
    ]
    alone = [encode_mask(form, W, H, "x") for form in forms]
    assert encode_masks(forms, W, H, ["x"] * 5) == alone
    assert [mask is None for mask in alone] == [False, True, False, False, True]
    wrong = [[1, 1, 5, 1, 5, 99]]
    with pytest.raises(DataError, match=r"annotation 4: a polygon reaches beyond .*99"):
        encode_masks([*forms, wrong], W, H, ["annotation 0"] * 5 + ["annotation 4"])


def test_a_picture_encodes_each_mask_once() -> None:
    square, other = (RegionRecord("x", None, [[x, 3, 6, 3, 6, 10, x, 10]]) for x in (2, 3))
    picture = PictureMasks(W, H)
    first = picture.of([square])
    assert picture.of([other, square])[1] is first[0]
