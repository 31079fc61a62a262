"""Answers that are sets of regions: nothing, one or several (generalised referring expressions)."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from bsap.metrics.functional._shared import _check_all, _check_int64, _check_missing, _ratio, _warn_if_empty
from bsap.metrics.functional.rec import _box_iou, _check_boxes
from bsap.metrics.functional.ris import _FRACTION_BITS, _MAX_UNION, _check_total, _fixed_point

SetVariant = Literal["paper", "rela_code"]


def match_boxes(preds: Tensor, target: Tensor, *, threshold: float = 0.5, generalized: bool = False) -> int:
    """How many answered boxes match a target, each target at most once, the best pair first.

    The answer is right (F1 = 1) where all answered boxes match and all targets are matched: where the number is both
    ``len(preds)`` and ``len(target)``.

    Args:
        preds: ``(P, 4)`` answered boxes, xyxy in pixels.
        target: ``(T, 4)`` boxes of all targets.
        threshold: the least IoU of a matching pair, above 0.
        generalized: match by generalised IoU, as the code of gRefCOCO does, instead of IoU, as its paper says.

    Returns:
        The number of pairs. Equal values go to the first answered box, then to the first target.

    Raises:
        ValueError: for other shapes, boxes or thresholds.

    Source: He et al. 2023, arXiv 2308.16182 (GREC).

    Example:
        >>> answer = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> match_boxes(answer, torch.tensor([[0.0, 0.0, 2.0, 1.5]]))
        1
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"Expected argument `threshold` to be a number above 0 and at most 1, but got {threshold}.")
    _check_boxes("preds", preds)
    _check_boxes("target", target)
    a, b = preds[:, None].double(), target[None].double()
    values, union = _box_iou(a, b)
    if generalized:
        hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
        values = values - torch.where(hull > 0, (hull - union) / hull, 0.0)
    found = 0
    while values.numel():
        row, column = divmod(int(values.argmax()), values.shape[1])
        if values[row, column] < threshold:
            break
        found += 1
        rows, columns = (torch.arange(n) != i for n, i in zip(values.shape, (row, column), strict=True))
        values = values[rows][:, columns]
    return found


def _check_counts(**counts: Tensor) -> None:
    _check_int64(**counts)
    for name, count in counts.items():
        _check_all(count >= 0, name, count, "at least 0")


def _target_update(answered: Tensor, targets: Tensor) -> list[Tensor]:
    """Right and missed rejections, right and wrong answers to expressions with a target: TP, FN, TN, FP of "none"."""
    none, rejected = targets == 0, answered == 0
    return [(none & rejected).sum(), (none & ~rejected).sum(), (~none & ~rejected).sum(), (~none & rejected).sum()]


def _target_compute(tp: Tensor, fn: Tensor, tn: Tensor, fp: Tensor, *, variant: SetVariant) -> dict[str, Tensor]:
    """N-acc, the share of expressions without target that are rejected, and T-acc, of those with one that are not."""
    if variant == "rela_code":
        if not int(tp + fn):
            return {"N-acc": torch.tensor(0.0).double(), "T-acc": torch.tensor(0.0).double()}
        return {"N-acc": _ratio(tp, tp + fn + 1), "T-acc": _ratio(tp, tp + fp + 1)}
    for name, kind, total in (("N-acc", "without", tp + fn), ("T-acc", "with", tn + fp)):
        if not int(total):
            warnings.warn(f"{name} is NaN: no expression {kind} target was seen.", UserWarning, stacklevel=4)
    return {"N-acc": _ratio(tp, tp + fn), "T-acc": _ratio(tn, tn + fp)}


def _rec_set_update(matched: Tensor, answered: Tensor, targets: Tensor, missing: Tensor | None = None) -> list[Tensor]:
    """Answers with F1 = 1, samples, the four counts of :func:`_target_update`, and missing samples, all int64."""
    _check_counts(matched=matched, answered=answered, targets=targets)
    _check_all(matched <= torch.minimum(answered, targets), "matched", matched, "at most `answered` and `targets`")
    right = (matched == answered) & (matched == targets)
    total, absent = torch.tensor(len(matched), device=matched.device), _check_missing(missing, answered)
    return [right.sum(), total, *_target_update(answered, targets), absent.sum()]


def _rec_set_compute(right: Tensor, total: Tensor, *counters: Tensor) -> dict[str, Tensor]:
    """The scores from the summed counters."""
    *targets, missing = counters
    _warn_if_empty(total, "Set precision")
    scores = {"Pr@F1": _ratio(right, total), **_target_compute(*targets, variant="paper")}
    return scores | {"n": total.cpu(), "missing": missing.cpu()}


