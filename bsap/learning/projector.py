"""Ignoring the modality gap: a linear map in closed form that keeps texts and removes one direction."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bsap.datamodules.files import expanded
from bsap.errors import DataError


def gap_projector(texts: Tensor, gap: Tensor, *, mu: float = 1e3, rho: float = 1.0) -> Tensor:
    """The W that minimises sum_t |W t - t|^2 + mu |W g|^2 + rho |W - I|^2.

    Setting the gradient to zero gives W (T'T + mu g g' + rho I) = T'T + rho I, with the texts as rows of T. Since W
    maps g almost to 0, (W x) is the same for a text and for a region that differs from it by the gap. The idea of a
    projector orthogonal to the gap is TLDR's (arXiv 2311.18291).

    Args:
        texts: T, ``(N, D)``.
        gap: g, ``(D,)``: the mean region minus the mean text.
        mu: how strongly the gap is ignored; 0 gives the identity.
        rho: how close W stays to the identity in directions without texts; positive.

    Returns:
        W, ``(D, D)`` in the texts' dtype, computed in float64; apply it to rows as ``x @ W.T``.

    Raises:
        ValueError: negative mu, or rho that is not positive.

    Example:
        >>> W = gap_projector(torch.eye(3)[:2], torch.tensor([0.0, 0.0, 1.0]), mu=1e6)
        >>> W.round(decimals=3).abs()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]])
    """
    if mu < 0 or rho <= 0:
        raise ValueError(f"Expected arguments `mu` >= 0 and `rho` > 0, but got {mu} and {rho}.")
    t, g = texts.double(), gap.double()
    keep = t.T @ t + rho * torch.eye(t.shape[1], dtype=t.dtype, device=t.device)
    # Both matrices are symmetric: W = keep (keep + mu g g')^-1 is the transpose of (keep + mu g g')^-1 keep.
    transposed: Tensor = torch.linalg.solve(keep + mu * torch.outer(g, g), keep)
    return transposed.T.to(texts.dtype)


def read_gap(path: Path, dim: int) -> Tensor:
    """The tensor ``gap`` (D,) of a ``.safetensors`` file.

    Raises:
        DataError: if there is no such tensor.
    """
    try:
        gap = load_file(expanded(path)).get("gap")
    except (OSError, SafetensorError) as error:
        raise DataError(f"The modality gap {path} cannot be read: {error}.") from error
    if gap is None or tuple(gap.shape) != (dim,):
        got = "no such tensor" if gap is None else tuple(gap.shape)
        raise DataError(f"The modality gap {path}: expected a tensor `gap` of shape ({dim},), but got {got}.")
    return gap.float()
