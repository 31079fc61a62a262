"""Rules of answering: against torchvision and plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from bsap.errors import ConfigError
from bsap.scoring import SCORERS, AnswerRule, Similarities, answer_values, answered, ordered, suppress

boxes = st.lists(st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 8)] * 2), min_size=1, max_size=8).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
)


# No share of small whole numbers but 0.5 and 1: torchvision compares in float32, where 6 / 20 is above 0.3.
@given(boxes, st.sampled_from([0.0, 0.3137, 0.5, 0.9071, 1.0]), st.randoms(use_true_random=False))
def test_suppression_is_torchvisions(corners: torch.Tensor, limit: float, random: Any) -> None:
    size = len(corners)
    orders = [random.sample(range(size), size) for _ in range(3)]
    found = suppress(torch.tensor(orders), corners, limit)
    for order, kept in zip(orders, found.tolist(), strict=True):
        scores = torch.zeros(size).index_put((torch.tensor(order),), torch.arange(size, 0, -1).float())
        assert [r for r in order if kept[r]] == nms(corners, scores, limit).tolist()
    assert suppress(torch.tensor(orders), corners, None).all()


@given(boxes, st.floats(0, 1), st.randoms(use_true_random=False))
def test_a_threshold_after_or_before_suppression(corners: torch.Tensor, value: float, random: Any) -> None:
    """A region that is left out is worse than one that stays, so that the order of the two does not matter."""
    values = torch.tensor([[random.choice([0.1, 0.25, 0.5, 0.75, 1.0]) for _ in corners]])
    rank = torch.tensor([[random.random() for _ in corners]])
    (answer,) = answered(values, rank, corners, AnswerRule("threshold", value))
    keys = list(zip(values[0].tolist(), rank[0].tolist(), range(0, -len(corners), -1), strict=True))
    order = [r for r in sorted(range(len(corners)), key=keys.__getitem__, reverse=True) if keys[r][0] >= value]
    scores = torch.arange(len(order), 0, -1).float()
    assert answer == [order[i] for i in nms(corners[order], scores, 0.5).tolist()]


def test_equal_values_go_by_rank_then_by_index() -> None:
    values, rank = torch.tensor([[1.0, 1.0, 1.0, 0.5]]), torch.tensor([[3.0, 9.0, 3.0, 99.0]])
    assert ordered(values, rank).tolist() == [[1, 0, 2, 3]]
    apart = torch.tensor([[i * 10.0, 0, i * 10 + 5, 5] for i in range(4)])
    assert answered(values, rank, apart, AnswerRule("threshold", 0.9)) == [[1, 0, 2]]
    assert answered(values, rank, apart, AnswerRule()) == [[3]]


def test_no_region_answers_nothing() -> None:
    empty = torch.zeros(2, 0)
    for rule in (AnswerRule(), AnswerRule("threshold", 0.0)):
        assert answered(empty, empty, torch.zeros(0, 4), rule) == [[], []]


def test_the_threshold_itself_is_reached_in_float64() -> None:
    stored = torch.tensor([[0.7]])
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert answered(stored, stored, box, AnswerRule("threshold", stored.item())) == [[0]]
    assert answered(stored, stored, box, AnswerRule("threshold", 0.7)) == [[]]  # float32 keeps 0.69999998


def scene(**kwargs: Any) -> Similarities:
    generator = torch.Generator().manual_seed(0)
    cosines = [torch.rand(2, 2, size, 3, generator=generator) for size in (4, 5)]
    valid = torch.tensor([[True, True, True], [True, True, False]])
    return Similarities(query=cosines[0], bank=cosines[1], tau=torch.tensor([10.0, 20.0]), valid=valid, **kwargs)


@pytest.mark.parametrize("name", [name for name, scorer in SCORERS.items() if not scorer.needs_region_bank])
@pytest.mark.parametrize("aggregate", ["before", "after"])
def test_values_of_every_scorer(name: str, aggregate: Any) -> None:
    similarities = scene()
    scores = SCORERS[name](similarities, aggregate=aggregate)
    found = {
        over: answer_values(over, SCORERS[name], scores, similarities, aggregate=aggregate)
        for over in ("p", "score", "cosine")
    }
    real = similarities.valid[:, None].expand(2, 4, 3)
    for values, expected in zip(found.values(), (scores.value, scores.rank, similarities.query.mean(1)), strict=True):
        assert values[real].isfinite().all()
        assert torch.equal(values[real], expected[real])
        assert (values[~real] == -torch.inf).all()
    with pytest.raises(ValueError, match="to hold a region bank for 'both', but got none"):
        answer_values("both", SCORERS[name], scores, similarities)


def test_rules_say_what_they_need() -> None:
    assert AnswerRule.of("top") == AnswerRule.of({}) == AnswerRule()
    assert not AnswerRule().several
    assert AnswerRule("threshold", -3.5, over="both").needs_region_bank
    assert not AnswerRule("threshold", 0.5).needs_region_bank
    with pytest.raises(ConfigError, match=r"threshold needs `answer\.value`"):
        AnswerRule.of("threshold")


@pytest.mark.parametrize("name", SCORERS)
def test_values_over_regions_of_other_pictures(name: str) -> None:
    """Against the formula, where the third region of the bank is of the first scene's own picture."""
    generator = torch.Generator().manual_seed(1)
    inside = Similarities(
        query=torch.rand(2, 2, 4, 6, generator=generator),
        bank=torch.rand(2, 2, 5, 6, generator=generator),
        tau=torch.tensor([10.0, 20.0]),
        valid=torch.arange(6) != torch.tensor([[2], [9]]),
    )
    similarities = scene(region_bank=inside, region_pairs=torch.rand(2, 2, 6, 3, generator=generator))
    scorer = SCORERS[name]
    if scorer.needs_whole_split:
        return
    scores = scorer(similarities)
    found = {over: answer_values(over, scorer, scores, similarities) for over in ("region_bank", "both")}
    real = similarities.valid[:, None].expand(2, 4, 3)
    both = scores.rank
    if not scorer.needs_region_bank:
        both = both - scorer(inside).rank.double().exp().sum(-1, keepdim=True).log().float()
    torch.testing.assert_close(found["both"][real], both[real])
    logit, others = ((10 * s.query[:, 0] + 20 * s.query[:, 1]) / 2 for s in (similarities, inside))
    for b, e, r in real.nonzero().tolist():
        total = sum(math.exp(others[b, e, g]) for g in range(6) if (b, g) != (0, 2))
        assert found["region_bank"][b, e, r].item() == pytest.approx(logit[b, e, r].item() - math.log(total), abs=1e-4)
    assert (found["region_bank"][~real] == -torch.inf).all()
