"""How sure a difference between two scorers is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bsap.analysis.paired import bootstrap, by_cluster, cluster_index


class Interval(NamedTuple):
    """A difference of means with its bootstrap interval; in the unit of what was compared."""

    difference: float
    low: float
    high: float


def bootstrap_interval(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    scene_ids: Sequence[Hashable],
    *,
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of ``mean(b) - mean(a)`` over the same expressions, clustered by scene.

    The bootstrap of :func:`bsap.analysis.paired.compare_outcomes` for plain values (N,): what each scorer got for each
    expression, 0 or 1 or an IoU, and the scene of the expression. ``level`` is the share of the ``n`` draws inside.

    Raises:
        ValueError: for arguments of unequal length, or none at all, or a level outside (0, 1).

    Example:
        >>> bootstrap_interval([0, 1, 0, 1], [1, 1, 1, 1], ["x", "x", "y", "y"])
        Interval(difference=0.5, low=0.5, high=0.5)
    """
    a, b = np.asarray(correct_a, np.float64), np.asarray(correct_b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) != len(scene_ids) or len(a) == 0:
        raise ValueError(
            "Expected arguments `correct_a`, `correct_b` and `scene_ids` to be of one length, at least 1, "
            f"but got shapes {a.shape}, {b.shape} and length {len(scene_ids)}."
        )
    if n < 1:
        raise ValueError(f"Expected argument `n` to be at least 1, but got {n}.")
    if not 0 < level < 1:
        raise ValueError(f"Expected argument `level` to be between 0 and 1, but got {level}.")
    index, count = cluster_index(scene_ids)
    sums = by_cluster((a, np.ones_like(a), b, np.ones_like(b)), index, count)
    low, high = bootstrap(sums[:, None], resamples=n, seed=seed, level=level)
    return Interval(float((b - a).mean()), float(low[0]), float(high[0]))


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.float64]], float],
    scene_ids: Sequence[Hashable],
    *,
    seed: int = 0,
    n: int = 500,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """A statistic and the ends of its percentile bootstrap interval, clustered by scene.

    The statistic takes (N,) how often each expression counts. Of the ``n`` draws, those for which it is NaN are left
    out; where no draw is left, the ends are NaN.

    Example:
        >>> bootstrap_statistic(lambda weights: weights[:2].sum() / weights.sum(), ["x", "y"])
        (1.0, 1.0, 1.0)
    """
    index, count = cluster_index(scene_ids)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1 / count), size=n)
    values = np.array([statistic(draw[index].astype(np.float64)) for draw in draws])
    values = values[~np.isnan(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(values, (tail, 1 - tail)) if len(values) else (np.nan, np.nan)
    return float(statistic(np.ones(len(index)))), float(low), float(high)
