"""Answers as sets of regions: the best one, or all whose value reaches a threshold, which may be none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bsap.errors import ConfigError, check_names, check_number, unknown
from bsap.scoring.functional import as_float, clip_logits
from bsap.scoring.scorers import Aggregate, Scorer
from bsap.scoring.tensors import Scores, Similarities

Rule = Literal["top", "threshold"]
Over = Literal["p", "region_bank", "both", "score", "cosine"]

WITHOUT_REGION_BANK: tuple[Over, ...] = ("p", "score", "cosine")
"""What a threshold can be set over where there is no region bank."""

RANGES: dict[str, tuple[float, float]] = {"p": (0.0, 1.0), "cosine": (-1.0, 1.0)}
"""The values that a threshold may have; any finite number for the others, which are logits."""


@dataclass(frozen=True)
class AnswerRule:
    """How regions' scores become an answer.

    Args:
        rule: ``top`` answers with the best region, ``threshold`` with every region whose value is at least ``value``,
            and with none ("no target") where no region has it.
        value: the threshold; needed for ``threshold``.
        over: what is compared with the threshold. ``p``: the value that the scorer shows, for BSAP the probability
            over texts, for most others over regions. ``score``: what the scorer ranks by. ``cosine``: the mean cosine
            of the ensemble. ``region_bank``: the scaled similarity less its logsumexp over regions of other pictures.
            ``both``: the scorer's score less its logsumexp over regions of other pictures, or as it is for a scorer
            that compares with them itself.
        nms: of two regions whose boxes have a higher IoU than this, only the better one can be part of an answer of
            several; null keeps all.

    Raises:
        ConfigError: a threshold that is missing, not needed, or out of its range: 0 to 1 for ``p``, -1 to 1 for
            ``cosine``.
    """

    rule: Rule = "top"
    value: float | None = None
    over: Over = "p"
    nms: float | None = 0.5

    def __post_init__(self) -> None:
        for name, choices in (("rule", Rule), ("over", Over)):
            if (given := getattr(self, name)) not in get_args(choices):
                raise unknown(f"`answer.{name}`", given, get_args(choices))
        if (self.rule == "threshold") != (self.value is not None):
            what = "needs `answer.value`, the threshold" if self.value is None else "has no use for `answer.value`"
            raise ConfigError(f"`answer.rule` {self.rule} {what}.")
        if self.value is not None:
            least, most = RANGES.get(self.over, (-math.inf, math.inf))
            check_number("answer.value", self.value, least=least, most=most)
        if self.nms is not None:
            check_number("answer.nms", self.nms, most=1)

    @classmethod
    def of(cls, value: Any) -> AnswerRule:
        """The rule that a configuration means: a rule, the name of one, or a mapping of its fields.

        Example:
            >>> AnswerRule.of({"rule": "threshold", "value": 0.2, "over": "cosine"})
            AnswerRule(rule='threshold', value=0.2, over='cosine', nms=0.5)
        """
        if isinstance(value, AnswerRule):
            return value
        if isinstance(value, str):
            return cls(rule=value)  # type: ignore[arg-type]
        if not isinstance(value, Mapping):
            raise ConfigError(f"`answer` must be a rule or a mapping with `rule` and `value`, but got {value!r}.")
        check_names("setting of `answer`", value, [field.name for field in fields(cls)])
        return cls(**value)

    @property
    def several(self) -> bool:
        """Whether an answer may hold no region, or more than one."""
        return self.rule == "threshold"

    @property
    def needs_region_bank(self) -> bool:
        """Whether the values are normalised over regions of other pictures."""
        return self.several and self.over not in WITHOUT_REGION_BANK


def answer_values(
    over: Over,
    scorer: Scorer,
    scores: Scores,
    similarities: Similarities,
    *,
    aggregate: Aggregate = "before",
) -> Tensor:
    """What a threshold is compared with, for any scorer.

    Args:
        over: see :class:`AnswerRule`.
        scorer: the scorer.
        scores: what it made of ``similarities``.
        similarities: of E expressions and K prompts with R regions, and with the G regions of the region bank.
        aggregate: where an ensemble is joined; ``region_bank`` joins the similarities themselves.

    Returns:
        ``(..., E, R)``; -inf where a region is padding.

    Raises:
        ValueError: no region of another picture for a value that is normalised over them.
    """
    padding = None if similarities.valid is None else ~similarities.valid.unsqueeze(-2)
    if over == "p":
        found = scores.value
    elif over == "score":
        found = scores.rank
    elif over == "cosine":
        found = as_float(similarities.query).mean(-3)
    else:
        if (region_bank := similarities.region_bank) is None:
            raise ValueError(f"Expected argument `similarities` to hold a region bank for {over!r}, but got none.")
        if over == "both" and scorer.needs_region_bank:
            return scores.rank
        if over == "both":
            found, others = scores.rank, scorer(region_bank, aggregate=aggregate).rank
        else:
            found, others = (
                clip_logits(s.query, s.tau, aggregate="before" if aggregate == "after" else aggregate, views=s.views)
                for s in (similarities, region_bank)
            )
        own = region_bank.valid
        others = others if own is None else others.masked_fill(~own.unsqueeze(-2), -math.inf)
        found = found - others.logsumexp(-1, keepdim=True)
    return found if padding is None else found.masked_fill(padding, -math.inf)


def suppress(order: Tensor, boxes: Tensor, nms: float | None) -> Tensor:
    """Non-maximum suppression, for each expression in its own order.

    Args:
        order: ``(E, R)`` int64, each row the regions from the best to the worst.
        boxes: ``(R, 4)`` xyxy.
        nms: of two regions with a higher IoU the later one is left out; None leaves out none.

    Returns:
        ``(E, R)`` bool by region: what is left.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
        >>> suppress(torch.tensor([[1, 0, 2]]), boxes, 0.5)
        tensor([[False,  True,  True]])
    """
    kept = torch.ones_like(order, dtype=torch.bool)
    if nms is None:
        return kept
    corners = boxes.double()
    low, high = torch.maximum(corners[:, None, :2], corners[:, :2]), torch.minimum(corners[:, None, 2:], corners[:, 2:])
    shared, area = (high - low).clamp(min=0).prod(-1), (corners[:, 2:] - corners[:, :2]).prod(-1)
    near = shared > nms * (area[:, None] + area - shared)
    rows = torch.arange(len(order))
    for place in range(order.shape[-1]):
        region = order[:, place]
        beaten = near[region] & kept[rows, region, None]
        beaten[rows, region] = False
        for_later = torch.zeros_like(kept).scatter(1, order[:, place + 1 :], True)
        kept &= ~(beaten & for_later)
    return kept


def ordered(values: Tensor, rank: Tensor) -> Tensor:
    """``(E, R)`` regions from the best to the worst: by value, then by rank, then the lowest index.

    Args:
        values: ``(E, R)`` from :func:`answer_values`. BSAP's p is equal for many regions where it saturates.
        rank: ``(E, R)`` what the scorer ranks by.
    """
    first = rank.argsort(dim=-1, descending=True, stable=True)
    return first.gather(-1, values.gather(-1, first).argsort(dim=-1, descending=True, stable=True))


def answered(values: Tensor, rank: Tensor, boxes: Tensor, rule: AnswerRule) -> list[list[int]]:
    """The regions that answer each expression of one picture.

    Args:
        values: ``(E, R)`` from :func:`answer_values`.
        rank: ``(E, R)`` what the scorer ranks by.
        boxes: ``(R, 4)`` the regions' boxes, xyxy.
        rule: the rule.

    Returns:
        For each expression its regions, the best first; none where the picture has no region.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
        >>> values = torch.tensor([[0.7, 0.8, 0.6], [0.1, 0.2, 0.3]])
        >>> answered(values, values, boxes, AnswerRule("threshold", 0.5))
        [[1, 2], []]
        >>> answered(values, values, boxes, AnswerRule())
        [[1], [2]]
    """
    if not values.shape[-1]:
        return [[] for _ in values]
    if not rule.several:
        return [[region] for region in rank.argmax(-1).tolist()]
    assert rule.value is not None
    order = ordered(values, rank)
    reach = (values.double() >= rule.value) & suppress(order, boxes, rule.nms)
    return [
        [region for region in row if there[region]] for row, there in zip(order.tolist(), reach.tolist(), strict=True)
    ]
