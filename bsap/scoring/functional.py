"""The arithmetic of every scorer: pure, batched, differentiable functions over tensors of logits.

A logit is a cosine times the temperature tau. Letters: N ensemble members, E expressions, R regions, K auxiliary
prompts; "..." is any number of leading batch dimensions, the same for all arguments of a call. Everything is computed
in float32, or in float64 where that is what comes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeGuard, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Pooling = Literal["before", "sum", "max"]
Reduce = Literal["mean", "topk", "logsumexp", "max"]
Combine = Literal["sum", "product"]

_CHUNK = 1 << 24
"""Elements of the largest temporary that a bank mask may cost: 64 MiB in float32."""


def one_of(argument: str, value: object, choices: object) -> None:
    """Raise a ``ValueError`` unless ``value`` is one of the strings of the ``Literal`` type ``choices``."""
    if value not in get_args(choices):
        raise ValueError(f"Expected argument `{argument}` to be one of {list(get_args(choices))}, but got {value!r}.")


def is_number(x: object) -> TypeGuard[float]:
    """Whether a setting is a number, and not true or false."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def as_float(x: Tensor) -> Tensor:
    """The tensor in float32, or untouched if it is float64: half precision ties and flips near-equal regions."""
    return x if x.dtype == torch.float64 else x.float()


def once(x: Tensor) -> Tensor:
    """Without the repetitions of ``expand`` in the leading dimensions, all but the last three, which get length 1."""
    for dim in range(x.dim() - 3):
        if x.stride(dim) == 0:
            x = x.narrow(dim, 0, 1)
    return x


def scaled(cosines: Tensor, tau: Tensor) -> Tensor:
    """Logits of each member: cosines ``(..., N, E, R)`` times its temperature ``(N,)``."""
    cosines = as_float(cosines)
    return cosines * tau.to(cosines)[:, None, None]


def clip_logits(cosines: Tensor, tau: Tensor, *, aggregate: Pooling = "before", views: int | None = None) -> Tensor:
    """Cosines of an ensemble to the logits of one model.

    Args:
        cosines: ``(..., N, E, R)``, or ``(..., N, K, R)`` for a bank that all expressions share.
        tau: ``(N,)``, the logit scale of each member.
        aggregate: ``"before"`` is the mean over members of tau_m s_m, as sharp as one member; ``"sum"`` is their sum,
            N times sharper. CLIP chooses the same region with both; a softmax over texts does not. ``"max"`` is
            ReCLIP's: the sum over models, then the largest over views.
        views: for ``"max"``, the number of views of each model, where the N members are ordered by model and then by
            view; None: all members are views of one model.

    Returns:
        ``(..., E, R)``.

    Example:
        >>> clip_logits(torch.tensor([[[0.2, 0.3]], [[0.4, 0.1]]]), torch.tensor([10.0, 20.0]))
        tensor([[5.0000, 2.5000]])
    """
    one_of("aggregate", aggregate, Pooling)
    logits = scaled(cosines, tau)
    if logits.shape[-3] == 1:
        return logits.squeeze(-3)
    if aggregate == "max":
        models: Tensor = logits.unflatten(-3, (-1, views or logits.shape[-3]))
        return models.sum(-4).amax(-3)
    return logits.mean(-3) if aggregate == "before" else logits.sum(-3)


def _reduce(x: Tensor, mask: Tensor | None, reduce: Reduce, top_k: int) -> Tensor:
    """Over the prompts of ``(..., K, R)``; ``mask`` ``(..., K)`` leaves at least one prompt in every row."""
    if mask is not None and reduce != "mean":
        x = x.masked_fill(~mask.unsqueeze(-1), -math.inf)
    if reduce == "logsumexp":
        return x.logsumexp(-2)
    if reduce == "max":
        return x.amax(-2)
    if reduce == "mean":
        if mask is None:
            return x.mean(-2)
        return x.masked_fill(~mask.unsqueeze(-1), 0.0).sum(-2) / mask.sum(-1, keepdim=True)
    best = x.topk(min(top_k, x.shape[-2]), dim=-2).values
    real = best > -math.inf  # fewer than top_k prompts may be left
    return best.masked_fill(~real, 0.0).sum(-2) / real.sum(-2)


