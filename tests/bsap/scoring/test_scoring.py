"""Scores against hand-computed cases, known identities, and a plain loop in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bsap.errors import ConfigError
from bsap.scoring import (
    BSAP,
    BSAPH,
    CLIP,
    DSL,
    NAMED_SCORERS,
    SCORERS,
    Correction,
    DualIS,
    Scorer,
    Scores,
    Similarities,
    Sinkhorn,
    balanced_logits,
    clip_logits,
    describe,
    functional,
    hybrid_logits,
    make_scorer,
    reduce_bank,
    scorer_name,
)

EVERY = [name for name, scorer in SCORERS.items() if not scorer.needs_region_bank]
"""Those with a region bank are in test_sinkhorn.py."""
AGGREGATES = ["before", "sum", "max", "after"]


def cosines(*shape: int, seed: int = 0, low: float = 0.0, high: float = 0.4, dtype: Any = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).mul(high - low).add(low).to(dtype)


def scene(query: Any, bank: Any = (), tau: Any = (1.0,), **kwargs: Any) -> Similarities:
    """One scene, one member: query (E, R) and bank (K, R) of plain numbers."""
    q = torch.as_tensor(query, dtype=torch.float64)[None]
    b = torch.as_tensor(bank, dtype=torch.float64).reshape(1, -1, q.shape[-1])
    return Similarities(query=q, bank=b, tau=torch.tensor(tau, dtype=torch.float64), **kwargs)


# --- hand-computed ----------------------------------------------------------------------------------------------------


def test_clip_by_hand() -> None:
    scores = CLIP()(scene([[0.1, 0.3]], tau=(math.log(3.0) / 0.2,)))
    assert scores.value.tolist()[0] == pytest.approx([0.25, 0.75])
    assert scores.choice.tolist() == [1]


def test_bsap_by_hand() -> None:
    # e^z: 2 / (1 + 1) = 1 and 3 / (1 + 5) = 1/2; CLIP prefers the second region, BSAP the first.
    log = np.log
    s = scene([[log(2), log(3)]], [[0.0, 0.0], [0.0, log(5)]])
    assert CLIP()(s).choice.tolist() == [1]
    scores = BSAP()(s)
    assert scores.rank.tolist()[0] == pytest.approx([0.0, log(0.5)])
    assert scores.value.tolist()[0] == pytest.approx([1 / 2, 1 / 3])
    assert scores.choice.tolist() == [0]


def test_hybrids_by_hand() -> None:
    log = np.log
    s = scene([[log(2), log(3)]], [[0.0, 0.0], [0.0, log(5)]])
    p, q = np.array([1 / 2, 1 / 3]), np.array([2 / 5, 3 / 5])
    assert BSAPH(lam=0.3)(s).value.numpy()[0] == pytest.approx(0.3 * p / p.sum() + 0.7 * q)
    product = p**0.3 * q**0.7
    assert BSAPH(lam=0.3, combine="product")(s).value.numpy()[0] == pytest.approx(product / product.sum())


def test_relatives_by_hand() -> None:
    s = scene([[3.0, 4.0]], [[1.0, 0.0], [2.0, 4.0], [0.0, 2.0]])
    lse = np.log(np.exp([[1, 2, 0], [0, 4, 2]]).sum(1))
    for name, expected in {
        "subtraction": [3 - 1, 4 - 2],
        "distribution_normalization": [3 - 0.25, 4 - 0.5],
        "csls": [3 - 0.5, 4 - 1],  # fewer than 10 prompts: all of them
        "nnn": [3 - 0.75, 4 - 1.5],
        "inverted_softmax": [3 - lse[0], 4 - lse[1]],
        "dsl": [np.log(3 / (1 + np.exp(lse[0] - 3))), np.log(4 / (1 + np.exp(lse[1] - 4)))],
    }.items():
        assert SCORERS[name](s).rank.tolist()[0] == pytest.approx(expected), name
    assert Correction(reduce="topk", top_k=2, alpha=2.0)(s).rank.tolist()[0] == pytest.approx([3 - 3, 4 - 6])
    assert Correction(reduce="max", alpha=0.5)(s).rank.tolist()[0] == pytest.approx([3 - 1, 4 - 2])


def test_qb_norm_corrects_only_hubs() -> None:
    # Region 1 is the best of a bank text, region 0 of none: only the second expression is corrected.
    s = scene([[3.0, 1.0, 0.0], [1.0, 1.1, 0.0]], [[0.0, 2.0, 1.0]])
    scores = SCORERS["qb_norm"](s)
    assert scores.rank.tolist() == [pytest.approx([3.0, 1.0, 0.0]), pytest.approx([1.0, -0.9, -1.0])]
    assert scores.choice.tolist() == [0, 0]
    # The gate heeds the mask: without its prompt the second expression has no hub either.
    masked = scene([[3.0, 1.0, 0.0], [1.0, 1.1, 0.0]], [[0.0, 2.0, 1.0]], bank_mask=torch.tensor([[True], [False]]))
    assert SCORERS["qb_norm"](masked).choice.tolist() == [0, 1]
    # Nor does padding make a hub: with region 1 gone the bank text's best is region 2.
    padded = scene([[3.0, 1.0, 2.0]], [[0.0, 2.0, 1.0]], valid=torch.tensor([True, False, True]))
    assert SCORERS["qb_norm"](padded).rank.tolist()[0] == [3.0, -math.inf, 2.0]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", range(5))
def test_qb_norm_by_a_plain_loop(k: int, seed: int) -> None:
    """As in QB-Norm's code: the k best regions of each bank text make the set of hubs."""
    query, bank = cosines(1, 12, 6, seed=seed).round(decimals=1), cosines(1, 4, 6, seed=seed + 99).round(decimals=1)
    expected = []
    hubs = {region for row in bank[0].tolist() for region in sorted(range(6), key=lambda r: -row[r])[:k]}
    for row in (20 * query[0]).tolist():
        if row.index(max(row)) in hubs:
            row = [x - math.log(sum(math.exp(20 * p[r]) for p in bank[0].tolist())) for r, x in enumerate(row)]
        expected.append(row)
    scorer = Correction(reduce="logsumexp", gate=True, gate_k=k, tau=20.0)
    got = scorer(Similarities(query=query, bank=bank, tau=torch.tensor([100.0]))).rank
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


