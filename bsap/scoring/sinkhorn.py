"""Scorers that couple regions: Sinkhorn normalisation, and normalisation over two banks.

Letters are those of :mod:`bsap.scoring.functional`; G is the number of regions of the region bank. Temperatures
multiply cosines, so that the papers' 0.01 is ``tau`` 100 here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bsap.scoring.functional import as_float, bank_term, is_number, once, one_of, per_expression
from bsap.scoring.scorers import Logits, Scorer, is_hub

Gallery = Literal["scene", "split"]


def sinkhorn_columns(
    logits: Tensor, valid: Tensor | None = None, mask: Tensor | None = None, *, iterations: int = 10
) -> Tensor:
    """The scaling log v of the columns of exp(logits), for uniform marginals.

    u and v make each row of diag(u) exp(logits) diag(v) sum to 1 / M and each column to 1 / K. They start from
    u = 1 / M; an iteration updates v, then u. The last log u of a row is ``-log M - logsumexp_k(logits + log v)``.

    Args:
        logits: ``(..., K, M)``, texts by regions; M are the rows of the transport, K its columns.
        valid: ``(..., M)``, True where a region is real; all count where none is.
        mask: ``(..., K)``, True where a text counts; all count where none does.
        iterations: how often both are updated, at least 1.

    Returns:
        ``(..., K)``; -inf where a text does not count.

    Raises:
        ValueError: the scaling of a text that counts is not finite.
    """
    s = as_float(logits)
    if valid is not None:
        valid = valid | ~valid.any(-1, keepdim=True)
    if mask is not None:
        mask = mask | ~mask.any(-1, keepdim=True)
    rows = torch.tensor(s.shape[-1]) if valid is None else valid.sum(-1, keepdim=True)
    columns = torch.tensor(s.shape[-2]) if mask is None else mask.sum(-1, keepdim=True)
    log_m, log_k = rows.clamp(min=1).to(s).log(), columns.to(s).log()
    u, v = -log_m.expand(*s.shape[:-2], s.shape[-1]), s.new_zeros(s.shape[:-1])
    for step in range(iterations):
        if step:
            u = -log_m - (s + v.unsqueeze(-1)).logsumexp(-2)
        if valid is not None:
            u = u.masked_fill(~valid, -math.inf)
        v = -log_k - (s + u.unsqueeze(-2)).logsumexp(-1)
        if mask is not None:
            v = v.masked_fill(~mask, -math.inf)
    known = v if mask is None else v.masked_fill(~mask, 0.0)
    if s.shape[-1] and not bool(known.isfinite().all()):
        raise ValueError("Expected argument `logits` to be finite, but Sinkhorn's scaling got NaN or infinite values.")
    return v if s.shape[-1] else torch.zeros_like(v)


@dataclass(frozen=True, kw_only=True)
class Sinkhorn(Scorer):
    """Sinkhorn normalisation: s_rt + log(u_r) / tau, u the scaling of the regions (arXiv 2508.02538).

    u_r and v_k make each of the M regions of u_r exp(tau s_r,a_k) v_k weigh 1 / M and each of the K prompts 1 / K; with
    v = 1 this would be inverted softmax. The paper's rows are its whole gallery, which is ``gallery="split"`` here. As
    in its code (ppanzx/DBSN, POT's ``sinkhorn``), each iteration updates v, then u.

    Args:
        gallery: ``"scene"``: M are the regions of the picture. ``"split"``: M are all regions of the split under test;
            the region bank must hold them.
        iterations: how often u and v are updated; 10 is published.
        tau: 100 is published (0.01 in the papers); None is the model's own logit scale.
        tau_clip: must be None.
    """

    tau: float | Tensor | None = 100.0
    gallery: Gallery = "scene"
    iterations: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("gallery", self.gallery, Gallery)
        if type(self.iterations) is not int or self.iterations < 1:
            raise ValueError(f"Expected argument `iterations` to be at least 1, but got {self.iterations!r}.")

    @property
    def needs_region_bank(self) -> bool:
        """With ``gallery="split"``."""
        return self.gallery == "split"

    @property
    def needs_whole_split(self) -> bool:
        """With ``gallery="split"``."""
        return self.gallery == "split"

    def rank(self, logits: Logits) -> Tensor:
        """``tau s + log u``, up to a constant over regions."""
        rows, valid = self._rows(logits)
        own = logits.bank.dim() > logits.query.dim()
        if own:  # each expression is one more leading dimension
            valid = None if valid is None else valid.unsqueeze(-2)
            v = sinkhorn_columns(rows, valid, logits.mask, iterations=self.iterations)
            u = self._u(logits.bank, v)
            # As for a shared bank: an expression that is left without any prompt is not corrected.
            return logits.query + (u if logits.mask is None else u * logits.mask.any(-1, keepdim=True))
        shared = self._u(logits.bank, sinkhorn_columns(rows, valid, iterations=self.iterations)).unsqueeze(-2)
        if logits.mask is None:
            return logits.query + shared
        scenes, bank = (
            x.expand(*logits.bank.shape[:-1], x.shape[-1]).unsqueeze(0).flatten(0, -3) for x in (rows, logits.bank)
        )
        real = None if valid is None else valid.expand(*logits.bank.shape[:-2], valid.shape[-1])
        real = None if real is None else real.unsqueeze(0).flatten(0, -2)

        def alone(scene: Tensor, mask: Tensor) -> Tensor:
            known = None if real is None else real[scene]
            return self._u(bank[scene], sinkhorn_columns(scenes[scene], known, mask, iterations=self.iterations))

        return logits.query + per_expression(shared, logits.mask, alone, rows.shape[-1] * rows.shape[-2])

    def _rows(self, logits: Logits) -> tuple[Tensor, Tensor | None]:
        """``(..., K, M)`` logits of the rows, and which of them are real."""
        if self.gallery == "scene":
            return logits.bank, logits.valid
        assert logits.region_bank is not None
        return once(logits.region_bank.bank.unsqueeze(-3)).squeeze(-3), None  # its own picture is part of the split

    @staticmethod
    def _u(bank: Tensor, v: Tensor) -> Tensor:
        return -(as_float(bank) + v.unsqueeze(-1)).logsumexp(-2)


@dataclass(frozen=True, kw_only=True)
class DBSN(Sinkhorn):
    """Dual-bank Sinkhorn normalisation: s_rt + log(u_r) / tau, with the region bank as further rows (arXiv 2508.02538).

    The rows are the M regions of the picture and the G of the region bank; u of the picture's rows is used only. The
    paper's rows are its whole gallery and the bank.
    """

    needs_region_bank = True

    gallery: Gallery = "scene"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gallery != "scene":
            raise ValueError(f"Expected argument `gallery` to be 'scene' for DBSN, but got {self.gallery!r}.")

    def _rows(self, logits: Logits) -> tuple[Tensor, Tensor | None]:
        other = logits.region_bank
        assert other is not None
        rows = torch.cat([logits.bank, other.bank], dim=-1)
        if logits.valid is None and other.valid is None:
            return rows, None
        everything = torch.ones((), dtype=torch.bool, device=rows.device)
        both = [
            (everything if known is None else known).expand(*logits.query.shape[:-2], x.shape[-1])
            for x, known in ((logits.bank, logits.valid), (other.bank, other.valid))
        ]
        return rows, torch.cat(both, dim=-1)


@dataclass(frozen=True, kw_only=True)
class DualIS(Scorer):
    """Inverted softmax over the bank times that over the region bank (DualIS of DBNorm, arXiv 2310.11612).

    (1 + ratio) tau s_rt - logsumexp_k(tau s_r,a_k) - logsumexp_g(ratio tau s_r,x_g), with x_g the regions of the region
    bank. The authors' code (``db_norm``) normalises the similarities of regions with regions instead of those with the
    query; the re-implementation in ppanzx/DBSN, as here, those with the query.

    Args:
        ratio: the temperature over the region bank, relative to ``tau``.
        gate: normalise over a bank only where the best region of the expression is also the best of some row of that
            bank: the dynamic inverted softmax, DualDIS. Elsewhere its factor is exp(tau s_rt); the authors' code takes
            s_rt there, which mixes two scales and turns the order around below 0.
        tau: as for every scorer.
        tau_clip: must be None.
    """

    needs_region_bank = True

    ratio: float = 1.0
    gate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.ratio) and 0 < self.ratio < math.inf):
            raise ValueError(f"Expected argument `ratio` to be a positive number, but got {self.ratio!r}.")
        if not isinstance(self.gate, bool):
            raise ValueError(f"Expected argument `gate` to be true or false, but got {self.gate!r}.")

    def rank(self, logits: Logits) -> Tensor:
        """The logarithm of the product."""
        pairs = logits.region_pairs
        if pairs is None:
            raise ValueError(f"Expected argument `similarities` to hold `region_pairs` for {type(self).__name__}.")
        query, other = as_float(logits.query), logits.region_bank
        texts = bank_term(query, logits.bank, logits.mask)
        own = None if other is None or other.valid is None else other.valid.unsqueeze(-2).expand(*query.shape[:-1], -1)
        regions = bank_term(query, self.ratio * pairs, own)
        if self.gate:
            texts = texts * is_hub(query, logits.bank, 1, valid=logits.valid, mask=logits.mask)
            regions = regions * is_hub(query, pairs, 1, valid=logits.valid, mask=own)
        return (1 + self.ratio) * query - texts - regions