def reduce_bank(
    bank_logits: Tensor, mask: Tensor | None = None, *, reduce: Reduce = "logsumexp", top_k: int | None = None
) -> Tensor:
    """The bank reduced to one number for each region: the term that a correction subtracts.

    Without a mask the result is the same for all expressions and costs ``K * R``. With a mask, only the expressions
    that lose a prompt are reduced separately, in chunks, so that ``E * K * R`` is never in memory at once.

    Args:
        bank_logits: ``(..., K, R)``.
        mask: ``(..., E, K)``, True where a prompt counts for an expression. An expression left without any prompt is
            not corrected: its term is 0.
        reduce: ``"mean"``, ``"topk"`` (mean of the ``top_k`` largest), ``"logsumexp"`` or ``"max"``.
        top_k: for ``"topk"`` only; all prompts where fewer are left.

    Returns:
        ``(..., 1, R)`` without a mask, else ``(..., E, R)``.

    Raises:
        ValueError: unknown ``reduce``, ``top_k`` missing or given for another ``reduce``, or no prompts.

    Example:
        >>> bank = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
        >>> reduce_bank(bank, reduce="mean")
        tensor([[2., 3.]])
        >>> reduce_bank(bank, torch.tensor([[True, False], [False, False]]), reduce="max")
        tensor([[1., 4.],
                [0., 0.]])
    """
    check_reduce(reduce, top_k)
    if bank_logits.shape[-2] == 0:
        raise ValueError("Expected argument `bank_logits` to hold at least one auxiliary prompt, but got 0.")
    bank, k = as_float(bank_logits), top_k or 0
    shared = _reduce(bank, None, reduce, k).unsqueeze(-2)
    if mask is None:
        return shared
    scenes = bank.unsqueeze(0).flatten(0, -3)
    return per_expression(
        shared, mask, lambda scene, rows: _reduce(scenes[scene], rows, reduce, k), bank.shape[-2] * bank.shape[-1]
    )


