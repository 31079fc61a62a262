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
    """A LightningModule whose tests a run folder can keep; :class:`~bsap.module.BSAPModule` is one.

    Attributes:
        settings: every argument of the module, as plain values.
        tasks: what is measured.
        encoders: the models, each a :class:`~bsap.models.interface.DualEncoder`.
        views: how regions are shown to them.
        bank: the auxiliary prompts, where a scorer needs them; set in ``setup``.
        region_bank: regions of other pictures, where something needs them; set in ``setup``.
        transform: what changes features before they are compared, or None.
        scorers: by name.
        metrics: is fed with records: by the module with new ones, by the run folder with those of earlier attempts.
        results: the metrics at the end of a test.
    """

    settings: dict[str, Any]
    tasks: Sequence[Task]
    encoders: nn.ModuleList
    views: Sequence[View]
    bank: Bank | None
    region_bank: RegionBank | None
    transform: Transform | None
    scorers: Mapping[str, Scorer]
    metrics: ScorerMetrics
    results: Metrics

    @property
    def parsers(self) -> dict[str, dict[str, str]]:
        """Name and version of the spaCy pipelines that parse sentences, by what they do it for."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that the encoders run on."""
        ...

    def finish(self) -> list[Record]:
        """The records of the scenes that are not complete yet; called when a test ends early."""
        ...

    def keep_features(self) -> None:
        """Write stored features that are still in memory; called when a test ends early."""
        ...
