"""What rejecting gives on the embedded world: how well each value tells which sentences mean nothing in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from bsap.analysis.bootstrap import bootstrap_statistic
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.scene import Scene
from bsap.demo.dataset import DATASET, SETS
from bsap.features.ensemble import Ensemble
from bsap.features.region_bank import RegionBankConfig, draw_region_bank, encode_region_bank
from bsap.metrics.functional.rejection import auroc
from bsap.models.load import load_model
from bsap.prompts.banks import load_bank
from bsap.scoring import SCORERS
from bsap.scoring.answers import Over
from bsap.sweep.stored_split import StoredSplit
from bsap.sweep.thresholds import SetOutcomes, set_outcomes
from bsap.views import make_view

VALUES: tuple[tuple[str, Over], ...] = (
    ("clip", "p"),
    ("clip", "cosine"),
    ("clip", "region_bank"),
    ("bsap", "p"),
    ("bsap", "both"),
    ("bsap_h", "p"),
)
"""Scorer, and what its threshold is set over."""

BANK, OTHERS = "coco_categories", RegionBankConfig("train", size=400)


@dataclass(frozen=True)
class Rejection:
    """What rejecting by one value gives on the test split.

    Attributes:
        threshold: chosen on val, with the best mean of N-acc and T-acc there.
        measures: AUROC, N-acc and T-acc, shares, each with the ends of its 95 % interval over scenes.
        expressions: expressions without, and with a target.
    """

    scorer: str
    over: str
    threshold: float
    measures: dict[str, tuple[float, float, float]]
    expressions: tuple[int, int]


def rejections(root: Path, store: Path, *, limit: int | None = None) -> list[Rejection]:
    """Choose a threshold on val and reject on test, by every value of :data:`VALUES`.

    Args:
        root: the drawn dataset.
        store: the folder of the feature store.
        limit: take only so many expressions of each split.

    Returns:
        Nothing where the limit leaves no expression that means something, or none that means nothing.
    """
    ensemble = Ensemble([load_model("demo")], [make_view("crop")], store=store)
    data = [
        RefCOCODataModule(
            str(root), ProposalConfig("ground_truth"), dataset=DATASET, split_by=SETS, split=split, limit=limit
        )
        for split in ("val", "test")
    ]
    scenes = [module.load_split(module.split) for module in data]
    for part in scenes:
        encode_region_bank(draw_region_bank(part, RegionBankConfig(size=None)), ensemble)
    ensemble.fit(None, draw_region_bank(data[0].load_split(OTHERS.split, unfiltered=True), OTHERS))
    ensemble.flush()
    val, test = (_outcomes(part, ensemble) for part in scenes)
    if any((split[key].targets > 0).unique().numel() < 2 for split in (val, test) for key in split):
        return []
    found = [_rejection(*key, val[key].choose("balance", ())[0], test[key]) for key in VALUES]
    ensemble.flush()
    return found


def _outcomes(scenes: Sequence[Scene], ensemble: Ensemble) -> dict[tuple[str, Over], SetOutcomes]:
    split, bank = StoredSplit(scenes, ensemble, ["rec"], sets=True), load_bank(BANK)
    scorers = {name: SCORERS[name] for name, _ in VALUES}
    overs = list(dict.fromkeys(over for _, over in VALUES))
    with torch.no_grad():
        return set_outcomes(split, scorers, bank, overs, worth=False)


def _rejection(scorer: str, over: str, threshold: float, outcomes: SetOutcomes) -> Rejection:
    known, kept = (outcomes.targets > 0).numpy(), outcomes.best >= threshold

    def share(of: NDArray[np.bool_], right: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
        return float((weights * (of & right)).sum() / max((weights * of).sum(), 1.0))

    statistics = {
        "AUROC": lambda weights: auroc(outcomes.best, known, weights),
        "N-acc": lambda weights: share(~known, ~kept, weights),
        "T-acc": lambda weights: share(known, kept, weights),
    }
    measures = {name: bootstrap_statistic(of, outcomes.pictures) for name, of in statistics.items()}
    return Rejection(scorer, over, threshold, measures, (int((~known).sum()), int(known.sum())))


def rejection_table(found: Sequence[Rejection]) -> Table:
    """A row for each value."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("scorer", "rejects by"):
        rows.add_column(name, no_wrap=True)
    for name in ("AUROC", "N-acc", "T-acc"):
        rows.add_column(f"{name}\n\\[95 % interval]", justify="right", no_wrap=True)
    for row in found:
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in measure)) for measure in row.measures.values()]
        rows.add_row(row.scorer, row.over, *cells)
    return rows