def test_max_sums_models_and_takes_the_best_view() -> None:
    query, bank, tau = cosines(6, 4, 5), cosines(6, 3, 5, seed=1), torch.tensor([10.0, 10.0, 10.0, 30.0, 30.0, 30.0])
    s = Similarities(query=query, bank=bank, tau=tau, views=3)

    def pooled(x: Tensor) -> Tensor:  # two models with three views each
        return torch.stack([10 * x[view] + 30 * x[view + 3] for view in range(3)]).amax(0)

    torch.testing.assert_close(CLIP()(s, "max").rank, pooled(query))
    torch.testing.assert_close(BSAP()(s, "max").rank, pooled(query) - pooled(bank).logsumexp(-2))
    alone = Similarities(query=query, bank=bank, tau=tau)  # one model, six views
    torch.testing.assert_close(CLIP()(alone, "max").rank, (tau[:, None, None] * query).amax(0))
    with pytest.raises(ValueError, match="`views` to divide the 6 members, but got 4"):
        Similarities(query=query, bank=bank, tau=tau, views=4)


# --- identities -------------------------------------------------------------------------------------------------------


def test_bsap_ranks_as_inverted_softmax_does() -> None:
    s = Similarities(query=cosines(2, 1, 9, 7), bank=cosines(2, 1, 20, 7, seed=1), tau=torch.tensor([100.0]))
    assert torch.equal(BSAP()(s).rank, SCORERS["inverted_softmax"](s).rank)
    # Against the definition: e^(tau s) over the sum of e^(tau s_k), not in logarithms.
    plain = (100 * s.query).exp() / (100 * s.bank).exp().sum(-2, keepdim=True)
    assert torch.equal(BSAP()(s).choice, plain[:, 0].argmax(-1))


def test_limits_of_the_temperature() -> None:
    s = Similarities(query=cosines(1, 9, 7), bank=cosines(1, 20, 7, seed=1), tau=torch.tensor([30.0]))
    query, bank = s.query[0], s.bank[0]
    cold = BSAP(tau=1e-6)(s).rank / 1e-6 + math.log(20) / 1e-6
    torch.testing.assert_close(cold, query - bank.mean(0), atol=1e-5, rtol=0)
    hot = BSAP(tau=1e6)(s).rank / 1e6
    torch.testing.assert_close(hot, query - bank.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("qb_norm", "dsl", "bsap_h", "bsap_h_product")])
