"""Scorers that couple regions, against plain float64 loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bsap.errors import ConfigError
from bsap.scoring import DBSN, SCORERS, DualIS, Similarities, Sinkhorn, functional, make_scorer, scorer_name
from bsap.scoring.sinkhorn import sinkhorn_columns

COUPLED = [name for name, scorer in SCORERS.items() if isinstance(scorer, (Sinkhorn, DualIS))]


def cosines(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 0.3


def plain_log_u(kernel: np.ndarray, iterations: int = 10) -> np.ndarray:
    """Log of the row scaling of an (M, K) kernel, by POT's loop: v, then u, with u = 1 / M at first."""
    m, k = kernel.shape
    u = [1 / m] * m
    for _ in range(iterations):
        v = [1 / k / sum(u[i] * kernel[i, j] for i in range(m)) for j in range(k)]
        u = [1 / m / sum(kernel[i, j] * v[j] for j in range(k)) for i in range(m)]
    return np.log(u)


def plain_rank(scorer: Any, query: np.ndarray, bank: np.ndarray, others: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(R,) of one expression: logits of the query (R,), bank (K, R), others (K, G), pairs (G, R)."""
    if isinstance(scorer, DualIS):
        first, second, hub = query, scorer.ratio * query, int(query.argmax())
        if len(bank) and (not scorer.gate or hub in {int(row.argmax()) for row in bank}):
            first = first - np.log(np.exp(bank).sum(0))
        if not scorer.gate or hub in {int(row.argmax()) for row in pairs}:
            second = second - np.log(np.exp(scorer.ratio * pairs).sum(0))
        return first + second
    regions = len(query)
    if not len(bank):  # no prompt is left: not corrected
        return query
    if isinstance(scorer, DBSN):
        rows = np.concatenate([bank, others], axis=1)
        return query + plain_log_u(np.exp(rows.T), scorer.iterations)[:regions]
    if scorer.gallery == "scene":
        return query + plain_log_u(np.exp(bank.T), scorer.iterations)
    # The whole split is the region bank, and the picture's regions are rows of it: the first ones, in these tests.
    return query + plain_log_u(np.exp(others.T), scorer.iterations)[:regions]


def world(scorer: Any, *, lead: tuple[int, ...] = (2,), masked: bool = False, own: bool = False) -> Similarities:
    """Two scenes of 4 regions, the second with one region of padding; 3 expressions, 5 prompts, 7 other regions."""
    query, bank = cosines(*lead, 2, 3, 4), cosines(*lead, 2, 5, 4, seed=1)
    others, pairs = cosines(1, 2, 5, 7, seed=2), cosines(*lead, 2, 7, 4, seed=3)
    valid = torch.ones(2, 4, dtype=torch.bool)
    other_valid = torch.ones(2, 7, dtype=torch.bool)
    if isinstance(scorer, Sinkhorn) and scorer.gallery == "split":
        bank = others[..., :4].expand(*lead, -1, -1, -1)
    else:
        valid[1, 3] = False
        other_valid[0, 2:4] = False
    mask = cosines(2, 3, 5, seed=4) < 0.2 if masked else None
    if mask is not None:
        mask[0, 0], mask[1, 1] = True, False
    tau = torch.tensor([20.0, 30.0], dtype=torch.float64)
    inside = Similarities(
        cosines(*lead, 2, 3, 7, seed=5), others.expand(*lead, -1, -1, -1), tau, bank_mask=mask, valid=other_valid
    )
    return Similarities(query, bank, tau, bank_mask=mask, valid=valid, region_bank=inside, region_pairs=pairs)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("aggregate", ["before", "sum", "after"])
@pytest.mark.parametrize("name", COUPLED)
def test_equals_the_plain_loop(
    name: str, aggregate: Any, masked: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "_CHUNK", chunk)
    scorer = SCORERS[name]
    s = world(scorer, masked=masked)
    scores = scorer(s, aggregate=aggregate)
    assert s.region_bank is not None
    assert s.region_bank.valid is not None
    assert s.valid is not None
    assert s.region_pairs is not None
    taus = s.tau if scorer.tau is None else torch.full((2,), float(scorer.tau)).double()
    for b in range(2):
        regions, near = int(s.valid[b].sum()), s.region_bank.valid[b]
        for e in range(3):
            keep = torch.ones(5, dtype=torch.bool) if s.bank_mask is None else s.bank_mask[b, e]
            parts = [
                s.query[b, :, e, None, :regions],
                s.bank[b, :, keep, :regions],
                s.region_bank.bank[b, :, keep][..., near],
                s.region_pairs[b, :, near, :regions],
            ]
            scaled = [(taus[:, None, None] * part).numpy() for part in parts]
            joined = [[x[m] for x in scaled] for m in range(2)]
            if aggregate != "after":
                joined = [[(np.mean if aggregate == "before" else np.sum)(x, axis=0) for x in scaled]]
            each = [plain_rank(scorer, query[0], *rest) for query, *rest in joined]
            if aggregate == "after":
                value = np.mean([np.exp(r - r.max()) / np.exp(r - r.max()).sum() for r in each], axis=0)
                rank = np.log(value)
            else:
                (rank,) = each
            difference = scores.rank[b, e, :regions].numpy() - rank
            np.testing.assert_allclose(difference, difference.mean(), atol=1e-8)
            assert (scores.rank[b, e, regions:] == -math.inf).all()
            assert scores.value[b, e].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("aggregate", ["before", "sum", "after"])
def test_padding_on_one_side_only(aggregate: Any) -> None:
    s = world(DBSN())
    assert s.region_bank is not None
    whole = replace(s, valid=torch.ones_like(s.valid))
    found = DBSN()(replace(s, valid=None), aggregate=aggregate).rank
    torch.testing.assert_close(found, DBSN()(whole, aggregate=aggregate).rank)
    whole = replace(s, region_bank=replace(s.region_bank, valid=torch.ones_like(s.region_bank.valid)))
    found = DBSN()(replace(s, region_bank=replace(s.region_bank, valid=None)), aggregate=aggregate).rank
    torch.testing.assert_close(found, DBSN()(whole, aggregate=aggregate).rank)


@pytest.mark.parametrize("name", COUPLED)
def test_prompts_of_each_expression(name: str) -> None:
    """Each expression is scored with its own prompts as if it were alone."""
    scorer, s = SCORERS[name], world(SCORERS[name])
    assert s.region_bank is not None
    own, far = cosines(2, 2, 3, 5, 4, seed=7), cosines(2, 2, 3, 5, 7, seed=8)
    mask = cosines(2, 3, 5, seed=9) < 0.2
    mask[0, 1] = False

    def scores(e: slice, bank: Tensor, others: Tensor) -> Tensor:
        part = {"bank_mask": mask[:, e], "valid": s.valid}
        inside = Similarities(s.region_bank.query[:, :, e], others, s.tau, mask[:, e], s.region_bank.valid)  # type: ignore[union-attr]
        return scorer(
            Similarities(s.query[:, :, e], bank, s.tau, **part, region_bank=inside, region_pairs=s.region_pairs)
        ).rank

    together = scores(slice(None), own, far)
    for e in range(3):
        alone = scores(slice(e, e + 1), own[:, :, e], far[:, :, e])
        torch.testing.assert_close(together[:, e], alone[:, 0])


def test_scaling_balances_rows_and_columns() -> None:
    logits = cosines(6, 8) * 20
    v = sinkhorn_columns(logits, iterations=500)
    u = -math.log(8) - (logits + v[:, None]).logsumexp(0)
    plan = (u + v[:, None] + logits).exp()
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 1 / 8, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), torch.full((6,), 1 / 6, dtype=torch.float64))


def test_ten_iterations_not_nine_or_eleven() -> None:
    s = world(Sinkhorn())
    ranks = [Sinkhorn(iterations=n)(s).rank[0] for n in (9, 10, 11)]
    assert torch.equal(ranks[1], SCORERS["sinkhorn"](s).rank[0])
    assert not torch.allclose(ranks[0], ranks[1], atol=1e-9)
    assert not torch.allclose(ranks[1], ranks[2], atol=1e-9)


def test_a_scaling_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="`logits` to be finite, but Sinkhorn's scaling got NaN"):
        sinkhorn_columns(torch.tensor([[math.inf, 0.0], [0.0, 0.0]]))
    large = world(Sinkhorn())
    assert Sinkhorn(tau=1e30)(large).value.isfinite().all()


@pytest.mark.parametrize("name", COUPLED)
def test_a_bank_of_one_prompt_and_one_region(name: str) -> None:
    """With one prompt, u corrects s exactly; with one region nothing can be chosen wrongly."""
    scorer = SCORERS[name]
    tau, one = torch.tensor([20.0]), cosines(1, 1, 1, seed=3)
    inside = Similarities(cosines(1, 2, 1), one, tau)
    scores = scorer(Similarities(cosines(1, 2, 1), one, tau, region_bank=inside, region_pairs=one))
    assert scores.choice.tolist() == [0, 0]
    assert scores.value.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("name", [n for n in COUPLED if SCORERS[n].needs_region_bank])
def test_a_missing_region_bank_is_refused(name: str) -> None:
    plain = Similarities(cosines(1, 2, 3), cosines(1, 4, 3), torch.ones(1))
    with pytest.raises(ValueError, match="`similarities` to hold a region bank for"):
        SCORERS[name](plain)


def test_region_banks_of_other_shapes_are_refused() -> None:
    query, bank, tau = cosines(1, 2, 3), cosines(1, 4, 3), torch.ones(1)
    with pytest.raises(ValueError, match="`region_bank` to hold at least one region, but got 0"):
        Similarities(query, bank, tau, region_bank=Similarities(query[..., :0], bank[..., :0], tau))
    with pytest.raises(ValueError, match=r"`region_bank.bank` to be of shape \(1, 4, 3\)"):
        Similarities(query, bank, tau, region_bank=Similarities(query, bank[:, :2], tau))
    inside = Similarities(query, bank, tau)
    with pytest.raises(ValueError, match="`region_pairs` to be finite"):
        Similarities(query, bank, tau, region_bank=inside, region_pairs=torch.full((1, 3, 3), math.nan))
    with pytest.raises(ValueError, match="`region_pairs` for DualIS"):
        DualIS()(Similarities(query, bank, tau, region_bank=inside))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class_path": "Sinkhorn", "init_args": {"gallery": "all"}}, "`gallery` to be one of"),
        ({"class_path": "Sinkhorn", "init_args": {"iterations": 0}}, "`iterations` to be at least 1, but got 0"),
        ({"class_path": "DBSN", "init_args": {"gallery": "split"}}, "`gallery` to be 'scene' for DBSN"),
        ({"class_path": "DualIS", "init_args": {"ratio": -1}}, "`ratio` to be a positive number, but got -1"),
        ({"class_path": "DualIS", "init_args": {"gate": 1}}, "`gate` to be true or false, but got 1"),
    ],
)
def test_arguments_are_checked(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_scorer(spec)


def test_names_hold_what_differs() -> None:
    assert scorer_name(Sinkhorn(gallery="split")) == "sinkhorn_split"
    assert scorer_name(DBSN(iterations=3)) == "dbsn(iterations=3)"
    assert scorer_name(DualIS(gate=True)) == "dual_dis"


@pytest.mark.parametrize("name", COUPLED)
def test_gradients_are_finite_with_padding(name: str) -> None:
    s = world(SCORERS[name], masked=True)
    leaf = s.bank.clone().requires_grad_()
    valid = s.valid.clone() if s.valid is not None else None
    assert valid is not None
    if name != "sinkhorn_split":
        valid[1] = False
    padded = Similarities(
        s.query, leaf, s.tau, s.bank_mask, valid, region_bank=s.region_bank, region_pairs=s.region_pairs
    )
    SCORERS[name](padded).value.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
