"""Measures of retrieval bias, as functions over arrays: popularity, hubs, the modality gap, rank correlation.

Scores are (T, R): those of R regions of one picture for T texts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def popularity(scores: ArrayLike) -> Array:
    """How far each region lies above the mean region, on average over all texts.

    Returns:
        (R,) means over texts of the scores less each text's mean over regions. All 0 where no region is preferred.

    Example:
        >>> popularity([[0.3, 0.1], [0.5, 0.1]]).round(2).tolist()
        [0.15, -0.15]
    """
    table = np.asarray(scores, np.float64)
    return np.asarray((table - table.mean(1, keepdims=True)).mean(0))


def popularity_share(scores: ArrayLike) -> float:
    """The share of the differences between regions that is the same for every text, 0 to 1.

    Scores are centred over the regions for each text, since only differences within a text decide. The share is the
    variance of the popularity over the mean square of these differences: 1 where every text prefers the same regions
    by the same amounts, about 1 / T where preferences are independent, NaN where all regions have equal scores or there
    is only one. It does not depend on the unit of the scores.

    Example:
        >>> popularity_share([[1.0, 0.0], [1.0, 0.0]]), popularity_share([[1.0, 0.0], [0.0, 1.0]])
        (1.0, 0.0)
    """
    table = np.asarray(scores, np.float64)
    centred = table - table.mean(1, keepdims=True)
    whole = float((centred**2).mean())
    return float((centred.mean(0) ** 2).mean()) / whole if whole > 0 else float("nan")


def range_variation(scores: ArrayLike) -> float:
    """How unequal the regions' ranges of scores are: the standard deviation of the ranges over their mean.

    A region's range is the highest less the lowest of its scores over all texts. 0 where all ranges are equal, NaN
    where no score differs from text to text. It does not depend on the unit of the scores.

    Example:
        >>> range_variation([[0.0, 0.0], [1.0, 3.0]]), range_variation([[0.0, 1.0], [1.0, 0.0]])
        (0.5, 0.0)
    """
    ranges = np.ptp(np.asarray(scores, np.float64), axis=0)
    return float(ranges.std() / ranges.mean()) if ranges.any() else float("nan")


def skewness(counts: ArrayLike) -> float:
    """Skewness of how often regions are retrieved, the usual measure of hubs: positive where a few are very frequent.

    See Radovanovic, Nanopoulos and Ivanovic, "Hubs in Space", JMLR 11 (2010).

    Example:
        >>> round(skewness([0, 0, 0, 0, 10]), 3), skewness([1, 2, 3])
        (1.5, 0.0)
    """
    values = np.asarray(counts, np.float64)
    centred = values - values.mean() if len(values) else values
    spread = float((centred**2).mean()) if len(values) else 0.0
    return float((centred**3).mean() / spread**1.5) if spread > 0 else float("nan")


def top_share(counts: ArrayLike, share: float = 0.1) -> float:
    """The share of all retrievals that go to the most popular tenth of the regions, at least one region.

    Example:
        >>> top_share([6, 1, 1, 1, 1]), top_share([0, 0])
        (0.6, nan)
    """
    values = np.sort(np.asarray(counts, np.float64))[::-1]
    total = float(values.sum())
    return float(values[: max(1, round(share * len(values)))].sum()) / total if total else float("nan")


def modality_gap(regions: ArrayLike, texts: ArrayLike) -> float:
    """Distance between the mean region feature and the mean text feature, (R, D) and (T, D) unit vectors.

    See Liang et al., "Mind the Gap", NeurIPS 2022.
    """
    difference = np.asarray(regions, np.float64).mean(0) - np.asarray(texts, np.float64).mean(0)
    return float(np.sqrt((difference**2).sum()))


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, with mean ranks for ties.

    Example:
        >>> round(rank_correlation([1, 2, 3], [10, 20, 15]), 3)
        0.5
    """
    x, y = _ranks(np.asarray(a)), _ranks(np.asarray(b))
    x, y = (values - values.mean() if len(values) else values for values in (x, y))
    whole = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / whole if whole > 0 else float("nan")


def _ranks(values: NDArray[np.generic]) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse.ravel()], np.float64)
