"""Referring image segmentation: how far does the chosen mask cover the referent's?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bsap.metrics.functional._shared import (
    _check_all,
    _check_int64,
    _check_missing,
    _check_thresholds,
    _ratio,
    _reaches,
    _warn_if_empty,
)

DEFAULT_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

_FRACTION_BITS = 40  # an IoU is summed in units of 2^-40
_MAX_UNION = 2**40  # with less than 2^23 samples, no int64 sum overflows
_MAX_SAMPLES = 2**23


def _fixed_point(intersection: Tensor, union: Tensor) -> Tensor:
    """``(intersection << 40) // union`` in two digits of 20 bits, so that nothing exceeds 63 bits on the way."""
    half = _FRACTION_BITS // 2
    shifted = intersection << half
    high = torch.div(shifted, union, rounding_mode="floor")
    low = torch.div((shifted - high * union) << half, union, rounding_mode="floor")
    return (high << half) + low


def _ris_update(
    intersection: Tensor, union: Tensor, missing: Tensor | None, thresholds: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Intersection, union, IoU in units of 2^-40, hits (T,), samples and missing samples of one batch, all int64."""
    absent = _check_missing(missing, intersection)
    _check_int64(intersection=intersection, union=union)
    expected = "from 1 to 2^40 - 1 pixels (a referent with an empty mask is no referent)"
    _check_all((union > 0) & (union < _MAX_UNION), "union", union, expected)
    inside = (intersection >= 0) & (intersection <= union.masked_fill(absent, 0))
    _check_all(inside, "intersection", intersection, "from 0 to the union, and 0 where `missing`")
    hits = _reaches(intersection.double() / union.double(), thresholds)
    hits &= ~absent[:, None]  # a threshold of 0 is reached by nothing at all
    return (
        intersection.sum(),
        union.sum(),
        _fixed_point(intersection, union).sum(),
        hits.sum(dim=0),
        torch.tensor(intersection.numel(), device=intersection.device),
        absent.sum(),
    )


def _check_total(total: Tensor) -> None:
    """Refuse as many samples as could overflow the sum of their IoUs."""
    if int(total) >= _MAX_SAMPLES:
        raise ValueError(f"Expected argument `total` to be less than 2^23 samples, but got {int(total)}.")


def _ris_compute(
    thresholds: Sequence[float],
    intersection: Tensor,
    union: Tensor,
    iou_fixed: Tensor,
    hits: Tensor,
    total: Tensor,
    missing: Tensor,
) -> dict[str, Tensor]:
    """The scores from the summed counters."""
    _warn_if_empty(total, "RIS scores")
    _check_total(total)
    scores = {"oIoU": _ratio(intersection, union), "mIoU": _ratio(iou_fixed, total) / 2**_FRACTION_BITS}
    scores |= {f"Pr@{threshold}": value for threshold, value in zip(thresholds, _ratio(hits, total), strict=True)}
    return scores | {"n": total.cpu(), "missing": missing.cpu()}


def ris_scores(
    intersection: Tensor,
    union: Tensor,
    missing: Tensor | None = None,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
) -> dict[str, Tensor]:
    """Scores of chosen masks: oIoU, mIoU and Pr@X.

    oIoU is the sum of all intersections over the sum of all unions, so that large objects weigh more; mIoU is the mean
    of intersection over union, where every expression weighs the same; Pr@X is the share of expressions whose IoU is at
    least X. Everything is summed in integers. An IoU is cut off after 40 binary places for mIoU, which is less than
    1e-12 too low by that; Pr@X is exact for a threshold of up to three decimal places.

    Args:
        intersection: ``(N,)`` int64, pixels that the chosen mask shares with the referent's
            (see :func:`~bsap.metrics.functional.mask_overlap`).
        union: ``(N,)`` int64, pixels of either. 1 to 2^40 - 1: both masks empty is an error.
        missing: ``(N,)`` bool, expressions whose picture has no proposal: wrong, with the intersection 0 and the area
            of the referent as the union. None: no such.
        thresholds: different numbers from 0 to 1.

    Returns:
        ``oIoU``, ``mIoU`` and ``Pr@x`` for each threshold x, float64 scalars (NaN with a warning where N is 0); ``n``
        and ``missing``, int64.

    Raises:
        ValueError: for arguments of other shapes, types or ranges, and for 2^23 samples (8,388,608) or more.

    Example:
        >>> scores = ris_scores(torch.tensor([30, 10]), torch.tensor([40, 100]), thresholds=(0.5,))
        >>> print({name: round(value.item(), 4) for name, value in scores.items()})
        {'oIoU': 0.2857, 'mIoU': 0.425, 'Pr@0.5': 0.5, 'n': 2, 'missing': 0}
    """
    bounds = _check_thresholds(thresholds)
    return _ris_compute(bounds, *_ris_update(intersection, union, missing, bounds))