def test_a_bank_equal_over_regions_changes_nothing(name: str) -> None:
    bank = cosines(1, 20, 1, seed=1).expand(1, 20, 7)
    s = Similarities(query=cosines(1, 9, 7), bank=bank, tau=torch.tensor([30.0]))
    assert torch.equal(SCORERS[name](s).choice, CLIP()(s).choice)


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_hybrid_ends_in_clip_and_bsap(combine: Any, dtype: torch.dtype) -> None:
    s = Similarities(
        query=cosines(1, 9, 7, dtype=dtype), bank=cosines(1, 3, 7, seed=1, dtype=dtype), tau=torch.tensor([50.0])
    )
    torch.testing.assert_close(BSAPH(lam=0.0, combine=combine)(s).value, CLIP()(s).value)
    p = BSAP()(s).value
    torch.testing.assert_close(BSAPH(lam=1.0, combine=combine)(s).value, p / p.sum(-1, keepdim=True))


def test_saturated_regions_are_ranked_by_z() -> None:
    # Every region matches far better than the bank: p is 1 in float32, z is not.
    query = torch.tensor([[[0.60, 0.90, 0.75], [0.90, 0.60, 0.75]]])
    s = Similarities(query=query, bank=torch.zeros(1, 5, 3), tau=torch.tensor([100.0]))
    assert (BSAP()(s).value == 1).all()
    assert BSAP()(s).choice.tolist() == [1, 0]
    assert BSAP()(s, aggregate="after").choice.tolist() == [1, 0]
    assert BSAPH(lam=1.0)(s).choice.tolist() == [1, 0]
    # The other end: p is 0 everywhere.
    low = Similarities(query=-query, bank=torch.full((1, 5, 3), 0.9), tau=torch.tensor([100.0]))
    assert (BSAP()(low).value == 0).all()
    assert BSAP()(low).choice.tolist() == [0, 1]
    assert BSAPH()(low).choice.tolist() == [0, 1]


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_nan_at_the_extremes(name: str, aggregate: Any) -> None:
    for low, high in ((0.0, 0.4), (-1.0, 1.0), (0.99, 1.0)):
        query = cosines(2, 3, 6, 8, low=low, high=high, dtype=torch.float32).requires_grad_()
        bank = cosines(2, 3, 1000, 8, seed=1, low=-high, high=high, dtype=torch.float32).requires_grad_()
        tau = torch.full((3,), 100.0, requires_grad=True)
        valid = torch.ones(2, 8, dtype=torch.bool)
        valid[0, 5:], valid[1] = False, False
        scores = SCORERS[name](Similarities(query=query, bank=bank, tau=tau, valid=valid), aggregate=aggregate)
        assert scores.rank.dtype == scores.value.dtype == torch.float32
        assert scores.rank[0, :, :5].isfinite().all()
        assert (scores.rank[0, :, 5:] == -torch.inf).all()
        assert (scores.rank[1] == -torch.inf).all()
        assert scores.value.isfinite().all()
        assert (scores.value[0, :, 5:] == 0).all()
        assert (scores.value[1] == 0).all()
        (scores.value.sum() + scores.rank[0, :, :5].sum()).backward()
        for leaf in (query, bank, tau):
            assert leaf.grad is None or leaf.grad.isfinite().all()


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 100, 1 << 24])
@pytest.mark.parametrize("name", [n for n in EVERY if n != "clip"])
def test_a_mask_is_the_bank_without_those_prompts(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "_CHUNK", chunk)
    query, bank, tau = cosines(2, 1, 6, 5), cosines(2, 1, 14, 5, seed=1), torch.tensor([20.0])
    mask = cosines(2, 6, 14, seed=2) < 0.3
    mask[0, 0] = mask[1, 3] = True
    scores = SCORERS[name](Similarities(query=query, bank=bank, tau=tau, bank_mask=mask))
    for b in range(2):
        for e in range(6):
            alone = SCORERS[name](
                Similarities(query=query[b][:, e : e + 1], bank=bank[b][:, mask[b, e]].clone(), tau=tau)
            )
            torch.testing.assert_close(scores.rank[b, e], alone.rank[0])
            torch.testing.assert_close(scores.value[b, e], alone.value[0])


