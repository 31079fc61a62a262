"""The threshold of answers that are sets: what every one of them gives on a split, and which to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError
from bsap.metrics.functional import rec_set_scores, ris_set_scores
from bsap.metrics.functional.rejection import auroc, average_precision, coverage_accuracy
from bsap.prompts.banks import Bank
from bsap.runs.answered import Worth, worth_of
from bsap.runs.recompute import as_numbers, quiet_about_classes
from bsap.runs.records import targets_of
from bsap.runs.schema import Task
from bsap.scoring import AnswerRule, Scorer, answer_values, ordered, suppress
from bsap.scoring.answers import Over
from bsap.scoring.scorers import Aggregate
from bsap.sweep.stored_split import StoredSplit

Criterion = Literal["balance", "f1", "giou"]
Known = dict[tuple[int, ...], list[Worth]]
"""The worth of growing answers to a referent (its ``id()``), by their regions; expressions share referents."""
MEASURED: dict[Criterion, tuple[Task, str]] = {"f1": ("rec", "Pr@F1"), "giou": ("ris", "gIoU")}
"""The task and the metric that a criterion looks at."""

MOST = 400
"""Thresholds that are tried; of more different values so many quantiles."""


@dataclass(frozen=True, eq=False)
class SetOutcomes:
    """What the answers of one scorer would be with any threshold over one value, for N expressions."""

    values: Tensor  # (N, M) of the regions that suppression leaves, the greatest first; -inf where there are fewer
    matched: Tensor  # (N, M + 1) int64, target boxes matched by the first 0, 1, ... of these regions
    intersection: Tensor  # the same of the pixels shared with the targets
    union: Tensor  # the same of the pixels of either
    targets: Tensor  # (N,) int64, how many regions the right answer has
    scored: Tensor  # (N,) bool, whether RIS counts the expression
    missing: Tensor  # (N,) bool, whether its picture has no proposal
    pictures: Sequence[str]  # N names

    @property
    def best(self) -> NDArray[np.float64]:
        """``(N,)`` the greatest value of each expression; an expression is rejected where the threshold is above it."""
        return self.values[:, 0].numpy()

    def at(self, threshold: float, tasks: Sequence[str]) -> dict[str, float | int]:
        """The metrics with a threshold, by ``task/metric``."""
        size = (self.values >= threshold).sum(1)
        matched, part, whole = (t.gather(1, size[:, None])[:, 0] for t in (self.matched, self.intersection, self.union))
        found: dict[str, Any] = {}
        with quiet_about_classes():
            if "rec" in tasks:
                found["rec"] = rec_set_scores(matched, size, self.targets, self.missing)
            if "ris" in tasks:
                rows = (part, whole, size, self.targets, self.missing)
                found["ris"] = ris_set_scores(*(row[self.scored] for row in rows))
        return {f"{task}/{k}": v for task, scores in found.items() for k, v in as_numbers(scores).items()}

    def rejecting(self, tasks: Sequence[str]) -> dict[str, float]:
        """AUROC and average precision of telling expressions without a target, and accuracy where half is answered."""
        known = (self.targets > 0).numpy()
        coverage, accuracy = self.curve(tasks)
        half = int(np.searchsorted(coverage, 0.5))
        return {
            "AUROC": auroc(self.best, known),
            "AP": average_precision(-self.best, ~known),
            "acc@half": float(accuracy[min(half, len(accuracy) - 1)]),
        }

    def curve(self, tasks: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coverage and accuracy of the best region, over all thresholds.

        It is right where its box matches a target's; for RIS alone, where its mask has IoU >= 0.5 with the targets'.
        """
        if self.matched.shape[1] == 1:
            right = torch.zeros(len(self.matched), dtype=torch.bool)
        elif "rec" in tasks:
            right = self.matched[:, 1] > 0
        else:
            right = (self.intersection[:, 1] > 0) & (2 * self.intersection[:, 1] >= self.union[:, 1])
        return coverage_accuracy(self.best, right.numpy())

    def candidates(self, criterion: Criterion) -> list[float]:
        """Thresholds to try: the least value, and the middle between each two that follow each other."""
        values = self.values if criterion != "balance" else self.values[:, :1]
        found = np.unique(values[values.isfinite()].numpy())
        if len(found) > MOST:
            found = np.unique(np.quantile(found, np.linspace(0, 1, MOST), method="nearest"))
        return [*found[:1].tolist(), *((found[:-1] + found[1:]) / 2).tolist()]

    def choose(self, criterion: Criterion, tasks: Sequence[str]) -> tuple[float, float]:
        """The threshold with the best mean of N-acc and T-acc, Pr@F1, or gIoU, and that value; the least of equal ones.

        Raises:
            ConfigError: the criterion cannot be computed on this split.
        """
        none = int((self.targets == 0).sum())
        if criterion == "balance" and none in (0, len(self.targets)):
            raise ConfigError(
                f"{none} of {len(self.targets)} expressions of the split have no target, so that N-acc and T-acc "
                "cannot be balanced. Choose by another criterion (--choose f1 or giou), or on a split with both."
            )
        if criterion in MEASURED and MEASURED[criterion][0] not in tasks:
            raise ConfigError(
                f"--choose {criterion} needs the task {MEASURED[criterion][0]}, which the run did not measure."
            )
        if not self.values.isfinite().any():
            raise ConfigError("No picture of the split has a proposal, so that there is no threshold to choose.")
        worth, threshold = max((self._worth(t, criterion), -t) for t in self.candidates(criterion))
        return -threshold, worth

    def _worth(self, threshold: float, criterion: Criterion) -> float:
        if criterion == "balance":
            rejected, none = self.values[:, 0] < threshold, self.targets == 0
            return float((rejected[none]).double().mean() + (~rejected[~none]).double().mean()) / 2
        task, metric = MEASURED[criterion]
        return float(self.at(threshold, [task])[f"{task}/{metric}"])


