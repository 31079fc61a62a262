from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from bsap.metrics import box_iou_pairs, rec_accuracy, rec_hits


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def exact_iou(a, b):
    """The definition, in fractions of integers."""
    a, b = [Fraction(x) for x in a], [Fraction(x) for x in b]
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union else Fraction(0)


coordinate = st.integers(0, 2000 * 8).map(lambda eighths: eighths / 8)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@given(st.lists(st.tuples(box, box), min_size=1, max_size=20))
def test_box_iou_pairs_is_the_correctly_rounded_quotient(pairs):
    preds, target = torch.tensor(pairs).unbind(dim=1)
    iou = box_iou_pairs(preds, target)
    assert iou.dtype == torch.float64
    assert iou.tolist() == [float(exact_iou(a, b)) for a, b in pairs]


def test_box_iou_pairs_agrees_with_torchvision_on_arbitrary_floats():
    corners = torch.from_numpy(np.random.default_rng(0).uniform(0, 640, (500, 2, 2, 2)).astype(np.float32))
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)
    preds, target = boxes.unbind(dim=1)
    expected = box_iou(preds.double(), target.double()).diagonal()
    torch.testing.assert_close(box_iou_pairs(preds, target), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),
        ((0, 0, 2, 2), (5, 5, 6, 6), 0.0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((0, 0, 3, 1), (0, 0, 1, 1), 1 / 3),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),
        ((0, 0, 0, 5), (0, 0, 0, 5), 0.0),
        # a full-size picture of 20,000 pixels a side less one pixel: float32 areas would round to 1
        ((0, 0, 20_001, 20_001), (0, 0, 20_001, 20_000.998046875), 20_000.998046875 / 20_001),
    ],
)
def test_box_iou_pairs_by_hand(a, b, iou):
    a, b = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    assert box_iou_pairs(a, b).item() == box_iou_pairs(b, a).item() == iou


def test_box_iou_pairs_of_nothing():
    assert box_iou_pairs(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.zeros(4), torch.zeros(1, 4), "`preds` to be a floating-point tensor of shape .N, 4."),
        (torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.int64), "`target` to be a floating-point .* got torch.int64"),
        (torch.zeros(1, 4), torch.zeros(2, 4), "`target` to be of the shape of `preds`, .1, 4., but got .2, 4."),
        (
            torch.tensor([[0, 0, 1, 1], [0, 0, math.nan, 1]]),
            torch.zeros(2, 4),
            r"`preds` .* \[0.0, 0.0, nan, 1.0\] in row 1",
        ),
        (torch.zeros(1, 4), torch.tensor([[0, 0, math.inf, 1]]), "`target` to be finite boxes .* inf"),
        (torch.tensor([[5.0, 0, 1, 1]]), torch.zeros(1, 4), "`preds` .* x1 <= x2"),
    ],
)
def test_box_iou_pairs_refuses(preds, target, message):
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        box_iou_pairs(preds, target)


def test_rec_hits_on_the_threshold():
    iou = f64(0.5, math.nextafter(0.5, 0), math.nextafter(0.5, 1), 0.0, 1.0)
    assert rec_hits(iou).tolist() == [[True], [False], [True], [False], [True]]
    assert rec_hits(iou, strict=True).tolist() == [[False], [False], [True], [False], [True]]
    assert rec_hits(iou, (0.75, 0.0, 1.0))[0].tolist() == [False, True, False]
    assert rec_hits(iou, [1.0], strict=True).sum() == 0


@pytest.mark.parametrize(
    ("iou", "thresholds", "message"),
    [
        (torch.tensor([0.7]), (0.7,), "`iou` to be a float64 tensor .* got torch.float32 of shape .1,."),
        (f64(0.5)[None], (0.5,), "`iou` to be a float64 tensor of shape .N,."),
        (f64(0.5, math.nan), (0.5,), "`iou` to be numbers from 0 to 1, but got nan in row 1"),
        (f64(-0.1), (0.5,), "`iou` to be numbers from 0 to 1, but got -0.1 in row 0"),
        (f64(1.5), (0.5,), "`iou` to be numbers from 0 to 1"),
        (f64(0.5), (), "`thresholds` to be one or more different numbers between 0 and 1, but got ()"),
        (f64(0.5), (0.5, 0.5), "`thresholds` .* but got .0.5, 0.5."),
        (f64(0.5), (50,), "`thresholds` .* but got .50,."),
        (f64(0.5), (math.nan,), "`thresholds` .* but got .nan,."),
    ],
)
def test_rec_hits_refuses(iou, thresholds, message):
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        rec_hits(iou, thresholds)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.95, 1.0]), min_size=1, unique=True),
    st.booleans(),
)
def test_rec_accuracy_against_a_loop(samples, thresholds, strict):
    iou = f64(*(twentieths / 20 for twentieths, _ in samples))
    missing = torch.tensor([absent for _, absent in samples])
    scores = rec_accuracy(iou, missing, thresholds=thresholds, strict=strict)
    for threshold in thresholds:
        hundredths = round(threshold * 100)
        hits = 0
        for twentieths, absent in samples:
            if absent:
                continue
            hits += twentieths * 5 > hundredths or (twentieths * 5 == hundredths and not strict)
        assert scores[f"acc@{threshold}"].item() == hits / len(samples)
    assert scores["n"] == len(samples)
    assert scores["missing"] == missing.sum()


def test_missing_is_wrong_whatever_its_iou():
    iou, missing = f64(1.0, math.nan, 1.0, 7.0), torch.tensor([True, True, False, True])
    values = {name: value.item() for name, value in rec_accuracy(iou, missing, thresholds=[0, 0.5]).items()}
    assert values == {"acc@0.0": 0.25, "acc@0.5": 0.25, "mAcc": 0.25, "n": 4, "missing": 3}


@pytest.mark.parametrize("missing", [torch.tensor([True]), torch.tensor([1, 0])])
def test_rec_accuracy_refuses_other_missing(missing):
    with pytest.raises(ValueError, match=r"Expected argument `missing` to be a bool tensor of shape \(2,\), but got"):
        rec_accuracy(f64(0.1, 0.2), missing)
