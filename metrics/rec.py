"""The torchmetrics class for referring expression comprehension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bsap.metrics._counters import CounterMetric
from bsap.metrics.functional._shared import _check_thresholds
from bsap.metrics.functional.rec import _rec_compute, _rec_update


class RECAccuracy(CounterMetric):
    """Share of expressions whose chosen box meets the referent's box (Acc@0.5).

    The counters are integers, so that any number of processes, in any order, gives the same bits. Expressions without
    any proposal count as wrong. Without any sample the accuracy is NaN, with a warning.

    As input to ``update`` and as output of ``compute`` it takes and returns what
    :func:`~bsap.metrics.functional.rec_accuracy` does.

    Args:
        thresholds: different numbers from 0 to 1; :data:`~bsap.metrics.functional.IOU_THRESHOLDS` is COCO's range.
        strict: ask for more than the threshold, as ReCLIP does, instead of at least it.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for other thresholds, and in ``update`` for arguments of other shapes, types or ranges.

    Example:
        >>> import torch
        >>> metric = RECAccuracy(thresholds=(0.5, 0.75))
        >>> metric.update(torch.tensor([0.9, 0.5], dtype=torch.float64))
        >>> metric.update(torch.tensor([0.0], dtype=torch.float64), missing=torch.tensor([True]))
        >>> print({name: round(value.item(), 4) for name, value in metric.compute().items()})
        {'acc@0.5': 0.6667, 'acc@0.75': 0.3333, 'mAcc': 0.5, 'n': 3, 'missing': 1}
    """

    counters = ("hits", "total", "missing")

    def __init__(self, thresholds: Sequence[float] = (0.5,), *, strict: bool = False, **kwargs: Any) -> None:
        bounds = _check_thresholds(thresholds)
        super().__init__([*bounds, strict], thresholds=len(bounds), **kwargs)
        self.thresholds, self.strict = bounds, strict

    def update(self, iou: Tensor, missing: Tensor | None = None) -> None:
        """Count N expressions."""
        self._add(_rec_update(iou, missing, self.thresholds, self.strict))

    def compute(self) -> dict[str, Tensor]:
        """The accuracy at each threshold, and what was counted."""
        return _rec_compute(self.thresholds, *self._sums())
