from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsap.metrics import RISScores, ris_scores

overlap = st.one_of(
    st.tuples(st.integers(0, 30), st.integers(1, 30)),
    st.tuples(st.integers(0, 2**40 - 1), st.integers(1, 2**40 - 1)),
).map(lambda pair: (min(pair), max(pair)))
counts = overlap.filter(lambda pair: pair[1] > 0)


@given(st.lists(st.tuples(counts, st.booleans()), min_size=1, max_size=40))
def test_against_a_loop_over_fractions(samples):
    samples = [((0 if absent else i, u), absent) for (i, u), absent in samples]
    intersection, union = torch.tensor([pair for pair, _ in samples]).unbind(dim=1)
    missing = torch.tensor([absent for _, absent in samples])
    scores = ris_scores(intersection, union, missing)
    total_i = total_u = 0
    mean = Fraction(0)
    hits = dict.fromkeys((5, 6, 7, 8, 9), 0)
    for (i, u), _ in samples:
        total_i, total_u = total_i + i, total_u + u
        mean += Fraction(i, u) / len(samples)
        for tenths in hits:
            hits[tenths] += Fraction(i, u) >= Fraction(tenths, 10)
    assert scores["oIoU"].item() == total_i / total_u
    assert 0 <= mean - Fraction(scores["mIoU"].item()) + Fraction(1, 2**53) < Fraction(1, 10**12)
    for tenths, count in hits.items():
        assert scores[f"Pr@0.{tenths}"].item() == count / len(samples)
    assert scores["n"] == len(samples)
    assert scores["missing"] == missing.sum()


@given(counts)
def test_fixed_point_is_the_integer_quotient(pair):
    intersection, union = pair
    mean = ris_scores(torch.tensor([intersection]), torch.tensor([union]))["mIoU"]
    assert mean.item() * 2**40 == (intersection << 40) // union


def test_by_hand():
    scores = ris_scores(torch.tensor([8, 3, 0]), torch.tensor([8, 6, 6]), torch.tensor([False, False, True]))
    values = {name: value.item() for name, value in scores.items()}
    assert values == {
        "oIoU": 11 / 20,
        "mIoU": 0.5,
        "Pr@0.5": 2 / 3,
        "Pr@0.6": 1 / 3,
        "Pr@0.7": 1 / 3,
        "Pr@0.8": 1 / 3,
        "Pr@0.9": 1 / 3,
        "n": 3,
        "missing": 1,
    }


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("scale", [1, 10**5, 10**10])
def test_precision_on_the_threshold_and_one_pixel_below(tenths, scale):
    union = 10 * scale
    at, below = tenths * scale, tenths * scale - 1
    scores = ris_scores(torch.tensor([at, below]), torch.tensor([union, union]))
    assert scores[f"Pr@0.{tenths}"] == 0.5


def test_perfect_masks_score_exactly_1():
    union = torch.tensor([1, 307_200, 2**31, 2**40 - 1])
    scores = ris_scores(union, union)
    assert all(scores[name] == 1.0 for name in ("oIoU", "mIoU", "Pr@0.9"))


def test_missing_misses_even_a_threshold_of_0():
    scores = ris_scores(torch.tensor([0, 0]), torch.tensor([5, 5]), torch.tensor([True, False]), thresholds=[0.0])
    assert scores["Pr@0.0"] == 0.5


@pytest.mark.parametrize(
    ("intersection", "union", "missing", "message"),
    [
        ([0], [0], None, r"`union` to be from 1 to 2\^40 - 1 pixels .* but got 0 in row 0"),
        ([1, 1], [1, 2**40], None, f"`union` .* but got {2**40} in row 1"),
        ([3], [2], None, "`intersection` to be from 0 to the union, and 0 where `missing`, but got 3 in row 0"),
        ([-1], [2], None, "`intersection` .* but got -1"),
        ([1, 1], [2, 2], [False, True], "`intersection` .* but got 1 in row 1"),
        ([1], [2, 2], None, "`union` to be an int64 tensor .* but got torch.int64 of shape .2,."),
        ([1.0], [2], None, "`intersection` to be an int64 tensor .* but got torch.float32"),
        ([[1]], [[2]], None, "`intersection` to be an int64 tensor of shape .N,."),
        ([1], [2], [1], "`missing` to be a bool tensor of shape .1,., but got torch.int64"),
    ],
)
def test_refuses(intersection, union, missing, message):
    missing = None if missing is None else torch.tensor(missing)
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        ris_scores(torch.tensor(intersection), torch.tensor(union), missing)


def test_refuses_as_many_samples_as_could_overflow():
    metric = RISScores((0.5,))
    full = torch.tensor(2**23 - 1)
    metric.update(torch.tensor([1]), torch.tensor([1]))
    metric.intersection = metric.union = full * (2**40 - 1)
    metric.iou_fixed, metric.hits, metric.total = full * 2**40, full[None], full
    assert metric.compute()["mIoU"] == 1.0
    metric.update(torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"less than 2\^23 samples, but got 8388608"):
        metric.compute()