def set_outcomes(
    split: StoredSplit,
    scorers: Mapping[str, Scorer],
    bank: Bank | None,
    overs: Sequence[Over],
    *,
    aggregate: Aggregate = "before",
    nms: float | None = AnswerRule.nms,
    worth: bool = True,
) -> dict[tuple[str, Over], SetOutcomes]:
    """What every scorer would answer with any threshold over some values, see :class:`~bsap.scoring.AnswerRule`.

    Of two regions with an IoU above ``nms`` only the better one can be answered. Without ``worth``, answers are not
    compared with the targets, and match nothing.
    """
    tasks = split.tasks if worth else []
    rows: dict[tuple[str, Over], list[tuple[Tensor, list[Worth]]]] = {}
    expressions = [(scene, e.referent) for part in split.parts for scene in part.scenes for e in scene.expressions]
    for part, similarities in split.similarities(bank):
        known: Known = {}
        for name, scorer in scorers.items():
            scores = scorer(similarities, aggregate=aggregate)
            for over in overs:
                values = answer_values(over, scorer, scores, similarities, aggregate=aggregate)
                found = rows.setdefault((name, over), [])
                for i, scene in enumerate(part.scenes):
                    place = (i, slice(len(scene.expressions)), slice(len(scene.proposals)))
                    found += _answers(scene, values[place], scores.rank[place], nms, tasks, known)
    return {key: _joined(found, expressions) for key, found in rows.items()}


def _answers(
    scene: Scene, values: Tensor, rank: Tensor, nms: float | None, tasks: Sequence[Task], known: Known
) -> list[tuple[Tensor, list[Worth]]]:
    """Of each expression the values of the regions that are left, the greatest first, and what the first ones give."""
    if not values.shape[-1]:
        return [(values[e], worth_of(scene, x.referent, [], tasks)) for e, x in enumerate(scene.expressions)]
    order = ordered(values, rank)
    kept = suppress(order, torch.from_numpy(scene.proposals.boxes), nms)
    found = []
    for e, expression in enumerate(scene.expressions):
        regions = [region for region in order[e].tolist() if kept[e, region]]
        key = (id(expression.referent), *regions)
        if key not in known:
            known[key] = worth_of(scene, expression.referent, regions, tasks, growing=True)
        found.append((values[e, regions].double(), known[key]))
    return found


def _joined(rows: Sequence[tuple[Tensor, list[Worth]]], expressions: Sequence[tuple[Scene, Any]]) -> SetOutcomes:
    most = max((len(values) for values, _ in rows), default=0) or 1
    values = torch.full((len(rows), most), -torch.inf, dtype=torch.float64)
    worths = torch.zeros(3, len(rows), most + 1, dtype=torch.int64)
    for n, (found, worth) in enumerate(rows):
        values[n, : len(found)] = found
        worths[:, n, : len(worth)] = torch.tensor(worth).T
    referents = [referent for _, referent in expressions]
    return SetOutcomes(
        values=values,
        matched=worths[0],
        intersection=worths[1],
        union=worths[2],
        targets=torch.tensor([targets_of(referent.match, len(referent.ann_ids)) for referent in referents]),
        scored=torch.tensor([referent.nothing or referent.has_mask for referent in referents]),
        missing=torch.tensor([not len(scene.proposals) for scene, _ in expressions]),
        pictures=[scene.image_id for scene, _ in expressions],
    )