def per_expression(shared: Tensor, mask: Tensor, alone: Callable[[Tensor, Tensor], Tensor], elements: int) -> Tensor:
    """A term of a bank for each expression: shared where all prompts count, computed alone where some do not.

    Most expressions lose no prompt and share one term; only the others are computed separately, in chunks.

    Args:
        shared: ``(..., 1, R)``, the term of the whole bank.
        mask: ``(..., E, K)``, True where a prompt counts for an expression.
        alone: from n indices of scenes (of the leading dimensions, flat) and their masks ``(n, K)`` to ``(n, R)``.
        elements: numbers that one expression's temporary holds.

    Returns:
        ``(..., E, R)``; 0 for an expression that is left without any prompt.
    """
    rows = mask.flatten(0, -2)
    remaining = rows.any(-1)
    partial = (remaining & ~rows.all(-1)).nonzero().squeeze(-1)
    shape = (*mask.shape[:-1], shared.shape[-1])
    found = shared.expand(shape).flatten(0, -2)
    if partial.numel():
        parts = [
            alone(part // mask.shape[-2], rows[part])
            for part in torch.split(partial, max(1, _CHUNK // max(1, elements)))
        ]
        found = found.index_copy(0, partial, torch.cat(parts))
    return found.masked_fill(~remaining.unsqueeze(-1), 0.0).reshape(shape)


def bank_term(
    query_logits: Tensor,
    bank_logits: Tensor,
    mask: Tensor | None = None,
    *,
    reduce: Reduce = "logsumexp",
    top_k: int | None = None,
) -> Tensor:
    """As :func:`reduce_bank`, for expressions that share the bank ``(..., K, R)`` or have their own ``(..., E, K, R)``.

    Example:
        >>> query, own = torch.zeros(2, 1), torch.tensor([[[1.0], [4.0]], [[3.0], [2.0]]])
        >>> bank_term(query, own, reduce="max").tolist()
        [[4.0], [3.0]]
    """
    if bank_logits.dim() == query_logits.dim():
        return reduce_bank(bank_logits, mask, reduce=reduce, top_k=top_k)
    # Each expression is one more leading dimension, with itself as the only expression of its bank.
    alone = None if mask is None else mask.unsqueeze(-2)
    return reduce_bank(bank_logits, alone, reduce=reduce, top_k=top_k).squeeze(-2)


def check_reduce(reduce: object, top_k: int | None) -> None:
    """Raise a ``ValueError`` for an unknown reduction, or a ``top_k`` that is missing, unused or not positive."""
    one_of("reduce", reduce, Reduce)
    if (reduce == "topk") != (top_k is not None):
        raise ValueError(f"Expected argument `top_k` to be given with `reduce='topk'` only, but got {top_k}.")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ValueError(f"Expected argument `top_k` to be a whole number, at least 1, but got {top_k!r}.")


def balanced_logits(query_logits: Tensor, bank_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """What BSAP ranks by: z_r = tau s_rt - logsumexp_k(tau s_r,a_k).

    BSAP's probability, the softmax over the query and the bank of one region, is ``sigmoid(z)``; z orders regions as
    it does and does not saturate.

    Args:
        query_logits: ``(..., E, R)``.
        bank_logits: ``(..., K, R)``, or ``(..., E, K, R)``.
        mask: ``(..., E, K)``, see :func:`reduce_bank`.

    Returns:
        ``(..., E, R)``.

    Example:
        >>> balanced_logits(torch.tensor([[2.0, 5.0]]), torch.tensor([[1.0, 5.0]]))
        tensor([[1., 0.]])
    """
    return as_float(query_logits) - bank_term(query_logits, bank_logits, mask)


def log_softmax_regions(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Log of the distribution over real regions; 0 where a region is padding, so that no NaN can follow from it.

    Args:
        logits: ``(..., E, R)``.
        valid: ``(..., R)``, True where a region is real.

    Returns:
        ``(..., E, R)``.
    """
    if logits.shape[-1] == 0:
        return logits
    if valid is None:
        return logits.log_softmax(-1)
    padding = ~valid.unsqueeze(-2)
    # A finite filler: rows without any real region stay finite, forward and backward.
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(padding, lowest).log_softmax(-1).masked_fill(padding, 0.0)


def hybrid_logits(
    balanced: Tensor,
    clip: Tensor,
    *,
    lam: float | Tensor = 0.5,
    combine: Combine = "sum",
    valid: Tensor | None = None,
) -> Tensor:
    """What BSAP-H ranks by: the log of its mixture, up to a constant over regions.

    ``"sum"`` is log(lam p_r / sum p + (1 - lam) q_r) + log(sum p): left unnormalised, the order stays z's at lam = 1
    where p saturates. ``"product"`` is lam log p_r + (1 - lam) log q_r. The softmax over regions of either is the
    hybrid's distribution.

    Args:
        balanced: ``(..., E, R)``, z; log p is -softplus(-z).
        clip: ``(..., E, R)``, tau_clip s; q is its softmax over regions.
        lam: weight of BSAP, 0 to 1; a scalar tensor may be learned, and has finite gradients at both ends.
        combine: ``"sum"`` or ``"product"``.
        valid: ``(..., R)``, True where a region is real.

    Returns:
        ``(..., E, R)``, arbitrary but finite where a region is padding.

    Example:
        >>> z, clip = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3.0)]])
        >>> hybrid_logits(z, clip).softmax(-1)  # half of (1/2, 1/2) and half of (1/4, 3/4)
        tensor([[0.3750, 0.6250]])
    """
    one_of("combine", combine, Combine)
    log_p, log_q = logsigmoid(balanced), log_softmax_regions(clip, valid)
    if valid is not None:
        log_p = log_p.masked_fill(~valid.unsqueeze(-2), 0.0)
    if combine == "product":
        return lam * log_p + (1 - lam) * log_q
    real = log_p if valid is None else log_p.masked_fill(~valid.unsqueeze(-2), torch.finfo(log_p.dtype).min)
    log_q = log_q + real.logsumexp(-1, keepdim=True)
    weight = torch.as_tensor(lam, dtype=log_p.dtype, device=log_p.device)
    # logaddexp(log lam + log p, log(1 - lam) + log q) has NaN gradients at lam 0 and 1. Shifting by its larger term and
    # keeping the weights outside the logarithm has none; the cap only ever meets a weight of 0.
    with torch.no_grad():
        inside = weight.clamp(0.0, 1.0)
        shift = torch.maximum(inside.log() + log_p, (1 - inside).log() + log_q)
    cap = math.log(torch.finfo(log_p.dtype).max) - 1.0
    first, second = ((term - shift).clamp(max=cap).exp() for term in (log_p, log_q))
    return shift + (weight * first + (1 - weight) * second).log()
