"""Measures of bias against plain loops, and on tables where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsap.analysis.measures import (
    modality_gap,
    popularity,
    popularity_share,
    range_variation,
    rank_correlation,
    skewness,
    top_share,
)

TABLES = st.integers(2, 6).flatmap(
    lambda regions: st.lists(
        st.lists(st.integers(-20, 20).map(float), min_size=regions, max_size=regions), min_size=1, max_size=6
    )
)


@given(TABLES)
def test_popularity_is_the_mean_lead_over_the_mean_region(table: list[list[float]]) -> None:
    for region, found in enumerate(popularity(table)):
        assert found == pytest.approx(sum(row[region] - sum(row) / len(row) for row in table) / len(table), abs=1e-9)


@given(TABLES)
def test_popularity_share_is_a_share_of_squares(table: list[list[float]]) -> None:
    centred = [[value - sum(row) / len(row) for value in row] for row in table]
    whole = sum(value**2 for row in centred for value in row) / len(table)
    common = sum((sum(column) / len(table)) ** 2 for column in zip(*centred, strict=True))
    if whole == 0:
        assert math.isnan(popularity_share(table))
    else:
        assert popularity_share(table) == pytest.approx(common / whole, abs=1e-9)
        assert 0 <= popularity_share(table) <= 1 + 1e-9


@given(TABLES, st.floats(0.1, 10), st.floats(-5, 5))
def test_popularity_share_does_not_depend_on_the_unit(table: list[list[float]], scale: float, shift: float) -> None:
    moved = [[scale * value + shift for value in row] for row in table]
    if not math.isnan(popularity_share(table)):
        assert popularity_share(moved) == pytest.approx(popularity_share(table), abs=1e-6)


@given(TABLES)
def test_range_variation_is_that_of_the_ranges(table: list[list[float]]) -> None:
    ranges = [max(column) - min(column) for column in zip(*table, strict=True)]
    mean = sum(ranges) / len(ranges)
    if mean == 0:
        assert math.isnan(range_variation(table))
    else:
        spread = math.sqrt(sum((r - mean) ** 2 for r in ranges) / len(ranges))
        assert range_variation(table) == pytest.approx(spread / mean, abs=1e-9)


def test_a_planted_hub_and_a_balanced_world() -> None:
    """A region that gains the same for every text has all of the share; independent preferences have about 1 / T."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 12))
    assert popularity_share(noise) == pytest.approx(1 / 400, rel=0.8)
    hub = noise.copy()
    hub[:, 3] += 5
    best = np.bincount(hub.argmax(1), minlength=12)
    assert popularity(hub).argmax() == 3
    assert popularity_share(hub) > 0.5
    assert skewness(best) > 2.5 > abs(skewness(np.bincount(noise.argmax(1), minlength=12))) + 1
    assert top_share(best) > 0.95


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_top_share_and_skewness(counts: list[int]) -> None:
    best = sorted(counts, reverse=True)[: max(1, round(0.1 * len(counts)))]
    if sum(counts):
        assert top_share(counts) == pytest.approx(sum(best) / sum(counts))
    mean = sum(counts) / len(counts)
    spread = math.sqrt(sum((c - mean) ** 2 for c in counts) / len(counts))
    if spread > 1e-9:
        third = sum((c - mean) ** 3 for c in counts) / len(counts)
        assert skewness(counts) == pytest.approx(third / spread**3, abs=1e-9)
    else:
        assert math.isnan(skewness(counts))


def test_a_planted_gap() -> None:
    rng = np.random.default_rng(1)
    cloud = rng.normal(size=(5000, 4)) * 0.1
    shift = np.array([0.3, 0.0, -0.4, 0.0])
    assert modality_gap(cloud + shift, cloud) == pytest.approx(0.5)
    assert modality_gap(cloud, cloud[::-1]) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=15))
def test_rank_correlation_with_ties(pairs: list[tuple[int, int]]) -> None:
    def ranks(values: list[int]) -> list[float]:
        return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]

    a, b = (ranks(list(column)) for column in zip(*pairs, strict=True))
    mean = (len(pairs) + 1) / 2
    whole = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    found = rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
    if whole:
        assert found == pytest.approx(sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / whole)
    else:
        assert math.isnan(found)
