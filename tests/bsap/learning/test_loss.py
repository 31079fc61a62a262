from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsap.learning.loss import multi_positive_loss
from bsap.scoring import Similarities, make_scorer


def plain(rank: list[float], right: list[bool]) -> float:
    weights = [math.exp(value) for value in rank]
    return -math.log(sum(w for w, r in zip(weights, right, strict=True) if r) / sum(weights))


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=1, max_size=6))
def test_one_expression(row: list[tuple[float, bool]]) -> None:
    rank, right = [r for r, _ in row], [p for _, p in row]
    found = multi_positive_loss(torch.tensor([rank], dtype=torch.float64), torch.tensor([right]))
    if not any(right):
        assert found.shape == (0,)
    else:
        assert found.tolist() == pytest.approx([plain(rank, right)], abs=1e-9)


@pytest.mark.parametrize("name", ["bsap", "bsap_h"])
def test_probabilities_of_the_scorers(name: str) -> None:
    """For BSAP the softmax of z, for BSAP-H the mixture itself; worked out region by region."""
    generator = torch.Generator().manual_seed(0)
    query, bank = torch.rand(1, 1, 2, 4, generator=generator), torch.rand(1, 1, 3, 4, generator=generator)
    tau = 5.0
    valid = torch.tensor([[True, True, True, False]])
    right = torch.tensor([[[True, False, True, False], [False, True, False, False]]])
    scores: Any = make_scorer(name)(Similarities(query, bank, torch.tensor([tau]), valid=valid))
    found = multi_positive_loss(scores.rank, right)
    for e in range(2):
        p, q = [], []
        for r in range(3):
            mine = math.exp(tau * query[0, 0, e, r])
            others = sum(math.exp(tau * bank[0, 0, k, r]) for k in range(3))
            p.append(mine / (mine + others) if name == "bsap_h" else mine / others)
            q.append(mine)
        shares = [x / sum(p) for x in p]
        if name == "bsap_h":
            shares = [0.5 * s + 0.5 * x / sum(q) for s, x in zip(shares, q, strict=True)]
        expected = -math.log(sum(s for s, good in zip(shares, right[0, e].tolist(), strict=False) if good))
        assert float(found[e]) == pytest.approx(expected, abs=1e-5)


def test_padding_and_skipped_rows_leave_gradients_finite() -> None:
    rank = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    masked = rank.masked_fill(torch.tensor([[False, False, True], [True, True, True]]), -math.inf)
    multi_positive_loss(masked, torch.tensor([[True, False, False], [False, False, False]])).sum().backward()
    share = 1 / (1 + math.e)
    assert rank.grad is not None
    assert rank.grad.flatten().tolist() == pytest.approx([share - 1, 1 - share, 0, 0, 0, 0], abs=1e-6)