def test_a_masked_prompt_leaves_no_trace_however_large() -> None:
    s = scene([[0.1, 0.2]], [[1.0, 0.9], [-0.9, -0.95]], tau=(1000.0,), bank_mask=torch.tensor([[False, True]]))
    assert BSAP()(s).rank.tolist()[0] == pytest.approx([1000.0, 1150.0])


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("clip", "dsl")])
def test_an_expression_without_any_prompt_is_ranked_as_clip_does(name: str, aggregate: Any) -> None:
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1] = False
    query, bank = cosines(2, 4, 6), cosines(2, 3, 6, seed=1)
    # All expressions mean region 2, just, and the bank is all for region 2: any correction would overrule it.
    query[..., 2], bank[..., 2] = 0.41, 2.0
    bank.requires_grad_()
    s = Similarities(query=query, bank=bank, tau=torch.tensor([50.0, 40.0]), bank_mask=mask)
    scores = SCORERS[name](s, aggregate=aggregate)
    assert scores.choice[1] == 2
    assert (scores.choice[[0, 2, 3]] != 2).all() or name.startswith("bsap_h")  # where CLIP may outvote p
    scores.rank.sum().backward()
    assert bank.grad is not None
    assert bank.grad.isfinite().all()


def test_reduce_bank_without_a_mask_is_shared_by_all_expressions() -> None:
    bank = cosines(2, 7, 5)
    assert reduce_bank(bank).shape == (2, 1, 5)
    everything = torch.ones(2, 9, 7, dtype=torch.bool)
    torch.testing.assert_close(reduce_bank(bank, everything), reduce_bank(bank).expand(2, 9, 5))


# --- a plain loop in float64 ------------------------------------------------------------------------------------------


