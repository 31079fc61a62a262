"""What every scorer makes of a batch of scenes, on the host: choices, answers, and the values that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from bsap.datamodules.scene import Scene
from bsap.scoring import AnswerRule, Scorer, Scores, Similarities, answer_values, answered
from bsap.scoring.answers import WITHOUT_REGION_BANK, Over
from bsap.scoring.scorers import Aggregate


@dataclass(frozen=True)
class Chosen:
    """What one scorer makes of one expression.

    Attributes:
        region: the best region; means nothing for a picture without regions.
        score: its score.
        scores: of all R regions, where they are to be recorded.
        answer: the regions of the answer, the best first, where it may be none or several.
        values: what a threshold can be set over, of all R regions, where it is to be recorded.
    """

    region: int = 0
    score: float = 0.0
    scores: list[float] | None = None
    answer: list[int] | None = None
    values: dict[str, list[float]] | None = None


def choices_of(
    scenes: Sequence[Scene],
    scorers: Mapping[str, Scorer],
    similarities: Similarities | None,
    *,
    aggregate: Aggregate,
    rule: AnswerRule,
    all_scores: bool = False,
) -> list[list[dict[str, Chosen]]]:
    """The choices of all scorers.

    Args:
        scenes: B scenes.
        scorers: by name.
        similarities: of the scenes; None where no scene has a region or an expression.
        aggregate: where an ensemble is joined.
        rule: how scores become an answer.
        all_scores: whether the scores of all regions are recorded.

    Returns:
        For each scene and expression, the choice of each scorer.
    """
    if similarities is None:
        none = Chosen(scores=[] if all_scores else None, answer=[] if rule.several else None)
        return [[dict.fromkeys(scorers, none) for _ in scene.expressions] for scene in scenes]
    overs: list[Over] = [rule.over] if rule.several else []
    if rule.several and all_scores:
        overs = [over for over in get_args(Over) if similarities.region_bank is not None or over in WITHOUT_REGION_BANK]
    with torch.autocast(similarities.query.device.type, enabled=False):
        scores = [scorer(similarities, aggregate=aggregate) for scorer in scorers.values()]
        # One transfer for all scorers: the host waits for the device once per batch.
        picked = torch.stack([torch.stack(_picked(score)) for score in scores]).cpu()
        shown = torch.stack([score.value.float() for score in scores]).cpu() if all_scores else None
        rank = torch.stack([score.rank.float() for score in scores]).cpu() if rule.several else None
        values: dict[str, Tensor] = {}
        for over in overs:
            pairs = zip(scorers.values(), scores, strict=True)
            found = [answer_values(over, *pair, similarities, aggregate=aggregate) for pair in pairs]
            values[over] = torch.stack(found).float().cpu()
    batch: list[list[dict[str, Chosen]]] = []
    for b, scene in enumerate(scenes):
        size, boxes = len(scene.proposals), torch.from_numpy(scene.proposals.boxes)
        rows: list[dict[str, Chosen]] = [{} for _ in scene.expressions]
        for s, name in enumerate(scorers):
            part = (s, b, slice(len(rows)), slice(size))
            answers = None if rank is None else answered(values[rule.over][part], rank[part], boxes, rule)
            for e, row in enumerate(rows):
                place = (s, b, e, slice(size))
                row[name] = Chosen(
                    region=int(picked[s, 0, b, e]),
                    score=float(picked[s, 1, b, e]),
                    scores=None if shown is None else shown[place].tolist(),
                    answer=None if answers is None else answers[e],
                    values=_listed(values, place) if answers is not None and all_scores else None,
                )
        batch.append(rows)
    return batch


def _listed(values: Mapping[str, Tensor], place: tuple[int | slice, ...]) -> dict[str, list[float]]:
    return {over: rows[place].tolist() for over, rows in values.items() if over != "p"}  # which is among the scores


def _picked(scores: Scores) -> tuple[Tensor, Tensor]:
    """(..., E) choices and their values; both mean nothing for a picture without regions."""
    choice = scores.choice
    value = scores.value.gather(-1, choice.clamp(min=0)[..., None])[..., 0]
    return choice.float(), value.float()
