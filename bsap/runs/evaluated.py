"""The interface that the run folder needs of a module, so that ``runs`` does not depend on the module that uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from bsap.features.region_bank import RegionBank
from bsap.features.transforms import Transform
from bsap.prompts.banks import Bank
from bsap.runs.schema import Metrics, Record, Task
from bsap.runs.scorer_metrics import ScorerMetrics
from bsap.scoring import Scorer
from bsap.views import View


class Evaluated(Protocol):
    """A LightningModule whose tests a run folder can keep; :class:`~bsap.module.BSAPModule` is one."""

    settings: dict[str, Any]  # every argument of the module, as plain values
    tasks: Sequence[Task]
    encoders: nn.ModuleList  # each a `DualEncoder`
    views: Sequence[View]
    bank: Bank | None  # this and the region bank are set in `setup`, where something needs them
    region_bank: RegionBank | None
    transform: Transform | None
    scorers: Mapping[str, Scorer]
    metrics: ScorerMetrics  # the module feeds it with new records, the run folder with those of earlier attempts
    results: Metrics  # at the end of a test
    parsers: dict[str, dict[str, str]]  # name and version of the spaCy pipelines, by what they do it for
    device: torch.device  # the one that the encoders run on

    def finish(self) -> list[Record]:
        """The records of the scenes that are not complete yet; called when a test ends early."""
        ...

    def keep_features(self) -> None:
        """Write stored features that are still in memory; called when a test ends early."""
        ...
