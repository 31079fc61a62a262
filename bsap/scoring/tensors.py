"""The input and output of scorers: similarities of an ensemble, and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Similarities:
    """Cosines of one scene's regions with its expressions and with the bank, for each member of an ensemble.

    "..." is empty for one scene, or ``B`` for scenes padded to the same E and R. A scene may have no regions.

    Attributes:
        query: ``(..., N, E, R)`` cosines, N members (models x views), E expressions, R regions.
        bank: ``(..., N, K, R)`` cosines, K auxiliary prompts; K may be 0 for scorers without a bank. Or
            ``(..., N, E, K, R)``, where every expression has K prompts of its own.
        tau: ``(N,)``, each member's own logit scale.
        bank_mask: ``(..., E, K)`` bool, True where the prompt counts for the expression; None: all count.
        valid: ``(..., R)`` bool, True where the region is real and False where it is padding; None: all are real.
        views: the number of views of each model, where members are ordered by model and then by view; None: all
            members are views of one model. Only the aggregate ``max`` uses it.
        region_bank: the same expressions and prompts with G regions of other pictures: ``query`` ``(..., N, E, G)``,
            ``bank`` ``(..., N, K, G)``, and ``valid``, False where a region is of the scene's own picture.
        region_pairs: ``(..., N, G, R)`` cosines of the region bank with the regions; given with ``region_bank``.

    Raises:
        ValueError: shapes that do not match, a mask that is not boolean, an empty region bank, NaN or infinite values.
    """

    query: Tensor
    bank: Tensor
    tau: Tensor
    bank_mask: Tensor | None = None
    valid: Tensor | None = None
    views: int | None = None
    region_bank: Similarities | None = None
    region_pairs: Tensor | None = None

    def __post_init__(self) -> None:
        if self.query.dim() < 3:
            raise ValueError(f"Expected argument `query` to be of shape (..., N, E, R), but got {_shape(self.query)}.")
        *lead, members, expressions, regions = self.query.shape
        prompts = self.bank.shape[-2] if self.bank.dim() >= 2 else 0
        own = (expressions,) if self.bank.dim() > self.query.dim() else ()
        _expect("bank", self.bank, (*lead, members, *own, prompts, regions))
        _expect("tau", self.tau, (members,))
        if self.views is not None and (self.views < 1 or members % self.views):
            raise ValueError(f"Expected argument `views` to divide the {members} members, but got {self.views}.")
        for name, mask, shape in (
            ("bank_mask", self.bank_mask, (*lead, expressions, prompts)),
            ("valid", self.valid, (*lead, regions)),
        ):
            if mask is not None:
                _expect(name, mask, shape)
                if mask.dtype != torch.bool:
                    raise ValueError(f"Expected argument `{name}` to be boolean, but got {mask.dtype}.")
        parts = {"query": self.query, "bank": self.bank, "tau": self.tau}
        if self.region_bank is not None:
            count = self.region_bank.query.shape[-1]
            if not count:
                raise ValueError("Expected argument `region_bank` to hold at least one region, but got 0.")
            _expect("region_bank.query", self.region_bank.query, (*lead, members, expressions, count))
            _expect("region_bank.bank", self.region_bank.bank, (*self.bank.shape[:-1], count))
            if self.region_pairs is not None:
                _expect("region_pairs", self.region_pairs, (*lead, members, count, regions))
                parts["region_pairs"] = self.region_pairs
        if not bool(
            torch.stack([x.isfinite().all() for x in parts.values()]).all()
        ):  # the host waits for the device only once
            name, x = next((name, x) for name, x in parts.items() if not bool(x.isfinite().all()))
            bad = x.numel() - int(x.isfinite().sum())
            raise ValueError(f"Expected argument `{name}` to be finite, but got {bad} NaN or infinite values.")


@dataclass(frozen=True, eq=False)
class Scores:
    """A score for each expression and region.

    Attributes:
        rank: ``(..., E, R)``, the quantity to argmax; -inf where the region is padding.
        value: ``(..., E, R)``, the value to show and write; 0 where the region is padding.
    """

    rank: Tensor
    value: Tensor

    @property
    def choice(self) -> Tensor:
        """``(..., E)`` int64, the region of highest rank, the lowest index on ties.

        0 where a scene has no region; such expressions count as wrong.
        """
        if self.rank.shape[-1] == 0:
            return torch.zeros(self.rank.shape[:-1], dtype=torch.int64, device=self.rank.device)
        return self.rank.argmax(-1)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _expect(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if _shape(x) != shape:
        raise ValueError(f"Expected argument `{name}` to be of shape {shape}, but got {_shape(x)}.")
