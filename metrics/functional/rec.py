"""Referring expression comprehension: does the chosen box meet the referent's?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bsap.metrics.functional._shared import (
    _check_all,
    _check_missing,
    _check_thresholds,
    _ratio,
    _reaches,
    _warn_if_empty,
)

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""0.5, 0.55, ..., 0.95, as COCO and Ref-L4 average over."""


def _check_boxes(name: str, boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"Expected argument `{name}` to be a floating-point tensor of shape (N, 4), "
            f"but got {boxes.dtype} of shape {tuple(boxes.shape)}."
        )
    valid = boxes.isfinite().all(dim=1) & (boxes[:, :2] <= boxes[:, 2:]).all(dim=1)
    _check_all(valid, name, boxes, "finite boxes (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2")


def box_iou_pairs(preds: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of box i with box i, computed in float64.

    Coordinates are continuous: a box is ``(x2 - x1) * (y2 - y1)`` large, without any +1. Boxes on a grid of pixels, or
    of simple fractions of them, get the correctly rounded quotient: an IoU of exactly 1/2 compares equal to 0.5. A pair
    of boxes without any area has IoU 0.

    Args:
        preds: ``(N, 4)``, xyxy in pixels, on a device that has float64 (every one but Apple's).
        target: ``(N, 4)``, in the same coordinates.

    Returns:
        ``(N,)`` float64, from 0 to 1.

    Raises:
        ValueError: for other shapes, for coordinates that are not finite, and for boxes turned inside out.

    Example:
        >>> box_iou_pairs(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 2.0, 2.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    _check_boxes("preds", preds)
    _check_boxes("target", target)
    if preds.shape != target.shape:
        raise ValueError(
            f"Expected argument `target` to be of the shape of `preds`, {tuple(preds.shape)}, "
            f"but got {tuple(target.shape)}."
        )
    return _box_iou(preds, target)[0]


def _box_iou(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of boxes (..., 4) that broadcast, in float64; IoU 0 for a pair of boxes without any area."""
    a, b = preds.double(), target.double()
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return torch.where(union > 0, intersection / union, 0.0), union


def rec_hits(iou: Tensor, thresholds: Sequence[float] = (0.5,), *, strict: bool = False) -> Tensor:
    """Which IoUs count as a hit at which threshold.

    Args:
        iou: ``(N,)`` float64 from 0 to 1. Other types are refused: 0.7 in float32 is less than 0.7.
        thresholds: T different numbers from 0 to 1.
        strict: ask for more than the threshold, as ReCLIP does, instead of at least it.

    Returns:
        ``(N, T)`` bool.

    Raises:
        ValueError: for any other argument.

    Example:
        >>> rec_hits(torch.tensor([0.5, 0.8], dtype=torch.float64), (0.5, 0.75))
        tensor([[ True, False],
                [ True,  True]])
        >>> rec_hits(torch.tensor([0.5], dtype=torch.float64), strict=True)
        tensor([[False]])
    """
    bounds = _check_thresholds(thresholds)
    if iou.ndim != 1 or iou.dtype != torch.float64:
        raise ValueError(
            f"Expected argument `iou` to be a float64 tensor of shape (N,), but got {iou.dtype} of shape "
            f"{tuple(iou.shape)}."
        )
    _check_all((iou >= 0) & (iou <= 1), "iou", iou, "numbers from 0 to 1")
    return _reaches(iou, bounds, strict=strict)


def _rec_update(
    iou: Tensor, missing: Tensor | None, thresholds: Sequence[float], strict: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Hits (T,), samples and missing samples of one batch, all int64."""
    absent = _check_missing(missing, iou)
    hits = rec_hits(iou.masked_fill(absent, 0.0), thresholds, strict=strict)
    hits &= ~absent[:, None]  # a threshold of 0 is reached by nothing at all
    return hits.sum(dim=0), torch.tensor(iou.numel(), device=iou.device), absent.sum()


def _rec_compute(thresholds: Sequence[float], hits: Tensor, total: Tensor, missing: Tensor) -> dict[str, Tensor]:
    """The scores from the summed counters."""
    _warn_if_empty(total, "REC accuracy")
    scores = {f"acc@{threshold}": value for threshold, value in zip(thresholds, _ratio(hits, total), strict=True)}
    if len(thresholds) > 1:
        scores["mAcc"] = _ratio(hits.sum(), len(thresholds) * total)
    return scores | {"n": total.cpu(), "missing": missing.cpu()}


def rec_accuracy(
    iou: Tensor, missing: Tensor | None = None, *, thresholds: Sequence[float] = (0.5,), strict: bool = False
) -> dict[str, Tensor]:
    """Share of expressions whose chosen box meets the referent's box (Acc@0.5).

    Args:
        iou: ``(N,)`` float64, IoU of each expression's chosen box with its referent, the best over the annotations that
            count as the referent (see :func:`box_iou_pairs`).
        missing: ``(N,)`` bool, expressions whose picture has no proposal: wrong whatever their IoU says. None: no such.
        thresholds: different numbers from 0 to 1.
        strict: ask for more than the threshold, as ReCLIP does, instead of at least it.

    Returns:
        ``acc@x`` for each threshold x, and for more than one threshold their mean ``mAcc``, float64 scalars (NaN with a
        warning where N is 0); ``n`` and ``missing``, int64.

    Raises:
        ValueError: for arguments of other shapes, types or ranges.

    Example:
        >>> iou = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
        >>> scores = rec_accuracy(iou, missing=torch.tensor([False, False, True]))
        >>> print({name: round(value.item(), 4) for name, value in scores.items()})
        {'acc@0.5': 0.6667, 'n': 3, 'missing': 1}
    """
    bounds = _check_thresholds(thresholds)
    return _rec_compute(bounds, *_rec_update(iou, missing, bounds, strict))
