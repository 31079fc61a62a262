"""Encoding texts together: each distinct text of all processes is encoded in one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def encode_together(
    texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], dim: int, device: torch.device, cut: set[str]
) -> Tensor:
    """The features of a process's texts, of which each process encodes a share; to be called by all processes.

    Args:
        texts: N distinct texts; other processes may have other ones.
        encode: gives the (M, D) float32 features of M texts.
        dim: D.
        device: where features are made.
        cut: the texts that lost their end in a model; takes those that other processes encoded.

    Returns:
        (N, D) float32.

    Raises:
        SystemExit: on processes that encoded their share, if another one could not.
        Exception: what ``encode`` raised, after the others were told.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return encode(texts) if texts else torch.zeros(0, dim, device=device)
    rank, world = dist.get_rank(), dist.get_world_size()
    # By length, so that shares take equally long.
    every = sorted({text for some in _from_all(list(texts)) for text in some}, key=lambda text: (len(text), text))
    if not every:
        return torch.zeros(0, dim, device=device)
    longest = -(-len(every) // world)
    share, failure = torch.zeros(longest, dim, device=device), None
    try:
        mine = every[rank::world]
        share[: len(mine)] = encode(mine)
    except Exception as error:
        failure = error
    states = _from_all((failure is None, cut.intersection(every)))
    if failure is not None:
        raise failure
    if not all(good for good, _ in states):
        raise SystemExit(2)
    own = set(texts)
    cut.update(text for _, some in states for text in some if text in own)
    shares = [torch.empty_like(share) for _ in range(world)]
    dist.all_gather(shares, share)
    place = {text: index for index, text in enumerate(every)}
    rows = torch.tensor([place[text] for text in texts], dtype=torch.long, device=device)
    return torch.stack(shares, dim=1).flatten(0, 1)[rows]


def _from_all(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
