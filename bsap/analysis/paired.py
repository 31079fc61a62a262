"""Is one scorer better than another? Paired statistics over the same expressions, clustered by picture.

Every metric here is a ratio of two sums over expressions (:class:`Outcomes`): Acc@0.5 is hits over expressions, oIoU
intersections over unions. The expressions of one picture share its regions, so they are not independent: pictures are
resampled, not expressions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CELLS = 4_000_000  # numbers of one block of resamples: 32 MB


@dataclass(frozen=True)
class Outcomes:
    """What one scorer got for each expression. A metric is the sum of its parts over the sum of its wholes.

    Attributes:
        metrics: M names.
        parts: (M, N) numerators, for example hits or intersections.
        wholes: (M, N) denominators, for example ones or unions; 0 with a part of 0 where an expression does not count.
    """

    metrics: tuple[str, ...]
    parts: Array
    wholes: Array

    def of(self, chosen: NDArray[np.intp]) -> Outcomes:
        """Those of some of the expressions."""
        return Outcomes(self.metrics, self.parts[:, chosen], self.wholes[:, chosen])


@dataclass(frozen=True)
class Gain:
    """How scorer B differs from scorer A in one metric, a share.

    ``low`` and ``high`` are the ends of the bootstrap interval of the difference B - A. These and the p-values are None
    where all expressions that count are of one picture.

    Attributes:
        wins: expressions for which B is better.
        losses: expressions for which A is better.
        p: two-sided p-value of the sign-flip permutation over pictures.
        p_holm: ``p`` after Holm's correction for all comparisons made together.
        mcnemar: exact two-sided McNemar test, which assumes independent expressions; None unless the metric counts
            hits.
        expressions: number of expressions that count.
        pictures: number of their pictures.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    p: float | None
    p_holm: float | None
    mcnemar: float | None
    expressions: int
    pictures: int


def compare_outcomes(
    a: Outcomes,
    b: Outcomes,
    pictures: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Gain]:
    """Compare two scorers on the same expressions in every metric that counts any of them.

    The interval is the percentile interval of a paired bootstrap over pictures. See Cameron, Gelbach and Miller,
    "Bootstrap-Based Improvements for Inference with Clustered Errors", Review of Economics and Statistics 90 (2008).
    The p-value exchanges the two scorers in whole pictures, at random: the share of exchanges whose difference is at
    least as large as the observed one, where the observed one counts as an exchange.

    Both outcomes are of the same N expressions in the same order, and ``pictures`` are N names of their pictures. There
    are as many bootstrap samples as exchanges; ``level`` is the share of the samples inside the interval.

    Raises:
        ValueError: for outcomes of different shapes, or none.

    Example:
        >>> ones = np.ones((1, 4))
        >>> a = Outcomes(("acc",), np.array([[0.0, 1, 0, 1]]), ones)
        >>> b = Outcomes(("acc",), np.array([[1.0, 1, 1, 1]]), ones)
        >>> (gain,) = compare_outcomes(a, b, ["x", "x", "y", "y"])
        >>> gain.difference, gain.low, gain.high, gain.wins, gain.mcnemar
        (0.5, 0.5, 0.5, 2, 0.5)
    """
    if a.metrics != b.metrics or a.parts.shape != b.parts.shape or a.parts.shape[1] != len(pictures) or not pictures:
        raise ValueError(
            "Expected arguments `a`, `b` and `pictures` to be of the same metrics and expressions, at least one, but "
            f"got {a.parts.shape}, {b.parts.shape} and {len(pictures)} pictures."
        )
    counted = np.flatnonzero(a.wholes.any(1) & b.wholes.any(1))
    a, b = (Outcomes(tuple(o.metrics[m] for m in counted), o.parts[counted], o.wholes[counted]) for o in (a, b))
    if not len(counted):
        return []
    index, count = cluster_index(pictures)
    sums = np.stack([by_cluster(values, index, count) for values in (a.parts, a.wholes, b.parts, b.wholes)])
    found = _difference(*sums.sum(2))
    sure: list[Array] = []
    if count > 1:
        sure += bootstrap(sums, resamples=resamples, seed=seed, level=level)
        sure.append(_sign_flips(sums, found, resamples=resamples, seed=seed))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_a, mean_b = sums[0].sum(1) / sums[1].sum(1), sums[2].sum(1) / sums[3].sum(1)
        better = np.nan_to_num(b.parts / b.wholes, nan=1.0) - np.nan_to_num(a.parts / a.wholes, nan=1.0)
    gains = []
    counts = (a.wholes + b.wholes) > 0
    for m, name in enumerate(a.metrics):
        seen = len(np.unique(index[counts[m]]))
        low, high, p = [float(values[m]) for values in sure] if seen > 1 else [None] * 3
        wins, losses = int((better[m] > 0).sum()), int((better[m] < 0).sum())
        hits = all(np.isin((o.parts[m], o.wholes[m]), (0, 1)).all() for o in (a, b))
        gains.append(
            Gain(
                metric=name,
                a=float(mean_a[m]),
                b=float(mean_b[m]),
                difference=float(found[m]),
                low=low,
                high=high,
                wins=wins,
                losses=losses,
                p=p,
                p_holm=p,
                mcnemar=mcnemar(wins, losses) if hits else None,
                expressions=int(counts[m].sum()),
                pictures=seen,
            )
        )
    return gains


