"""Paired statistics against plain loops, known distributions and simulated worlds."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsap.analysis.paired import Gain, Outcomes, compare_outcomes, holm, mcnemar


def ratios(parts: list[float], wholes: list[float]) -> Outcomes:
    return Outcomes(("m",), np.array([parts], float), np.array([wholes], float))


def compare(rows: list[tuple[float, float, float, float, str]], **options: int) -> Gain:
    """One metric from rows of part and whole of A, part and whole of B, picture."""
    a, of_a, b, of_b, pictures = (list(column) for column in zip(*rows, strict=True))
    (gain,) = compare_outcomes(ratios(a, of_a), ratios(b, of_b), pictures, **options)
    return gain


def drawn_rows(seed: int, pictures: int) -> list[tuple[float, float, float, float, str]]:
    """Intersections and unions of two scorers, in pictures of unequal size."""
    rng, rows = random.Random(seed), []
    for picture in range(pictures):
        for _ in range(rng.randint(1, 6)):
            of_a, of_b = rng.randint(1, 1000), rng.randint(1, 1000)
            rows.append((rng.randint(0, of_a), of_a, rng.randint(of_b // 4, of_b), of_b, f"p{picture}"))
    return rows


def loop_difference(rows: list[tuple[float, float, float, float, str]]) -> float:
    a, of_a, b, of_b = (sum(row[column] for row in rows) for column in range(4))
    return b / of_b - a / of_a


def test_the_interval_agrees_with_a_plain_loop_over_pictures() -> None:
    rows = drawn_rows(1, 30)
    by_picture = {name: [row for row in rows if row[4] == name] for *_, name in rows}
    chance, names = random.Random(2), list(by_picture)
    drawn = sorted(
        loop_difference([row for _ in names for row in by_picture[chance.choice(names)]]) for _ in range(4000)
    )
    gain = compare(rows)
    width = drawn[3900] - drawn[100]
    assert gain.difference == pytest.approx(loop_difference(rows))
    assert gain.low == pytest.approx(drawn[100], abs=0.06 * width)
    assert gain.high == pytest.approx(drawn[3900], abs=0.06 * width)
    assert (gain.expressions, gain.pictures) == (len(rows), 30)


def test_the_p_value_is_that_of_all_exchanges() -> None:
    """With 8 pictures all 256 exchanges can be listed."""
    rows = drawn_rows(5, 8)
    observed, extreme = abs(loop_difference(rows)), 0
    for flips in product([False, True], repeat=8):
        swapped = [
            (b, of_b, a, of_a, p) if flips[int(p[1:])] else (a, of_a, b, of_b, p) for a, of_a, b, of_b, p in rows
        ]
        extreme += abs(loop_difference(swapped)) >= observed - 1e-12
    assert compare(rows, resamples=20_000).p == pytest.approx(extreme / 256, abs=0.015)


def test_equal_scorers_have_no_gain_and_a_p_value_of_one() -> None:
    rows = [(a, of_a, a, of_a, p) for a, of_a, _, _, p in drawn_rows(3, 20)]
    gain = compare(rows, resamples=500)
    assert (gain.difference, gain.low, gain.high, gain.p, gain.wins, gain.losses) == (0, 0, 0, 1, 0, 0)


def test_one_picture_has_no_interval() -> None:
    gain = compare([(0, 1, 1, 1, "x"), (1, 1, 1, 1, "x")])
    assert (gain.low, gain.high, gain.p, gain.p_holm) == (None, None, None, None)
    assert (gain.difference, gain.wins, gain.losses, gain.mcnemar) == (0.5, 1, 0, 1.0)


def test_a_metric_that_is_no_count_of_hits_has_no_mcnemar_test() -> None:
    assert compare(drawn_rows(1, 5), resamples=100).mcnemar is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """1,000 worlds whose expressions of one picture are right or wrong together; the truth is a gain of 0.08."""
    rng, covered = np.random.default_rng(7), 0
    pictures, each = 200, 5
    names = np.repeat(np.arange(pictures), each).tolist()
    ones = np.ones((1, pictures * each))
    for world in range(1000):
        # A picture's expressions are easy or hard together, for each scorer; a uniform chance of 0.5 and of 0.58.
        right = []
        for level in (0.5, 0.58):
            ease = np.clip(level + rng.uniform(-0.4, 0.4, pictures), 0, 1).repeat(each)
            right.append(Outcomes(("m",), (rng.random(pictures * each) < ease).astype(float)[None], ones))
        (gain,) = compare_outcomes(*right, names, resamples=400, seed=world)
        assert gain.low is not None
        assert gain.high is not None
        covered += gain.low <= 0.08 <= gain.high
    assert 930 <= covered <= 970, covered


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    total = wins + losses
    tail = sum(Fraction(comb(total, k), 2**total) for k in range(min(wins, losses) + 1))
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, float(2 * tail)))


def test_mcnemar_of_very_many_expressions() -> None:
    assert mcnemar(5200, 5000) == pytest.approx(0.0488, abs=2e-4)  # normal approximation with continuity: 0.0488
    assert mcnemar(20_000, 0) == 0


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_the_step_down_rule(values: list[float]) -> None:
    """At every level, what Holm's procedure rejects is what has a corrected value of at most that level."""
    for level in (0.01, 0.05, 0.3):
        rejected, order = set(), sorted(range(len(values)), key=values.__getitem__)
        for rank, number in enumerate(order):
            if values[number] * (len(values) - rank) > level:
                break
            rejected.add(number)
        assert {n for n, value in enumerate(holm(values)) if value <= level} == rejected


def test_misuse_is_refused() -> None:
    a = ratios([1, 0], [1, 1])
    for other, pictures in ((ratios([1], [1]), ["x", "y"]), (a, ["x"]), (ratios([], []), [])):
        with pytest.raises(ValueError, match="Expected arguments `a`, `b` and `pictures`"):
            compare_outcomes(a if len(pictures) else other, other, pictures)
