"""Balanced scores of embeddings or cosines, whichever model made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bsap.errors import check_number
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


def balance(query: Any, bank: Any, *, regions: Any = None, tau: float, scorer: ScorerSpec = "bsap") -> Balanced:
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

    Returns:
        Scores, choices and probabilities. Gradients flow through the scores of torch tensors.

    Raises:
        ConfigError: an unknown scorer, or a ``tau`` that is not positive.
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
    found = {"query": _tensor("query", query), "bank": _tensor("bank", bank)}
    if regions is not None:
        found["regions"] = _tensor("regions", regions)
        width, what = found["query"].shape[-1], "D"
    else:
        width, what = found["query"].shape[-1], "R"
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
    device, dtype = found["query"].device, torch.float32
    if any(rows.dtype == torch.float64 for rows in found.values()):
        dtype = torch.float64
    found = {name: rows.to(dtype) for name, rows in found.items()}
    q, b = found["query"], found["bank"].to(device)
    b = b if own else b.expand(*q.shape[:-2], *b.shape[-2:])
    if regions is not None:
        towards = F.normalize(found["regions"].to(device), dim=-1).mT
        q = F.normalize(q, dim=-1) @ towards
        b = F.normalize(b, dim=-1) @ (towards.unsqueeze(-3) if own else towards)
    for name, values in (("query", q), ("bank", b)):
        if values.numel() and float(values.detach().abs().max()) > 1 + _ROUNDING:
            low, high = float(values.detach().min()), float(values.detach().max())
            raise ValueError(
                f"Expected argument `{name}` to hold cosines in [-1, 1], but got values from {low:.4g} to {high:.4g}. "
                "Divide logits by the logit scale, or pass embeddings and `regions`."
            )
    similarities = Similarities(
        query=q.unsqueeze(-3), bank=b.unsqueeze(q.ndim - 2), tau=torch.tensor([float(tau)], device=device)
    )
    scores = made(similarities)
    parts = (scores.rank, scores.choice, scores.value)
    if not isinstance(query, Tensor):
        return Balanced(*(part.numpy() for part in parts))
    return Balanced(*parts)


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
