"""Scorers: from the similarities of a scene to one score for each expression and region.

A scorer defines how to rank; the base class handles temperatures, ensembles, padding and probabilities. A new scorer
overrides :meth:`Scorer.rank`, and :meth:`Scorer.value` where the value it shows is not the softmax over regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bsap.scoring.functional import (
    Combine,
    Reduce,
    as_float,
    balanced_logits,
    bank_term,
    check_reduce,
    clip_logits,
    hybrid_logits,
    is_number,
    log_softmax_regions,
    once,
    one_of,
    scaled,
)
from bsap.scoring.tensors import Scores, Similarities

Aggregate = Literal["before", "sum", "max", "after"]

_LARGEST = 1e30
"""The largest temperature: sums of logits of all prompts and members stay finite in float32."""


@dataclass(frozen=True)
class Logits:
    """What :meth:`Scorer.rank` sees: members of an ensemble are pooled, or stand as one more leading dimension.

    Attributes:
        clip: ``(..., E, R)``, tau_clip times the cosines of the queries.
        query: ``(..., E, R)``, tau times the cosines of the queries.
        bank: ``(..., K, R)``, or ``(..., E, K, R)``, tau times the cosines of the bank.
        mask: ``(..., E, K)``, True where a prompt counts for an expression, or None.
        valid: ``(..., R)``, True where a region is real, or None.
        region_bank: the same with the G regions of the region bank in the place of regions, for a scorer that needs it.
        region_pairs: ``(..., G, R)``, tau times the cosines of the region bank with the regions, or None.
    """

    clip: Tensor
    query: Tensor
    bank: Tensor
    mask: Tensor | None
    valid: Tensor | None
    region_bank: Logits | None = None
    region_pairs: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Base of all scorers.

    Args:
        tau: the temperature that scales queries and bank where they are compared. None: the model's own logit scale; a
            number, or a tensor (scalar or one for each ensemble member) that may be learned, replaces it.
        tau_clip: the same for CLIP's softmax over regions.

    Raises:
        ValueError: a temperature that is not positive, or one that this scorer does not use.
    """

    needs_bank: ClassVar[bool] = True
    temperatures: ClassVar[tuple[str, ...]] = ("tau",)

    tau: float | Tensor | None = None
    tau_clip: float | Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("tau", "tau_clip"):
            value = getattr(self, name)
            if value is None:
                continue
            if name not in self.temperatures:
                raise ValueError(
                    f"Expected argument `{name}` to be None for {type(self).__name__}, which has no use for it, "
                    f"but got {value}."
                )
            # A tensor's value is not looked at: it may be on a device, and in the middle of being learned.
            if not isinstance(value, Tensor) and not (is_number(value) and 0 < value <= _LARGEST):
                raise ValueError(
                    f"Expected argument `{name}` to be a positive number, at most {_LARGEST:g}, but got {value!r}."
                )

    @property
    def prompts_wanted(self) -> int | None:
        """How many auxiliary prompts a published setting needs at least; None: any number."""
        return None

    @property
    def needs_region_bank(self) -> bool:
        """Whether the scorer compares with regions of other pictures."""
        return False

    @property
    def needs_whole_split(self) -> bool:
        """Whether the region bank must hold every region of the split under test."""
        return False

    def rank(self, logits: Logits) -> Tensor:
        """The quantity to argmax, ``(..., E, R)``; values at padding must be finite and are ignored."""
        raise NotImplementedError

    def value(self, rank: Tensor, logits: Logits) -> Tensor:
        """The value to show, ``(..., E, R)``; by default the softmax of ``rank`` over regions."""
        return log_softmax_regions(rank, logits.valid).exp()

    def __call__(self, similarities: Similarities, aggregate: Aggregate = "before") -> Scores:
        """Score every region for every expression.

        Args:
            similarities: of one scene or of a padded batch of scenes.
            aggregate: where the N members of an ensemble are joined. ``"before"``: mean of their logits. ``"sum"``: sum
                of their logits. ``"max"``: sum over models, then the largest over views, as ReCLIP has it.
                ``"after"``: mean of their distributions over regions, each the softmax of the member's ``rank``: q for
                CLIP, the mixture for BSAP-H, softmax(z) for BSAP (p / sum p would be flat wherever p saturates). Then
                ``value`` is that mean.

        Returns:
            Ranks and values, float32, or float64 where that came in.

        Raises:
            ValueError: unknown ``aggregate``, or no auxiliary prompts or no region bank for a scorer that needs them.
        """
        one_of("aggregate", aggregate, Aggregate)
        if self.needs_bank and similarities.bank.shape[-2] == 0:
            raise ValueError(
                f"Expected argument `similarities` to hold auxiliary prompts for {type(self).__name__}, but got 0."
            )
        if self.needs_region_bank and similarities.region_bank is None:
            raise ValueError(
                f"Expected argument `similarities` to hold a region bank for {type(self).__name__}, but got none."
            )
        padding = None if similarities.valid is None else ~similarities.valid.unsqueeze(-2)
        logits = self._logits(similarities, aggregate)
        rank = self.rank(logits)
        if aggregate == "after":
            distributions = log_softmax_regions(rank, logits.valid)
            rank = distributions.logsumexp(-3) - math.log(distributions.shape[-3])
            value = rank.exp()
        else:
            value = self.value(rank, logits)
        if padding is not None:
            rank, value = rank.masked_fill(padding, -math.inf), value.masked_fill(padding, 0.0)
        return Scores(rank=rank, value=value)

    def _logits(self, s: Similarities, aggregate: Aggregate) -> Logits:
        tau, tau_clip = (_expand(t, s.tau, name) for name, t in (("tau", self.tau), ("tau_clip", self.tau_clip)))
        pool = scaled if aggregate == "after" else partial(clip_logits, aggregate=aggregate, views=s.views)
        query = pool(s.query, tau)
        clip = query if tau is tau_clip else pool(s.query, tau_clip)
        prompts = s.bank if self.needs_bank else s.bank[..., :0, :]
        rows = s.query.dim() - 2
        # Members are joined prompt by prompt, whosever they are.
        bank = pool(once(prompts.flatten(rows, -2)), tau)
        bank = bank.expand(*query.shape[:-2], *bank.shape[-2:]).unflatten(-2, prompts.shape[rows:-1])
        mask, valid = s.bank_mask, s.valid
        if aggregate == "after":  # members stand as one more leading dimension
            mask = None if mask is None else mask.unsqueeze(-3).expand(*query.shape[:-2], *mask.shape[-2:])
            valid = None if valid is None else valid.unsqueeze(-2)
        found = Logits(clip=clip, query=query, bank=bank, mask=mask, valid=valid)
        if s.region_bank is None or not self.needs_region_bank:
            return found
        pairs = None if s.region_pairs is None else pool(s.region_pairs, tau)
        return replace(found, region_bank=self._logits(s.region_bank, aggregate), region_pairs=pairs)