def cluster_index(names: Sequence[Hashable]) -> tuple[NDArray[np.intp], int]:
    """Number of each name, in order of first occurrence, and how many there are."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.intp), len(numbers)


def bootstrap(sums: Array, *, resamples: int, seed: int, level: float) -> tuple[Array, Array]:
    """The ends of percentile intervals, each (M,), of the difference of two ratios.

    ``sums`` (4, M, C) are the parts and wholes of A, then of B, summed within each of C clusters.
    """
    rng, count = np.random.default_rng(seed), sums.shape[2]
    drawn = []
    for size in _blocks(resamples, count):
        picks = rng.integers(count, size=(size, count))
        flat = (picks + count * np.arange(size)[:, None]).ravel()
        weights = np.bincount(flat, minlength=size * count).reshape(size, count).astype(np.float64)
        drawn.append(_difference(*np.einsum("kmc,dc->kdm", sums, weights, optimize=True)))
    low, high = np.nanquantile(np.concatenate(drawn), ((1 - level) / 2, (1 + level) / 2), axis=0)
    return low, high


def _sign_flips(sums: Array, observed: Array, *, resamples: int, seed: int) -> Array:
    """P-values (M,) of exchanging A and B in whole clusters."""
    rng, count = np.random.default_rng([seed, 1]), sums.shape[2]
    swap = sums[[2, 3, 0, 1]] - sums
    extreme = np.zeros(len(observed))
    for size in _blocks(resamples, count):
        flips = rng.integers(2, size=(size, count), dtype=np.int8).astype(np.float64)
        swapped = sums.sum(2)[:, None] + np.einsum("kmc,dc->kdm", swap, flips, optimize=True)
        # A difference that is equal in real numbers may differ in its last bits.
        extreme += (np.abs(_difference(*swapped)) >= np.abs(observed) * (1 - 1e-9) - 1e-12).sum(0)
    return (1 + extreme) / (1 + resamples)


def _blocks(resamples: int, count: int) -> Iterator[int]:
    size = max(1, _CELLS // count)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def by_cluster(values: Iterable[Array], index: NDArray[np.intp], count: int) -> Array:
    """The sums of each row of values within each cluster."""
    return np.stack([np.bincount(index, row, minlength=count) for row in values])


def _difference(part_a: Array, whole_a: Array, part_b: Array, whole_b: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = part_b / whole_b - part_a / whole_a
    return result


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact McNemar test: could wins and losses come from tosses of a fair coin?

    See McNemar, Psychometrika 12 (1947). It assumes that expressions are independent of each other.

    Example:
        >>> mcnemar(5, 1), mcnemar(0, 0)
        (0.21875, 1.0)
    """
    total, fewer = wins + losses, min(wins, losses)
    term, tail = 1, 0
    for k in range(fewer + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total) if total < 1000 else min(1.0, float(2 * tail * 10**30 // 2**total) / 1e30)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for being many. See Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, greatest = [0.0] * len(values), 0.0
    for rank, number in enumerate(order):
        greatest = max(greatest, min(1.0, (len(values) - rank) * values[number]))
        corrected[number] = greatest
    return corrected
