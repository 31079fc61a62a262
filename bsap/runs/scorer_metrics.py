"""The metrics of a run while it goes on: one torchmetrics object for each scorer and task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

from torch import nn
from torchmetrics import Metric

from bsap.metrics import RECAccuracy, RECSetScores, RISScores, RISSetScores
from bsap.runs.recompute import as_numbers, metric_inputs, quiet_about_classes
from bsap.runs.schema import TASKS, Metrics, Record, Task


class ScorerMetrics(nn.Module):
    """The metrics of every scorer and task, fed with records.

    With ``strict`` a hit of REC needs IoU > 0.5 (ReCLIP's rule) instead of IoU >= 0.5. Answers that are ``sets``, of no
    region or several, have metrics of their own.
    """

    def __init__(
        self, scorers: Sequence[str], tasks: Sequence[Task], *, strict: bool = False, sets: bool = False
    ) -> None:
        super().__init__()
        self.scorers = list(scorers)
        self.tasks = list(tasks)
        # Lists, not dictionaries: a scorer's name may hold a full stop, which a module's name may not.
        rec: Callable[[], Metric] = RECSetScores if sets else partial(RECAccuracy, strict=strict)
        ris: Callable[[], Metric] = RISSetScores if sets else RISScores
        self.rec = nn.ModuleList(rec() for _ in scorers if "rec" in tasks)
        self.ris = nn.ModuleList(ris() for _ in scorers if "ris" in tasks)

    def _by_task(self) -> Iterator[tuple[Task, str, Metric]]:
        for task, metrics in zip(TASKS, (self.rec, self.ris), strict=True):
            for name, metric in zip(self.scorers, metrics, strict=False):
                yield task, name, cast(Metric, metric)

    def update(self, records: Sequence[Record]) -> None:
        """Count records."""
        for task, name, metric in self._by_task():
            values = metric_inputs(records, name, task)
            if len(values[0]):
                metric.update(*values)

    def compute(self) -> Metrics:
        """Values as ``{task: {scorer: {metric: value}}}``, over all processes."""
        results: Metrics = {task: {} for task in TASKS if task in self.tasks}
        with quiet_about_classes():
            for task, name, metric in self._by_task():
                results[task][name] = as_numbers(metric.compute())
        return results

    def reset(self) -> None:
        """Forget everything counted."""
        for _, _, metric in self._by_task():
            metric.reset()
