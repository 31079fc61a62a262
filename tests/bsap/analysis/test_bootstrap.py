from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsap.analysis.bootstrap import bootstrap_interval, bootstrap_statistic


def plain_loop(a: list[float], b: list[float], scenes: list[str], n: int, seed: int) -> tuple[float, float]:
    """The definition, with its own source of chance."""
    chance, names = random.Random(seed), sorted(set(scenes))
    means = []
    for _ in range(n):
        gain = count = 0.0
        for scene in (chance.choice(names) for _ in names):
            for x, y, s in zip(a, b, scenes, strict=True):
                if s == scene:
                    gain, count = gain + y - x, count + 1
        means.append(gain / count)
    means.sort()
    return means[int(0.025 * n)], means[int(0.975 * n)]


def test_it_agrees_with_a_plain_loop_over_scenes_of_unequal_size() -> None:
    rng = np.random.default_rng(1)
    scenes = [f"s{index}" for index in range(25) for _ in range(int(rng.integers(1, 9)))]
    a, b = (rng.integers(0, 2, len(scenes)).astype(float).tolist() for _ in range(2))
    found = bootstrap_interval(a, b, scenes, seed=3, n=6000)
    low, high = plain_loop(a, b, scenes, 3000, 4)
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))
    # Two different sources of chance: their quantiles agree to a few hundredths of the interval's width.
    assert found.low == pytest.approx(low, abs=0.08 * (high - low))
    assert found.high == pytest.approx(high, abs=0.08 * (high - low))


def test_expressions_of_one_scene_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    gains = rng.integers(0, 2, 30).repeat(20)
    clustered = bootstrap_interval(np.zeros(600), gains, np.arange(30).repeat(20).tolist())
    alone = bootstrap_interval(np.zeros(600), gains, list(range(600)))
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(20**0.5, rel=0.15)


def test_it_is_the_same_for_the_same_seed_and_whatever_scenes_are_called() -> None:
    a, b, scenes = [0, 1, 0, 1, 1], [1, 1, 0, 0, 1], ["z", "z", "a", "m", "a"]
    one = bootstrap_interval(a, b, scenes, seed=2)
    assert one == bootstrap_interval(a, b, [{"z": 7, "a": 1, "m": 3}[s] for s in scenes], seed=2)
    assert one != bootstrap_interval(a, b, scenes, seed=3, n=50)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_swapping_the_scorers_mirrors_the_interval(rows: list[tuple[bool, bool, int]]) -> None:
    a, b, scenes = (list(column) for column in zip(*rows, strict=True))
    there, back = bootstrap_interval(a, b, scenes, n=80), bootstrap_interval(b, a, scenes, n=80)
    assert there == pytest.approx((-back.difference, -back.high, -back.low))
    assert there.low <= there.high


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [], []), {}, "to be of one length"),
        (([1], [1, 0], ["x"]), {}, "to be of one length"),
        (([1], [1], ["x"]), {"n": 0}, "Expected argument `n` to be at least 1, but got 0"),
        (([1], [1], ["x"]), {"level": 1.0}, "Expected argument `level` to be between 0 and 1, but got 1.0"),
    ],
)
def test_misuse_is_refused(arguments: tuple[list[int], ...], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments, **options)  # type: ignore[arg-type]


def test_the_interval_of_a_statistic_is_that_of_the_difference_from_nothing() -> None:
    """The mean of b is its difference from zeros; draws differ, so that the ends agree only nearly."""
    rng = np.random.default_rng(2)
    scenes = [f"s{index}" for index in range(60) for _ in range(int(rng.integers(1, 6)))]
    values = rng.random(len(scenes))
    other = bootstrap_interval(np.zeros(len(scenes)), values, scenes, n=4000)
    found = bootstrap_statistic(lambda weights: float(weights @ values / weights.sum()), scenes, n=4000)
    assert found == pytest.approx(other, abs=0.004)
    assert found[0] == pytest.approx(values.mean())
    none = bootstrap_statistic(lambda weights: float("nan"), scenes, n=5)
    assert all(np.isnan(none))