def rec_set_scores(
    matched: Tensor, answered: Tensor, targets: Tensor, missing: Tensor | None = None
) -> dict[str, Tensor]:
    """Scores of answers that are sets of boxes: Pr@(F1 = 1, IoU >= 0.5), N-acc and T-acc.

    Args:
        matched: ``(N,)`` int64, matching pairs of each expression (see :func:`match_boxes`).
        answered: ``(N,)`` int64, answered boxes; 0 is the answer "no target".
        targets: ``(N,)`` int64, targets; 0 where nothing in the picture is meant.
        missing: ``(N,)`` bool, True where there was no region to answer with; only counted.

    Returns:
        ``Pr@F1``, the share of expressions whose answer matches all targets and nothing else; ``N-acc``, the share of
        expressions without target whose answer is empty; ``T-acc``, the share of those with a target whose answer is
        not; float64 scalars, NaN with a warning where there is no such expression; ``n`` and ``missing``, int64.

    Raises:
        ValueError: for other shapes, types or ranges.

    Source: He et al. 2023, arXiv 2308.16182 (GREC).

    Example:
        >>> scores = rec_set_scores(torch.tensor([2, 0, 1]), torch.tensor([2, 0, 2]), torch.tensor([2, 0, 1]))
        >>> print({name: round(value.item(), 4) for name, value in scores.items()})
        {'Pr@F1': 0.6667, 'N-acc': 1.0, 'T-acc': 1.0, 'n': 3, 'missing': 0}
    """
    return _rec_set_compute(*_rec_set_update(matched, answered, targets, missing))


def _ris_set_update(
    intersection: Tensor, union: Tensor, answered: Tensor, targets: Tensor, missing: Tensor | None = None
) -> list[Tensor]:
    """Intersection, union, IoU in units of 2^-40, samples, those of :func:`_target_update`, missing, all int64."""
    _check_counts(intersection=intersection, union=union, answered=answered, targets=targets)
    none = targets == 0
    empty = none & (answered == 0)
    sound = (union < _MAX_UNION) & ((union > 0) | none) & ~((union > 0) & empty)
    _check_all(sound, "union", union, "the pixels of either, below 2^40, and 0 only without answer and target")
    limit = union.masked_fill(none | (answered == 0), 0)
    _check_all(intersection <= limit, "intersection", intersection, "at most the union, and 0 without answer or target")
    iou = _fixed_point(intersection, union.clamp(min=1)).masked_fill(empty, 1 << _FRACTION_BITS)
    total, absent = torch.tensor(len(union), device=union.device), _check_missing(missing, answered)
    counts = [*_target_update(answered, targets), absent.sum()]
    return [intersection.sum(), union.sum(), iou.sum(), total, *counts]


def _ris_set_compute(
    intersection: Tensor,
    union: Tensor,
    iou_fixed: Tensor,
    total: Tensor,
    *counters: Tensor,
    variant: SetVariant,
) -> dict[str, Tensor]:
    """The scores from the summed counters."""
    *targets, missing = counters
    _warn_if_empty(total, "Set scores")
    _check_total(total)
    scores = {"gIoU": _ratio(iou_fixed, total) / 2**_FRACTION_BITS, "cIoU": _ratio(intersection, union)}
    return scores | _target_compute(*targets, variant=variant) | {"n": total.cpu(), "missing": missing.cpu()}


def ris_set_scores(
    intersection: Tensor,
    union: Tensor,
    answered: Tensor,
    targets: Tensor,
    missing: Tensor | None = None,
    *,
    variant: SetVariant = "paper",
) -> dict[str, Tensor]:
    """Scores of answers that are unions of masks: gIoU, cIoU, N-acc and T-acc.

    An expression without target counts 1 in gIoU if nothing is answered, and 0 otherwise. In cIoU a right rejection
    adds nothing, and a missed one adds the answered pixels to the sum of unions. Where every expression has a target
    and every answer is one mask, gIoU is mIoU and cIoU is oIoU of :func:`~bsap.metrics.functional.ris_scores`.

    Args:
        intersection: ``(N,)`` int64, pixels that the answered masks together share with the targets' masks together.
        union: ``(N,)`` int64, pixels of either, below 2^40; 0 only for a right rejection.
        answered: ``(N,)`` int64, answered regions; 0 is the answer "no target".
        targets: ``(N,)`` int64, targets; 0 where nothing in the picture is meant.
        missing: ``(N,)`` bool, True where there was no region to answer with; only counted.
        variant: ``paper``, or ``rela_code``: N-acc and T-acc as the code released with ReLA computes them, TP / (TP +
            FN + 1) and TP / (TP + FP + 1), and 0 without any expression that has no target.

    Returns:
        ``gIoU``, ``cIoU``, ``N-acc`` and ``T-acc``, float64 scalars, NaN with a warning where there is no such
        expression; ``n`` and ``missing``, int64.

    Raises:
        ValueError: for other shapes, types or ranges, and for 2^23 samples (8,388,608) or more.

    Source: Liu et al. 2023, arXiv 2306.00968 (GRES).

    Example:
        >>> n = torch.tensor
        >>> scores = ris_set_scores(n([30, 0, 0]), n([40, 0, 60]), answered=n([2, 0, 1]), targets=n([1, 0, 0]))
        >>> print({name: round(value.item(), 4) for name, value in scores.items()})
        {'gIoU': 0.5833, 'cIoU': 0.3, 'N-acc': 0.5, 'T-acc': 1.0, 'n': 3, 'missing': 0}
    """
    _check_variant(variant)
    return _ris_set_compute(*_ris_set_update(intersection, union, answered, targets, missing), variant=variant)


def _check_variant(variant: str) -> None:
    if variant not in ("paper", "rela_code"):
        raise ValueError(f"Expected argument `variant` to be 'paper' or 'rela_code', but got {variant!r}.")
