"""The torchmetrics classes for answers that are sets of regions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bsap.metrics._counters import CounterMetric
from bsap.metrics.functional.sets import (
    SetVariant,
    _check_variant,
    _rec_set_compute,
    _rec_set_update,
    _ris_set_compute,
    _ris_set_update,
)

_TARGET_COUNTERS = ("true_none", "missed_none", "true_target", "missed_target", "missing")


class RECSetScores(CounterMetric):
    """Scores of answers that are sets of boxes: Pr@(F1 = 1, IoU >= 0.5), N-acc and T-acc.

    The counters are integers, so that any number of processes, in any order, gives the same bits.

    As input to ``update`` and as output of ``compute`` it takes and returns what
    :func:`~bsap.metrics.functional.rec_set_scores` does.

    Args:
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: in ``update`` for arguments of other shapes, types or ranges.

    Example:
        >>> from torch import tensor
        >>> metric = RECSetScores()
        >>> metric.update(matched=tensor([2, 0]), answered=tensor([2, 1]), targets=tensor([2, 0]))
        >>> print({name: value.item() for name, value in metric.compute().items()})
        {'Pr@F1': 0.5, 'N-acc': 0.0, 'T-acc': 1.0, 'n': 2, 'missing': 0}
    """

    counters = ("right", "total", *_TARGET_COUNTERS)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__([0.0], **kwargs)

    def update(self, matched: Tensor, answered: Tensor, targets: Tensor, missing: Tensor | None = None) -> None:
        """Count N expressions."""
        self._add(_rec_set_update(matched, answered, targets, missing))

    def compute(self) -> dict[str, Tensor]:
        """The scores, and what was counted."""
        return _rec_set_compute(*self._sums())


class RISSetScores(CounterMetric):
    """Scores of answers that are unions of masks: gIoU, cIoU, N-acc and T-acc.

    The counters are integers (an IoU is summed in units of 2^-40), so that any number of processes, in any order, gives
    the same bits.

    As input to ``update`` and as output of ``compute`` it takes and returns what
    :func:`~bsap.metrics.functional.ris_set_scores` does.

    Args:
        variant: ``paper`` or ``rela_code``, see :func:`~bsap.metrics.functional.ris_set_scores`.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for another variant; in ``update`` for arguments of other shapes, types or ranges; in ``compute``
            for 2^23 samples (8,388,608) or more.

    Example:
        >>> from torch import tensor
        >>> metric = RISSetScores()
        >>> metric.update(tensor([30, 0]), tensor([40, 0]), answered=tensor([2, 0]), targets=tensor([1, 0]))
        >>> print({name: value.item() for name, value in metric.compute().items()})
        {'gIoU': 0.875, 'cIoU': 0.75, 'N-acc': 1.0, 'T-acc': 1.0, 'n': 2, 'missing': 0}
    """

    counters = ("intersection", "union", "iou_fixed", "total", *_TARGET_COUNTERS)

    def __init__(self, *, variant: SetVariant = "paper", **kwargs: Any) -> None:
        _check_variant(variant)
        super().__init__([float(variant == "paper")], **kwargs)
        self.variant: SetVariant = variant

    def update(
        self,
        intersection: Tensor,
        union: Tensor,
        answered: Tensor,
        targets: Tensor,
        missing: Tensor | None = None,
    ) -> None:
        """Count N expressions."""
        self._add(_ris_set_update(intersection, union, answered, targets, missing))

    def compute(self) -> dict[str, Tensor]:
        """The scores, and what was counted."""
        return _ris_set_compute(*self._sums(), variant=self.variant)
