"""Values that tell two classes apart: by hand, and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsap.metrics.functional.rejection import auroc, average_precision, coverage_accuracy

rows = st.lists(st.tuples(st.sampled_from([-math.inf, 0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=12)


@given(rows, st.data())
def test_against_loops(drawn: list[tuple[float, bool]], data: st.DataObject) -> None:
    values, marks = [list(column) for column in zip(*drawn, strict=True)]
    yes, no = ([v for v, mark in drawn if mark is side] for side in (True, False))
    pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
    assert auroc(values, marks) == pytest.approx(sum(pairs) / len(pairs) if pairs else math.nan, nan_ok=True)
    precisions = [sum(v >= y for v in yes) / sum(v >= y for v in values) for y in yes]
    expected = sum(precisions) / len(precisions) if yes else math.nan
    assert average_precision(values, marks) == pytest.approx(expected, nan_ok=True)
    coverage, accuracy = coverage_accuracy(values, marks)
    for value, share, right in zip(sorted(set(values), reverse=True), coverage, accuracy, strict=True):
        reached = [mark for v, mark in drawn if v >= value]
        assert (share, right) == pytest.approx((len(reached) / len(drawn), sum(reached) / len(reached)))
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(drawn), max_size=len(drawn)))
    many = [row for row, weight in zip(drawn, weights, strict=True) for _ in range(weight)]
    if many:
        repeated = [list(column) for column in zip(*many, strict=True)]
        for function in (auroc, average_precision):
            once = function(*repeated)
            assert function(values, marks, weights) == pytest.approx(once, nan_ok=True)


def test_by_hand() -> None:
    assert auroc([3, 1, 2], [True, False, False]) == 1.0
    assert auroc([1, 1], [True, False]) == 0.5
    assert math.isnan(auroc([1, 1], [True, True]))
    assert average_precision([4, 3, 2, 1], [False, True, False, True]) == 0.5
    assert [a.size for a in coverage_accuracy([], np.zeros(0, bool))] == [0, 0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="to be N numbers, N bool and N numbers"):
        auroc([1.0, 2.0], [1, 0])
    with pytest.raises(ValueError, match="to hold no NaN"):
        auroc([math.nan, 2.0], [True, False])
