"""How well a value tells expressions with a target from those without one, whatever the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def auroc(values: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The area under the ROC curve: how often a positive has a greater value than a negative, ties counted half.

    Args:
        values: ``(N,)`` numbers; -inf where there was nothing to give one.
        positive: ``(N,)`` bool.
        weights: ``(N,)`` how often each counts; by default once.

    Returns:
        0 to 1; NaN without positives or without negatives.

    Example:
        >>> auroc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.875
    """
    yes, no = _counts(values, positive, weights)
    total = yes.sum() * no.sum()
    return float((yes * (no.cumsum() - no / 2)).sum() / total) if total else float("nan")


def average_precision(values: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The mean precision over the positives, from the greatest value down; equal values come together.

    Args:
        values: as for :func:`auroc`.
        positive: as for :func:`auroc`.
        weights: as for :func:`auroc`.

    Returns:
        0 to 1; NaN without positives.

    Example:
        >>> average_precision([0.9, 0.4, 0.3, 0.1], [True, False, True, False]).__round__(4)
        0.8333
    """
    yes, no = (counts[::-1] for counts in _counts(values, positive, weights))
    if not yes.sum():
        return float("nan")
    precision = yes.cumsum() / np.maximum((yes + no).cumsum(), np.finfo(float).tiny)
    return float((yes * precision).sum() / yes.sum())


def coverage_accuracy(values: ArrayLike, right: ArrayLike) -> tuple[Array, Array]:
    """The accuracy among the expressions that are answered, as the threshold goes from the greatest value down.

    Args:
        values: ``(N,)`` the value of each answer.
        right: ``(N,)`` bool, whether it is right.

    Returns:
        For each of the distinct values the share of expressions that reach it, and the share of these that are right.

    Example:
        >>> coverage, accuracy = coverage_accuracy([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
        >>> coverage.tolist(), accuracy.round(2).tolist()
        ([0.25, 0.75, 1.0], [1.0, 0.67, 0.5])
    """
    yes, no = (counts[::-1].cumsum() for counts in _counts(values, right, None))
    reached = yes + no
    return reached / max(1.0, float(reached[-1]) if len(reached) else 1.0), yes / np.maximum(reached, 1.0)


def _counts(values: ArrayLike, positive: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    """How many positives and negatives have each of the distinct values, in ascending order."""
    found, marks = np.asarray(values, np.float64), np.asarray(positive)
    each = np.ones(len(found)) if weights is None else np.asarray(weights, np.float64)
    if found.ndim != 1 or marks.shape != found.shape or marks.dtype != bool or each.shape != found.shape:
        raise ValueError(
            "Expected arguments `values`, `positive` and `weights` to be N numbers, N bool and N numbers, but got "
            f"shapes {found.shape}, {marks.shape} of {marks.dtype} and {each.shape}."
        )
    if np.isnan(found).any():
        raise ValueError("Expected argument `values` to hold no NaN.")
    distinct, place = np.unique(found, return_inverse=True)
    return tuple(np.bincount(place, each * side, minlength=len(distinct)) for side in (marks, ~marks))  # type: ignore[return-value]
