"""Balanced scores of embeddings or cosines, whichever model made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bsap.errors import ConfigError, check_number
from bsap.features.transforms import Fitted, Transform, make_transform
from bsap.scoring import Similarities, make_scorer
from bsap.scoring.registry import ScorerSpec

_ROUNDING = 1e-3  # of cosines computed in half precision


@dataclass(frozen=True, eq=False)
class Balanced:
    """What :func:`balance` returns, in the library (torch or NumPy) and on the device of its input.

    Attributes:
        scores: ``(..., E, R)``, to be ranked.
        choice: ``(..., E)``, the index of the best region; the lowest on ties.
        probability: ``(..., E, R)``, in 0..1: for BSAP over texts, region by region; for most others over regions.
    """

    scores: Any
    choice: Any
    probability: Any

    def __repr__(self) -> str:
        choice = np.asarray(self.choice.detach().cpu() if isinstance(self.choice, Tensor) else self.choice)
        return f"Balanced(scores of shape {tuple(self.scores.shape)}, choice={choice.tolist()})"


def balance(
    query: Any,
    bank: Any,
    *,
    regions: Any = None,
    tau: float,
    scorer: ScorerSpec = "bsap",
    region_bank: Any = None,
    transform: str | Mapping[str, Any] | Transform | Fitted | None = None,
) -> Balanced:
    """Choose regions for sentences from embeddings, or from cosines, of any model.

    Args:
        query: with ``regions``, ``(..., E, D)`` embeddings of E sentences; without, ``(..., E, R)`` cosines of E
            sentences with R regions. A torch tensor or a NumPy array.
        bank: the same for K auxiliary prompts: ``(..., K, D)`` or ``(..., K, R)``. It may lack the leading dimensions
            of ``query`` and then serves all. With one dimension more than ``query``, ``(..., E, K, D)`` or
            ``(..., E, K, R)``, each sentence has prompts of its own.
        regions: ``(..., R, D)`` embeddings of R regions. Embeddings are normalised here.
        tau: the model's logit scale, for example 100 for OpenAI's CLIP: a number, or an array or tensor of one.
        scorer: as in ``bsap list scorers``, or a scorer.
        region_bank: ``(G, D)`` embeddings of regions of other pictures, for scorers and transforms that need them; only
            with ``regions``.
        transform: as in ``bsap list transforms``, a transform, or one that is fitted already; only with ``regions``.

    Returns:
        Scores, choices and probabilities. Gradients flow through the scores of torch tensors.

    Raises:
        ConfigError: an unknown scorer or transform, a ``tau`` that is not positive, or a transform or a region bank
            where only similarities were given.
        ValueError: an argument of another type or shape, or values that are no cosines.

    Example:
        >>> import numpy as np
        >>> cosines = np.array([[0.30, 0.28]])  # one sentence, two regions
        >>> prompts = np.array([[0.29, 0.10], [0.28, 0.12]])  # two auxiliary prompts: they like the first region too
        >>> balance(cosines, prompts, tau=100.0).choice
        array([1])
    """
    tau = _plain(tau)
    check_number("tau", tau, above=True)
    made = make_scorer(scorer)
    for name, value in (("transform", transform), ("region_bank", region_bank)):
        if regions is None and value is not None:
            raise ConfigError(
                f"`{name}` works on features, but similarities were given: pass embeddings and `regions`."
            )
    given = {"query": query, "bank": bank, **({} if regions is None else {"regions": regions})}
    found = {name: _tensor(name, value) for name, value in given.items()}
    width, what = found["query"].shape[-1], "R" if regions is None else "D"
    own = found["bank"].ndim > found["query"].ndim
    for name, rows in found.items():
        lead = found["query"].shape[: -1 if own and name == "bank" else -2]
        fits = rows.shape[-1] == width and (rows.shape[:-2] == lead or (name != "query" and rows.ndim == 2))
        if not fits:
            letter = {"query": "E", "bank": "K", "regions": "R"}[name]
            wanted = ", ".join(map(str, [*lead, letter, width]))
            raise ValueError(
                f"Expected argument `{name}` to be of shape ({wanted}), because `query` has {what} = {width}, but got "
                f"{tuple(rows.shape)}."
            )
    if not (found["query"] if regions is None else found["regions"]).shape[-1 if regions is None else -2]:
        raise ValueError("Expected at least one region to choose from, but got none.")
    device = found["query"].device
    dtype = torch.float64 if any(rows.dtype == torch.float64 for rows in found.values()) else torch.float32
    found = {name: rows.to(dtype) for name, rows in found.items()}
    q, b = found["query"], found["bank"].to(device)
    b = b if own else b.expand(*q.shape[:-2], *b.shape[-2:])
    scale = torch.tensor([float(tau)], device=device)
    beyond: dict[str, Any] = {}
    if regions is not None:
        x, q, b = (F.normalize(rows, dim=-1) for rows in (found["regions"].to(device), q, b))
        x = x.expand(*q.shape[:-2], *x.shape[-2:])
        others = None
        if region_bank is not None:
            others = F.normalize(_region_bank(region_bank, width).to(q), dim=-1)
            beyond["region_pairs"] = (others @ x.mT).unsqueeze(-3)
        fitted: Fitted | None = None
        if isinstance(transform, Fitted):
            fitted = transform
        elif transform is not None:
            prompts = F.normalize(found["bank"].to(device), dim=-1).flatten(0, -2)
            fitted = make_transform(transform).fit(prompts, others)

        def compare(texts: Tensor, them: Tensor) -> Tensor:
            them, texts = (them, texts) if fitted is None else fitted.apply(them, texts)
            return texts @ them.mT

        if others is not None:
            far_query, far_bank = compare(q, others), compare(b, others)
            beyond["region_bank"] = Similarities(far_query.unsqueeze(-3), far_bank.unsqueeze(q.ndim - 2), scale)
        q, b = compare(q, x), compare(b, x.unsqueeze(-3) if own else x)
    for name, values in (("query", q), ("bank", b)):
        if transform is None and values.numel() and float(values.detach().abs().max()) > 1 + _ROUNDING:
            low, high = float(values.detach().min()), float(values.detach().max())
            raise ValueError(
                f"Expected argument `{name}` to hold cosines in [-1, 1], but got values from {low:.4g} to {high:.4g}. "
                "Divide logits by the logit scale, or pass embeddings and `regions`."
            )
    similarities = Similarities(q.unsqueeze(-3), b.unsqueeze(q.ndim - 2), scale, **beyond)
    scores = made(similarities)
    parts = (scores.rank, scores.choice, scores.value)
    if not isinstance(query, Tensor):
        return Balanced(*(part.numpy() for part in parts))
    return Balanced(*parts)


def _region_bank(value: Any, width: int) -> Tensor:
    rows = _tensor("region_bank", value)
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise ValueError(
            f"Expected argument `region_bank` to be of shape (G, {width}) with at least one region, but got "
            f"{tuple(rows.shape)}."
        )
    return rows


def _plain(value: Any) -> Any:
    """A number from an array or a tensor of one."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value


def _tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, (Tensor, np.ndarray)):
        raise ValueError(
            f"Expected argument `{name}` to be a torch tensor or a NumPy array, but got {type(value).__name__}."
        )
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"Expected argument `{name}` to hold numbers, but got {value.dtype}.")
    if tensor.ndim < 2:
        raise ValueError(
            f"Expected argument `{name}` to have at least two dimensions, but got shape {tuple(tensor.shape)}. "
            f"Write `{name}[None]` for a single row."
        )
    return tensor if tensor.dtype == torch.float64 else tensor.float()