@dataclass(frozen=True, kw_only=True)
class CLIP(Scorer):
    """CLIP: q_r, the softmax over regions of tau_clip s_rt (Radford et al. 2021, arXiv 2103.00020)."""

    needs_bank: ClassVar[bool] = False
    temperatures: ClassVar[tuple[str, ...]] = ("tau_clip",)

    def rank(self, logits: Logits) -> Tensor:
        """``tau_clip s_rt``."""
        return logits.clip


@dataclass(frozen=True, kw_only=True)
class Correction(Scorer):
    """The family that nearly every known correction belongs to: tau s_rt - alpha * reduce_k(tau s_r,a_k).

    It ranks by logits; the value is their softmax over regions.

    Args:
        reduce: ``"mean"``, ``"topk"`` (mean of the ``top_k`` largest), ``"logsumexp"`` or ``"max"`` over the bank.
        alpha: weight of the correction; 0 is CLIP.
        top_k: for ``"topk"`` only.
        gate: correct an expression only if its best region is among the ``gate_k`` best regions of some bank text (the
            dynamic inverted softmax of QB-Norm, arXiv 2112.12777).
        gate_k: how many best regions of each bank text count for the gate, at least 1; 1 is published.
        tau: as for every scorer.
        tau_clip: must be None.
    """

    reduce: Reduce = "logsumexp"
    alpha: float | Tensor = 1.0
    top_k: int | None = None
    gate: bool = False
    gate_k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self.reduce, self.top_k)
        if not isinstance(self.gate, bool):
            raise ValueError(f"Expected argument `gate` to be true or false, but got {self.gate!r}.")
        if type(self.gate_k) is not int or self.gate_k < 1 or (self.gate_k > 1 and not self.gate):
            raise ValueError(
                "Expected argument `gate_k` to be a whole number, at least 1, and more than 1 with `gate=True` only, "
                f"but got {self.gate_k!r}."
            )
        if not isinstance(self.alpha, Tensor) and not (is_number(self.alpha) and math.isfinite(self.alpha)):
            raise ValueError(f"Expected argument `alpha` to be a finite number, but got {self.alpha!r}.")

    @property
    def prompts_wanted(self) -> int | None:
        """``top_k``."""
        return self.top_k

    def rank(self, logits: Logits) -> Tensor:
        """The corrected logits."""
        correction = bank_term(logits.query, logits.bank, logits.mask, reduce=self.reduce, top_k=self.top_k)
        corrected = logits.query - self.alpha * correction
        if not self.gate:
            return corrected
        hub = is_hub(logits.query, logits.bank, self.gate_k, valid=logits.valid, mask=logits.mask)
        return torch.where(hub, corrected, logits.query)


