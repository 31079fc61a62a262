"""A metric whose states are integer counters: exact, and the same bits on any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


def _settings_state(settings: Sequence[float]) -> Tensor:
    """The settings as a state, byte by byte.

    ``torchmetrics.MetricCollection`` lets metrics share their counters if all their states are close to each other
    after the first update, whatever their settings. Bytes are either equal or not close; two thresholds may be close.
    """
    return torch.tensor(settings, dtype=torch.float64).view(torch.uint8).long()


def _same_settings(states: Tensor) -> Tensor:
    """Reduce the settings of several processes, or of two metrics being merged, to the one that all of them have."""
    if not (states == states[0]).all():
        raise ValueError(
            "Expected metrics with the same `thresholds` and `strict`, or `variant`, everywhere, but they differ."
        )
    return states[0]


class CounterMetric(Metric):
    """Counts samples in int64, in the states that a subclass names in ``counters``.

    Args:
        settings: numbers that tell metrics of the same class apart.
        thresholds: length of the counter ``hits``; all other counters are scalars.
        kwargs: see :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    counters: ClassVar[tuple[str, ...]]
    hits: Tensor
    total: Tensor
    missing: Tensor

    def __init__(self, settings: Sequence[float], *, thresholds: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.counters:
            shape = (thresholds,) if name == "hits" else ()
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("settings", _settings_state(settings), dist_reduce_fx=_same_settings)

    def _add(self, counts: Iterable[Tensor]) -> None:
        """Add one batch to the counters, in their order."""
        for name, count in zip(self.counters, counts, strict=True):
            state = getattr(self, name)
            setattr(self, name, state + count.to(state.device))  # in place would fail on states of an inference mode

    def _sums(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.counters]

    def set_dtype(self, dst_type: str | torch.dtype) -> CounterMetric:
        """Leave the counters as they are: torchmetrics would turn integers into ``dst_type`` as well."""
        return self

    def plot(self, val: dict[str, Tensor] | None = None, ax: Any = None) -> Any:
        """Draw the scores of ``val``, or of ``compute``, without the counts; needs matplotlib."""
        values = self.compute() if val is None else val
        return self._plot({name: value for name, value in values.items() if value.is_floating_point()}, ax)
