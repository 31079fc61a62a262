"""The torchmetrics class for referring image segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bsap.metrics._counters import CounterMetric
from bsap.metrics.functional._shared import _check_thresholds
from bsap.metrics.functional.ris import DEFAULT_THRESHOLDS, _ris_compute, _ris_update


class RISScores(CounterMetric):
    """Scores of chosen masks: oIoU, mIoU and Pr@X.

    oIoU is the sum of all intersections over the sum of all unions; mIoU the mean of intersection over union; Pr@X the
    share of expressions whose IoU is at least X. The counters are integers (an IoU is summed in units of 2^-40), so
    that any number of processes, in any order, gives the same bits. Expressions without any proposal count as wrong.
    Without any sample the scores are NaN, with a warning.

    As input to ``update`` and as output of ``compute`` it takes and returns what
    :func:`~bsap.metrics.functional.ris_scores` does.

    Args:
        thresholds: different numbers from 0 to 1.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for other thresholds; in ``update`` for arguments of other shapes, types or ranges; in ``compute``
            for 2^23 samples (8,388,608) or more.

    Example:
        >>> import torch
        >>> metric = RISScores(thresholds=(0.5,))
        >>> metric.update(torch.tensor([30]), torch.tensor([40]))
        >>> metric.update(torch.tensor([0]), torch.tensor([80]), missing=torch.tensor([True]))
        >>> print({name: round(value.item(), 4) for name, value in metric.compute().items()})
        {'oIoU': 0.25, 'mIoU': 0.375, 'Pr@0.5': 0.5, 'n': 2, 'missing': 1}
    """

    counters = ("intersection", "union", "iou_fixed", "hits", "total", "missing")

    def __init__(self, thresholds: Sequence[float] = DEFAULT_THRESHOLDS, **kwargs: Any) -> None:
        bounds = _check_thresholds(thresholds)
        super().__init__(bounds, thresholds=len(bounds), **kwargs)
        self.thresholds = bounds

    def update(self, intersection: Tensor, union: Tensor, missing: Tensor | None = None) -> None:
        """Count N expressions."""
        self._add(_ris_update(intersection, union, missing, self.thresholds))

    def compute(self) -> dict[str, Tensor]:
        """The scores, and what was counted."""
        return _ris_compute(self.thresholds, *self._sums())