@dataclass(frozen=True, kw_only=True)
class BSAP(Correction):
    """Balanced Similarity with Auxiliary Prompts (arXiv 2402.18400): the logsumexp row of the family, shown as p.

    p_r = exp(tau s_rt) / (exp(tau s_rt) + sum_k exp(tau s_r,a_k)) is a softmax over texts, region by region. It
    saturates at both ends, so regions are ranked by z = logit(p), which inverted softmax ranks by too.
    """

    reduce: Reduce = field(default="logsumexp", init=False)
    alpha: float | Tensor = field(default=1.0, init=False)
    top_k: int | None = field(default=None, init=False)
    gate: bool = field(default=False, init=False)
    gate_k: int = field(default=1, init=False)

    def value(self, rank: Tensor, logits: Logits) -> Tensor:
        """The probability p = sigmoid(z)."""
        return rank.sigmoid()


@dataclass(frozen=True, kw_only=True)
class BSAPH(Scorer):
    """BSAP-H, the hybrid of BSAP's p and CLIP's q (arXiv 2402.18400, which states neither operator nor weight).

    Args:
        lam: weight of BSAP, 0 (CLIP) to 1 (BSAP); a scalar tensor may be learned.
        combine: ``"sum"``: lam p_r / sum p + (1 - lam) q_r. ``"product"``: softmax over regions of
            lam log p_r + (1 - lam) log q_r.
        tau: as for every scorer.
        tau_clip: as for every scorer.
    """

    temperatures: ClassVar[tuple[str, ...]] = ("tau", "tau_clip")

    lam: float | Tensor = 0.5
    combine: Combine = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("combine", self.combine, Combine)
        if not isinstance(self.lam, Tensor) and not (is_number(self.lam) and 0 <= self.lam <= 1):
            raise ValueError(f"Expected argument `lam` to be a number between 0 and 1, but got {self.lam!r}.")

    def rank(self, logits: Logits) -> Tensor:
        """The log of the mixture, up to a constant over regions."""
        balanced = balanced_logits(logits.query, logits.bank, logits.mask)
        return hybrid_logits(balanced, logits.clip, lam=self.lam, combine=self.combine, valid=logits.valid)


@dataclass(frozen=True, kw_only=True)
class DSL(Scorer):
    """Dual softmax at test time (arXiv 2109.04290): the product s_rt p_r, ranked as log s_rt + log p_r.

    The product has a logarithm for s > 0 only. A similarity at or below 0 counts as the smallest positive float32, so
    that such regions come after the others.
    """

    def rank(self, logits: Logits) -> Tensor:
        """``log s + log p``, up to a constant over regions."""
        smallest = torch.finfo(torch.float32).tiny
        balanced = balanced_logits(logits.query, logits.bank, logits.mask)
        return logits.query.clamp_min(smallest).log() + torch.nn.functional.logsigmoid(balanced)


def _expand(tau: float | Tensor | None, model: Tensor, name: str) -> Tensor:
    """One temperature for each member; the very same tensor as ``model`` where there is nothing to replace."""
    if tau is None:
        return model
    tensor = torch.as_tensor(tau, device=model.device)
    if tensor.numel() != 1 and tensor.shape != model.shape:
        raise ValueError(
            f"Expected argument `{name}` to be a scalar or one number for each of {model.numel()} members, "
            f"but got a tensor of shape {tuple(tensor.shape)}."
        )
    return as_float(tensor).reshape(-1).expand_as(model)


def is_hub(query: Tensor, rows: Tensor, k: int, *, valid: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Whether the best region of an expression is among the ``k`` best of some row that counts for it.

    Args:
        query: ``(..., E, R)``.
        rows: ``(..., K, R)`` or ``(..., E, K, R)``, of prompts or of regions of a region bank.
        k: how many best regions of each row count.
        valid: ``(..., R)``, True where a region is real.
        mask: ``(..., E, K)``, True where a row counts for an expression.

    Returns:
        ``(..., E, 1)`` bool.
    """
    if query.shape[-1] == 0:
        return torch.zeros(*query.shape[:-1], 1, dtype=torch.bool, device=query.device)
    if valid is not None:
        padding = ~valid.unsqueeze(-2)
        query = query.masked_fill(padding, -math.inf)
        rows = rows.masked_fill(padding if rows.dim() == query.dim() else padding.unsqueeze(-2), -math.inf)
    # (..., K, k) region indices; a stable sort keeps the lowest index first among equals, as argmax does.
    best = rows.argmax(-1, keepdim=True) if k == 1 else rows.argsort(dim=-1, descending=True, stable=True)[..., :k]
    best = best.unsqueeze(-3) if rows.dim() == query.dim() else best
    same = (query.argmax(-1)[..., None, None] == best).any(-1)
    return (same if mask is None else same & mask).any(-1, keepdim=True)