def plain_rank_and_value(scorer: Scorer, s: np.ndarray, bank: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Of one expression, s (R,) and bank (K, R): as the papers write it, without any care for overflow."""
    query, bank = tau * s, tau * bank
    softmax = np.exp(query) / np.exp(query).sum()
    if isinstance(scorer, CLIP):
        return query, softmax
    p = np.exp(query) / (np.exp(query) + np.exp(bank).sum(0))
    if isinstance(scorer, BSAP):
        return np.log(p / (1 - p)), p
    if isinstance(scorer, BSAPH):
        lam = float(scorer.lam)
        mix = lam * p / p.sum() + (1 - lam) * softmax if scorer.combine == "sum" else p**lam * softmax ** (1 - lam)
        mix = mix / mix.sum()
        return np.log(mix), mix
    if isinstance(scorer, DSL):
        return np.log(s * p), s * p / (s * p).sum()
    assert isinstance(scorer, Correction)
    ordered = np.sort(bank, axis=0)[::-1]
    term = {
        "mean": bank.mean(0),
        "max": ordered[0],
        "topk": ordered[: scorer.top_k].mean(0),
        "logsumexp": np.log(np.exp(bank).sum(0)),
    }[scorer.reduce]
    if scorer.gate and query.argmax() not in np.argsort(-bank, axis=1, kind="stable")[:, : scorer.gate_k]:
        term = np.zeros_like(query)
    rank = query - float(scorer.alpha) * term
    return rank, np.exp(rank) / np.exp(rank).sum()


def assert_same_up_to_a_constant(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual - actual.max(), expected - expected.max(), atol=1e-8)


SCORER_SPACE = st.sampled_from(
    [
        *(SCORERS[name] for name in EVERY if name != "sinkhorn"),
        BSAPH(lam=0.0),
        BSAPH(lam=0.9),
        BSAPH(lam=0.2, combine="product"),
        Correction(reduce="max", alpha=0.3),
        Correction(reduce="topk", top_k=3),
        Correction(reduce="mean", gate=True, gate_k=2),
    ]
)


@settings(deadline=None, max_examples=80)
@given(
    scorer=SCORER_SPACE,
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=4),
    prompts=st.integers(1, 12),
    members=st.integers(1, 3),
    aggregate=st.sampled_from(AGGREGATES),
    seed=st.integers(0, 10_000),
    masked=st.booleans(),
)
def test_padded_batches_agree_with_a_plain_loop(
    scorer: Scorer,
    sizes: list[tuple[int, int]],
    prompts: int,
    members: int,
    aggregate: Any,
    seed: int,
    masked: bool,
) -> None:
    batch, most_e, most_r = len(sizes), max(e for e, _ in sizes), max(r for _, r in sizes)
    query = cosines(batch, members, most_e, most_r, seed=seed, low=0.01)
    bank = cosines(batch, members, prompts, most_r, seed=seed + 1)
    tau = torch.linspace(20, 40, members, dtype=torch.float64)
    valid = torch.arange(most_r) < torch.tensor([r for _, r in sizes])[:, None]
    mask = cosines(batch, most_e, prompts, seed=seed + 2) < 0.3
    mask[..., 0] = True
    s = Similarities(query=query, bank=bank, tau=tau, valid=valid, bank_mask=mask if masked else None)
    scores = scorer(s, aggregate=aggregate)
    for b, (expressions, regions) in enumerate(sizes):
        for e in range(expressions):
            keep = mask[b, e].numpy() if masked else np.ones(prompts, dtype=bool)
            q, k = query[b, :, e, :regions].numpy(), bank[b, :, keep, :regions].numpy()
            t = tau.numpy() if scorer.tau is None else np.full(members, float(scorer.tau))
            if aggregate == "after":
                each = [plain_rank_and_value(scorer, q[m], k[m], t[m])[0] for m in range(members)]
                value = np.mean([np.exp(r - r.max()) / np.exp(r - r.max()).sum() for r in each], axis=0)
                rank = np.log(value)
            else:
                # One model of temperature 1 whose cosines are the pooled logits.
                pool = {"before": np.mean, "sum": np.sum, "max": np.max}[aggregate]
                pooled = [pool(t[:, None] * q, axis=0), pool(t[:, None, None] * k, axis=0)]
                rank, value = plain_rank_and_value(scorer, pooled[0], pooled[1], 1.0)
            assert_same_up_to_a_constant(scores.rank[b, e, :regions].numpy(), rank)
            np.testing.assert_allclose(scores.value[b, e, :regions].numpy(), value, atol=1e-9, rtol=1e-6)
            assert (scores.rank[b, e, regions:] == -torch.inf).all()
            assert (scores.value[b, e, regions:] == 0).all()


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", EVERY)
def test_batched_and_padded_equals_alone(name: str, aggregate: Any) -> None:
    query, bank, tau = cosines(3, 2, 4, 6), cosines(3, 2, 8, 6, seed=1), torch.tensor([20.0, 30.0])
    counts = [6, 2, 4]
    valid = torch.arange(6) < torch.tensor(counts)[:, None]
    scores = SCORERS[name](Similarities(query=query, bank=bank, tau=tau, valid=valid), aggregate=aggregate)
    for b, count in enumerate(counts):
        alone = SCORERS[name](
            Similarities(query=query[b, ..., :count], bank=bank[b, ..., :count], tau=tau), aggregate=aggregate
        )
        torch.testing.assert_close(scores.rank[b, :, :count], alone.rank)
        torch.testing.assert_close(scores.value[b, :, :count], alone.value)
        assert torch.equal(scores.choice[b], alone.choice)


# --- ensembles and temperatures ---------------------------------------------------------------------------------------


def test_clip_chooses_the_same_before_and_by_sum_but_bsap_need_not() -> None:
    s = Similarities(query=cosines(2, 400, 6), bank=cosines(2, 5, 6, seed=1), tau=torch.tensor([20.0, 20.0]))
    assert torch.equal(CLIP()(s, "before").choice, CLIP()(s, "sum").choice)
    differing = (BSAP()(s, "before").choice != BSAP()(s, "sum").choice).float().mean()
    assert 0 < differing < 0.5


def test_one_member_is_chosen_alike_however_it_is_aggregated() -> None:
    s = Similarities(query=cosines(1, 50, 6), bank=cosines(1, 5, 6, seed=1), tau=torch.tensor([20.0]))
    for scorer in map(SCORERS.__getitem__, EVERY):
        choices = [scorer(s, aggregate).choice for aggregate in ("before", "sum", "after")]
        assert torch.equal(choices[0], choices[1])
        assert torch.equal(choices[0], choices[2])


def test_temperatures_replace_the_models() -> None:
    query, bank = cosines(2, 5, 6), cosines(2, 4, 6, seed=1)
    s = Similarities(query=query, bank=bank, tau=torch.tensor([100.0, 14.0]))
    own = Similarities(query=query, bank=bank, tau=torch.tensor([7.0, 7.0]))
    each = Similarities(query=query, bank=bank, tau=torch.tensor([5.0, 9.0]))
    torch.testing.assert_close(BSAP(tau=7)(s).value, BSAP()(own).value)
    torch.testing.assert_close(BSAP(tau=torch.tensor([5.0, 9.0]))(s).value, BSAP()(each).value)
    torch.testing.assert_close(CLIP(tau_clip=torch.tensor(7.0))(s).value, CLIP()(own).value)
    # The hybrid's two temperatures are its two ends.
    torch.testing.assert_close(BSAPH(tau=7, lam=0.0)(s).value, CLIP()(s).value)
    torch.testing.assert_close(BSAPH(tau_clip=7, lam=0.0)(s).value, CLIP()(own).value)
    torch.testing.assert_close(BSAPH(tau=7, lam=1.0, combine="product")(s).choice, BSAP()(own).choice)


def test_half_precision_is_scored_in_float32() -> None:
    s = Similarities(
        query=cosines(1, 5, 6).bfloat16(), bank=cosines(1, 4, 6, seed=1).bfloat16(), tau=torch.tensor([100.0])
    )
    wide = Similarities(query=s.query.float(), bank=s.bank.float(), tau=s.tau)
    for scorer in map(SCORERS.__getitem__, EVERY):
        assert torch.equal(scorer(s).rank, scorer(wide).rank)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", EVERY)
def test_a_bank_of_each_expression_is_scored_as_if_it_were_alone(name: str, aggregate: Any, masked: bool) -> None:
    query, own = cosines(2, 3, 4, 6, low=0.1), cosines(2, 3, 4, 5, 6, seed=1)
    tau, valid = torch.tensor([50.0, 40.0, 60.0]), torch.ones(2, 6, dtype=torch.bool)
    valid[1, 4:] = False
    mask = (cosines(2, 4, 5, seed=2) > 0.2) if masked else None
    if mask is not None:
        mask[0, 1] = False
    scores = SCORERS[name](Similarities(query, own, tau, bank_mask=mask, valid=valid), aggregate=aggregate)
    for e in range(4):
        part = None if mask is None else mask[:, e : e + 1]
        alone = Similarities(query[:, :, e : e + 1], own[:, :, e], tau, bank_mask=part, valid=valid)
        expected = SCORERS[name](alone, aggregate=aggregate)
        torch.testing.assert_close(scores.rank[:, e], expected.rank[:, 0])
        torch.testing.assert_close(scores.value[:, e], expected.value[:, 0])


def test_a_bank_of_each_expression_may_be_empty_without_a_correction() -> None:
    s = Similarities(cosines(1, 3, 4), torch.zeros(1, 3, 0, 4), torch.ones(1))
    assert SCORERS["clip"](s).rank.shape == (3, 4)
    with pytest.raises(ValueError, match="to hold auxiliary prompts for BSAP, but got 0"):
        BSAP()(s)
    with pytest.raises(ValueError, match=r"`bank` to be of shape \(1, 3, 2, 4\)"):
        Similarities(cosines(1, 3, 4), torch.zeros(1, 2, 2, 4), torch.ones(1))


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_right(name: str, aggregate: Any) -> None:
    valid, mask = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, 5, dtype=torch.bool)
    valid[1, 2:], mask[0, 1, :2], mask[1, 2] = False, False, False
    if name == "dsl":
        valid[:] = True

    def score(query: Tensor, bank: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        scores = SCORERS[name](Similarities(query, bank, tau, bank_mask=mask, valid=valid), aggregate=aggregate)
        return scores.rank.masked_fill(~valid[:, None], 0.0), scores.value

    leaves = (
        cosines(2, 2, 3, 4, low=0.1).requires_grad_(),
        cosines(2, 2, 5, 4, seed=1).requires_grad_(),
        torch.tensor([5.0, 8.0], dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(score, leaves, fast_mode=True)


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_temperatures_and_weight_can_be_learned(combine: Any, lam: float) -> None:
    s = Similarities(query=cosines(1, 3, 4), bank=cosines(1, 5, 4, seed=1), tau=torch.tensor([50.0]))

    def score(tau: Tensor, tau_clip: Tensor, weight: Tensor) -> Tensor:
        return BSAPH(tau=tau, tau_clip=tau_clip, lam=weight, combine=combine)(s).value

    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.0, 6.0, lam)]
    assert torch.autograd.gradcheck(score, leaves, fast_mode=True)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_gradients_at_the_hybrids_ends_are_finite_at_any_distance(lam: float) -> None:
    weight = torch.tensor(lam, requires_grad=True)
    z = torch.tensor([[-300.0, 200.0, 3.0]], requires_grad=True)
    clip = torch.tensor([[200.0, -300.0, 1.0]], requires_grad=True)
    rank = hybrid_logits(z, clip, lam=weight)
    assert rank.isfinite().all()
    rank.softmax(-1).square().sum().backward()
    for leaf in (weight, z, clip):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


# --- edges and errors -------------------------------------------------------------------------------------------------


def test_ties_go_to_the_lowest_index() -> None:
    for scorer in map(SCORERS.__getitem__, EVERY):
        s = scene([[0.2, 0.3, 0.3, 0.3]], [[0.1, 0.1, 0.1, 0.1]], tau=(10.0,))
        assert scorer(s).choice.tolist() == [1]


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_scenes_without_regions_or_expressions(aggregate: Any) -> None:
    for shape in ((3, 0), (0, 4)):
        mask = torch.ones(shape[0], 5, dtype=torch.bool)
        if shape[0]:
            mask[0, 0] = False
        for bank_mask in (None, mask):
            s = Similarities(torch.zeros(2, *shape), torch.zeros(2, 5, shape[1]), torch.ones(2), bank_mask=bank_mask)
            for scorer in map(SCORERS.__getitem__, EVERY):
                scores = scorer(s, aggregate)
                assert scores.rank.shape == scores.value.shape == shape
                assert scores.choice.tolist() == [0] * shape[0]


def test_a_padded_scene_without_regions_has_a_choice_that_can_index() -> None:
    assert Scores(rank=torch.full((2, 3), -torch.inf), value=torch.zeros(2, 3)).choice.tolist() == [0, 0]


@pytest.mark.parametrize("field", ["query", "bank", "tau"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_an_error(field: str, bad: float) -> None:
    tensors = {"query": torch.zeros(1, 2, 3), "bank": torch.zeros(1, 4, 3), "tau": torch.ones(1)}
    tensors[field].view(-1)[0] = bad
    with pytest.raises(
        ValueError, match=f"Expected argument `{field}` to be finite, but got 1 NaN or infinite values."
    ):
        Similarities(**tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(2, 3)}, "`query` to be of shape"),
        ({"bank": torch.zeros(1, 4, 5)}, "`bank` to be of shape"),
        ({"bank": torch.zeros(2, 4, 3)}, "`bank` to be of shape"),
        ({"tau": torch.ones(2)}, "`tau` to be of shape"),
        ({"valid": torch.ones(2, dtype=torch.bool)}, "`valid` to be of shape"),
        ({"valid": torch.ones(3)}, "`valid` to be boolean"),
        ({"bank_mask": torch.ones(2, 3, dtype=torch.bool)}, "`bank_mask` to be of shape"),
        ({"bank_mask": torch.ones(2, 4)}, "`bank_mask` to be boolean"),
    ],
)
def test_shapes_that_do_not_fit(change: dict[str, Tensor], message: str) -> None:
    fitting = {"query": torch.zeros(1, 2, 3), "bank": torch.zeros(1, 4, 3), "tau": torch.ones(1)}
    Similarities(**fitting)
    with pytest.raises(ValueError, match=message):
        Similarities(**(fitting | change))


def test_only_clip_does_without_a_bank() -> None:
    s = scene([[0.1, 0.2]])
    for aggregate in AGGREGATES:
        assert CLIP()(s, aggregate).choice.tolist() == [1]  # type: ignore[arg-type]
    for name in set(EVERY) - {"clip"}:
        with pytest.raises(ValueError, match="to hold auxiliary prompts"):
            SCORERS[name](s)
    with pytest.raises(ValueError, match="at least one auxiliary prompt"):
        balanced_logits(torch.zeros(1, 2), torch.zeros(0, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BSAP(tau=0), "`tau` to be a positive number"),
        (lambda: BSAP(tau=math.nan), "`tau` to be a positive number"),
        (lambda: CLIP(tau_clip="1"), "`tau_clip` to be a positive number"),
        (lambda: CLIP(tau=10), "`tau` to be None for CLIP"),
        (lambda: BSAP(tau_clip=10), "`tau_clip` to be None for BSAP"),
        (lambda: BSAPH(lam=1.1), "`lam` to be a number between 0 and 1"),
        (lambda: BSAPH(lam=math.nan), "`lam` to be a number between 0 and 1"),
        (lambda: BSAPH(combine="mean"), "`combine` to be one of"),
        (lambda: Correction(reduce="median"), "`reduce` to be one of"),
        (lambda: Correction(alpha=math.inf), "`alpha` to be a finite number"),
        (lambda: Correction(reduce="topk"), "`top_k` to be given with"),
        (lambda: Correction(top_k=3), "`top_k` to be given with"),
        (lambda: Correction(gate=True, gate_k=0), "`gate_k` to be a whole number, at least 1"),
        (lambda: Correction(gate_k=2), "more than 1 with `gate=True` only"),
        (lambda: Correction(reduce="topk", top_k=0), "`top_k` to be a whole number, at least 1"),
        (lambda: CLIP()(scene([[0.1]]), aggregate="mean"), "`aggregate` to be one of"),
        (lambda: BSAP(tau=torch.ones(3))(scene([[0.1]], [[0.1]])), "`tau` to be a scalar or one number for each of 1"),
        (lambda: clip_logits(torch.zeros(1, 1, 1), torch.ones(1), aggregate="after"), "`aggregate` to be one of"),
    ],
)
def test_misuse(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- names ------------------------------------------------------------------------------------------------------------


def test_ready_made_scorers_are_found_named_and_described() -> None:
    names = (
        "clip bsap bsap_h bsap_h_product subtraction distribution_normalization distribution_normalization_code csls "
        "nnn nnn_code inverted_softmax qb_norm qb_norm_code dsl"
    )
    assert names.split() == [name for name, scorer in SCORERS.items() if not isinstance(scorer, (DualIS, Sinkhorn))]
    for named in NAMED_SCORERS:
        assert make_scorer(named.name) is named.scorer
        assert make_scorer(named.scorer) is named.scorer
        assert scorer_name(named.scorer) == scorer_name(named.name) == named.name
        assert describe(named.name) == f"{named.description} ({named.source})"
    assert describe(Correction(alpha=3.0)).startswith("The family")


def test_scorers_from_configuration() -> None:
    assert make_scorer({"class_path": "bsap.scoring.BSAPH", "init_args": {"lam": 0.25}}) == BSAPH(lam=0.25)
    assert make_scorer({"class_path": "CLIP"}) == CLIP()
    assert scorer_name({"class_path": "Correction", "init_args": {"reduce": "mean"}}) == "subtraction"
    specs: list[Scorer] = [BSAP(tau=1.0), BSAP(tau=2.0), BSAP(tau=torch.tensor([3.0, 4.0])), BSAPH(lam=0.1), BSAP()]
    assert len({scorer_name(spec) for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bsapp", "Unknown scorer 'bsapp'. Did you mean 'bsap'"),
        (3, "A scorer is a name or `class_path`"),
        ({"init_args": {}}, "A scorer is a name or `class_path`"),
        ({"class_path": "BSAPX"}, "Unknown scorer class 'BSAPX'"),
        ({"class_path": "no.such.Thing"}, "cannot be imported"),
        ({"class_path": "bsap.scoring.Scores"}, "not a subclass"),
        ({"class_path": "BSAP", "init_arg": {}}, "Unknown key of a scorer 'init_arg'"),
        ({"class_path": "BSAP", "init_args": [1]}, "must be a mapping"),
        ({"class_path": "BSAP", "init_args": {"lam": 1}}, "Unknown argument of scorer BSAP 'lam'"),
        ({"class_path": "BSAPH", "init_args": {"lam": "half"}}, "Scorer BSAPH: Expected argument `lam`"),
    ],
)
def test_bad_specifications(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_scorer(spec)


def test_a_scorer_of_ones_own_overrides_rank_alone() -> None:
    class Worst(Scorer):
        def rank(self, logits: Any) -> Tensor:
            return -logits.query

    s = scene([[0.1, 0.3, 0.2]], [[0.0, 0.0, 0.0]])
    assert Worst()(s).choice.tolist() == [0]
    assert Worst()(s).value.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Correction", {"gate": "false"}, "`gate`"),
        ("Correction", {"reduce": "topk", "top_k": 2.5}, "`top_k`"),
        ("Correction", {"reduce": "topk", "top_k": True}, "`top_k`"),
        ("BSAP", {"tau": 1e39}, "`tau`"),
        ("bsap.scoring.Scorer", {}, "`rank` of its own"),
    ],
)
def test_arguments_of_another_kind_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_scorer({"class_path": name, "init_args": arguments})
