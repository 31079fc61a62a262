from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from bsap.metrics import best_overlap, mask_overlap, mask_overlap_matrix, mask_union


def rle(mask):
    return coco.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8)))


def runs(size, counts):
    """A mask of any size, by the lengths of its alternating runs of 0 and 1."""
    return coco.frPyObjects({"size": list(size), "counts": list(counts)}, *size)


@st.composite
def pictures(draw, masks):
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    return [draw(hnp.arrays(np.bool_, shape)) for _ in range(masks)]


@given(pictures(masks=2))
def test_mask_overlap_counts_pixels(masks):
    a, b = masks
    assert mask_overlap(rle(a), rle(b)) == ((a & b).sum(), (a | b).sum())
    assert mask_overlap(None, rle(b)) == (0, b.sum())


@given(pictures(masks=5))
def test_mask_overlap_matrix_counts_pixels(masks):
    preds, targets = masks[:3], masks[3:]
    intersection, union = mask_overlap_matrix([rle(a) for a in preds], [rle(b) for b in targets])
    assert intersection.tolist() == [[(a & b).sum() for b in targets] for a in preds]
    assert union.tolist() == [[(a | b).sum() for b in targets] for a in preds]


@given(pictures(masks=4))
def test_best_overlap_is_the_first_of_the_best(masks):
    pred, *targets = masks
    best = (0, targets[0].sum())
    for target in targets:
        intersection, union = (pred & target).sum(), (pred | target).sum()
        if union and (not best[1] or Fraction(int(intersection), int(union)) > Fraction(int(best[0]), int(best[1]))):
            best = (intersection, union)
    found = best_overlap(rle(pred), [rle(target) for target in targets])
    expected = Fraction(int(best[0]), max(int(best[1]), 1))
    assert Fraction(found[0], max(found[1], 1)) == expected


def test_quotients_agree_with_pycocotools():
    rng = np.random.default_rng(3)
    ys, xs = np.mgrid[:120, :90]
    blobs = []
    for y, x, radius in rng.uniform((0, 0, 5), (120, 90, 60), (30, 3)):
        blobs.append(rle((ys - y) ** 2 + (xs - x) ** 2 < radius**2))
    preds, targets = blobs[:20], blobs[20:]
    intersection, union = mask_overlap_matrix(preds, targets)
    expected = coco.iou(preds, targets, [0] * len(targets))
    assert (expected > 0).sum() > 50
    np.testing.assert_array_equal((intersection.double() / union.double()).numpy(), expected)
    pairs = torch.stack([intersection, union], dim=-1).tolist()
    assert pairs == [[list(mask_overlap(a, b)) for b in targets] for a in preds]


@pytest.mark.parametrize("size", [(46_341, 46_341), (65_536, 32_768), (65_535, 65_537)])
def test_huge_pictures_are_counted_exactly(size):
    """Up to 2^32 - 1 pixels, where uint32 areas are about to wrap and their sum does."""
    pixels = size[0] * size[1]
    most = runs(size, [1, pixels - 1])
    odd = runs(size, [0, pixels - 3, 3])
    expected = (pixels - 4, pixels)
    assert mask_overlap(most, odd) == expected
    intersection, union = mask_overlap_matrix([most, odd], [odd])
    assert (intersection[0, 0], union[0, 0]) == expected
    assert intersection[1, 0] == union[1, 0] == pixels - 3


def test_overlaps_by_hand():
    left, right, all_ = rle([[1, 0]]), rle([[0, 1]]), rle([[1, 1]])
    assert [mask_overlap(*pair) for pair in ((left, right), (None, all_), (all_, left))] == [(0, 2), (0, 2), (1, 2)]


def test_text_counts_are_as_good_as_bytes():
    mask = rle([[1, 0], [1, 1]])
    text = {"size": (2, 2), "counts": mask["counts"].decode()}
    assert mask_overlap(text, mask) == (3, 3)
    assert mask_overlap_matrix([text], [mask, text])[0].tolist() == [[3, 3]]


def test_best_overlap_ties_and_none():
    pred = rle([[1, 1, 0, 0]])
    first, second = rle([[1, 0, 0, 0]]), rle([[1, 1, 1, 1]])
    assert best_overlap(pred, [first, second]) == (1, 2)
    assert best_overlap(pred, [second, first]) == (2, 4)
    assert best_overlap(None, [second, first]) == (0, 4)


def test_best_overlap_compares_beyond_floats():
    """Two quotients that are one float64, of which the second is larger."""
    size = (65_535, 65_535)
    pixels = size[0] * size[1]
    pred = runs(size, [0, pixels])
    less, more = runs(size, [2, pixels - 2]), runs(size, [1, pixels - 1])
    assert best_overlap(pred, [less, more]) == (pixels - 1, pixels)


def test_empty_matrix_has_its_shape():
    mask = rle([[1]])
    assert [part.shape for part in mask_overlap_matrix([], [mask])] == [(0, 1), (0, 1)]
    assert [part.shape for part in mask_overlap_matrix([mask, mask], [])] == [(2, 0), (2, 0)]


def test_other_sizes_are_refused():
    wide, tall = rle([[1, 1]]), rle([[1], [1]])
    message = "Expected argument `pred` to be a mask of the target's size, height x width 2 x 1, but got 1 x 2"
    for call in (
        lambda: mask_overlap(wide, tall),
        lambda: best_overlap(wide, [tall]),
        lambda: mask_overlap_matrix([tall, wide], [tall]),
        lambda: mask_overlap_matrix([tall], [tall, wide]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_other_arguments_are_refused():
    mask = rle([[1]])
    with pytest.raises(ValueError, match="`targets` to be at least one mask"):
        best_overlap(mask, [])
    with pytest.raises(ValueError, match="`target` to be compressed run-length encodings, but got counts of type list"):
        mask_overlap(mask, {"size": [1, 1], "counts": [0, 1]})
    with pytest.raises(ValueError, match=r"`pred` to have less than 2\^32 pixels, but got 65536 x 65536"):
        mask_overlap({"size": [65_536, 65_536], "counts": b"0"}, mask)


@given(st.lists(hnp.arrays(bool, (5, 7)), min_size=1, max_size=4))
def test_a_union_has_the_pixels_of_any(planes):
    union = mask_union([coco.encode(np.asfortranarray(plane, np.uint8)) for plane in planes])
    assert np.array_equal(coco.decode(union), np.any(planes, axis=0))


def test_a_union_is_of_one_picture():
    small, large = (coco.encode(np.ones(shape, np.uint8, order="F")) for shape in ((2, 3), (3, 2)))
    with pytest.raises(ValueError, match="`masks` to be of one size, height x width 2 x 3, but got 3 x 2"):
        mask_union([small, small, large])
    with pytest.raises(ValueError, match="`masks` to be at least one mask, but got none"):
        mask_union([])
