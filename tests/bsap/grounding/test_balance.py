"""`bsap.balance` against a plain loop in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bsap
from bsap.errors import ConfigError


def loop(query: Any, bank: Any, tau: float) -> Any:
    """z of BSAP, one number at a time, in float64."""
    z = np.zeros(query.shape)
    for e in range(query.shape[0]):
        for r in range(query.shape[1]):
            z[e, r] = tau * query[e, r] - math.log(sum(math.exp(tau * bank[k, r]) for k in range(len(bank))))
    return z


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1.0, 20.0, 100.0]))
def test_cosines_and_embeddings_give_the_plain_loop(e: int, k: int, r: int, seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(n, 6)) for n in (e, k, r)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
    query, bank = unit[0] @ unit[2].T, unit[1] @ unit[2].T
    expected = loop(query, bank, tau)
    for found in (
        bsap.balance(query, bank, tau=tau),
        bsap.balance(rows[0], rows[1], regions=rows[2] * 7, tau=tau),
    ):
        assert isinstance(found.scores, np.ndarray)
        np.testing.assert_allclose(found.scores, expected, atol=1e-4)
        np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-expected)), atol=1e-5)
        assert found.choice.tolist() == found.scores.argmax(1).tolist()


def test_batches_are_their_parts_and_one_bank_serves_all() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.rand(3, 2, 5, generator=generator) * 2 - 1
    bank = torch.rand(4, 5, generator=generator) * 2 - 1
    whole = bsap.balance(query, bank, tau=10.0)
    assert whole.scores.shape == (3, 2, 5)
    for b in range(3):
        assert torch.allclose(whole.scores[b], bsap.balance(query[b], bank, tau=10.0).scores)
    assert whole.choice.shape == (3, 2)


def test_a_sentence_may_have_prompts_of_its_own() -> None:
    rng = np.random.default_rng(1)
    sentences, prompts, regions = (rng.normal(size=shape) for shape in ((2, 3, 6), (2, 3, 4, 6), (2, 5, 6)))
    found = bsap.balance(sentences, prompts, regions=regions, tau=20.0)
    for b in range(2):
        for e in range(3):
            alone = bsap.balance(sentences[b, e : e + 1], prompts[b, e], regions=regions[b], tau=20.0)
            np.testing.assert_allclose(found.scores[b, e], alone.scores[0], atol=1e-4)
    with pytest.raises(ValueError, match=r"`bank` to be of shape \(2, 3, K, 6\)"):
        bsap.balance(sentences, prompts[:, :2], regions=regions, tau=20.0)


def test_gradients_reach_embeddings() -> None:
    rows = [torch.randn(n, 4, requires_grad=True) for n in (2, 3, 5)]
    bsap.balance(rows[0], rows[1], regions=rows[2], tau=10.0).scores.sum().backward()
    assert all(bool(row.grad.abs().sum() > 0) for row in rows)


def test_half_precision_and_other_scorers() -> None:
    query, bank = torch.rand(2, 3).half(), torch.rand(4, 3).half()
    assert bsap.balance(query, bank, tau=10.0).scores.dtype == torch.float32
    found = bsap.balance(query, bank, tau=10.0, scorer="clip")
    assert torch.allclose(found.probability.sum(-1), torch.ones(2))
    assert "choice=[" in repr(found)


E, K, R = np.zeros((2, 3)), np.zeros((4, 3)), np.zeros((5, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": [[0.1]], "bank": K}, "`query` to be a torch tensor or a NumPy array, but got list"),
        ({"query": E[0], "bank": K}, r"`query` to have at least two dimensions, but got shape \(3,\).*query\[None\]"),
        (
            {"query": E, "bank": K[:, :2]},
            r"`bank` to be of shape \(K, 3\), because `query` has R = 3, but got \(4, 2\)",
        ),
        ({"query": E, "bank": K, "regions": R[:, :2]}, r"`regions` to be of shape \(R, 3\).*got \(5, 2\)"),
        ({"query": E[None], "bank": K[None, None]}, r"`bank` to be of shape \(1, 2, K, 3\)"),
        ({"query": E + 20, "bank": K}, r"`query` to hold cosines in \[-1, 1\], but got values from 20 to 20"),
        ({"query": E, "bank": K - 1.5}, "`bank` to hold cosines"),
        ({"query": E, "bank": K * np.nan}, "`bank` to be finite"),
        ({"query": E > 0, "bank": K}, "`query` to hold numbers, but got bool"),
    ],
)
def test_what_does_not_fit_names_the_argument_and_the_shapes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bsap.balance(**arguments, tau=10.0)


@pytest.mark.parametrize("tau", [0, -1.0, float("nan"), "hot", True])
def test_tau_is_a_positive_number(tau: Any) -> None:
    with pytest.raises(ConfigError, match="`tau` must be a number greater than 0"):
        bsap.balance(E, K, tau=tau)
    with pytest.raises(ConfigError, match="Did you mean 'bsap'"):
        bsap.balance(E, K, tau=1.0, scorer="bsab")


def test_tau_may_be_any_number_of_one_element() -> None:
    query, bank = np.array([[0.3, 0.2]]), np.array([[0.1, 0.2]])
    expected = bsap.balance(query, bank, tau=100.0).scores
    for tau in (torch.tensor(100.0), np.float32(100), np.array([100.0]), 100):
        assert np.array_equal(bsap.balance(query, bank, tau=tau).scores, expected)  # type: ignore[arg-type]


def test_number_types_may_be_mixed() -> None:
    eye = np.eye(2)
    for kind in (np.float32, np.float64, np.int64):
        found = bsap.balance(eye.astype(kind), eye, regions=eye, tau=100.0)
        assert found.choice.tolist() == [0, 1]


def test_no_region_is_no_choice() -> None:
    for arguments in ({"regions": np.zeros((0, 3))}, {}):
        query = np.ones((2, 3)) if arguments else np.zeros((2, 0))
        with pytest.raises(ValueError, match="at least one region"):
            bsap.balance(query, query, tau=100.0, **arguments)
