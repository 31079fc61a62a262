"""Shares scenes among processes: each scene goes to exactly one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch.utils.data import DistributedSampler


def balanced_shards(weights: Sequence[int], shards: int) -> list[list[int]]:
    """Divide items into shards of similar weight: the heaviest item first, each to the lightest shard so far.

    Returns:
        Ascending indices of each share. Shares may be empty. The same input always gives the same shares. The heaviest
        is at most 4/3 of the best possible (Graham, "Bounds on multiprocessing timing anomalies", 1969).

    Example:
        >>> balanced_shards([5, 4, 3, 3, 3], 2)
        [[0, 3], [1, 2, 4]]
    """
    shares: list[list[int]] = [[] for _ in range(shards)]
    loads = [0] * shards
    for index in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        # Among equal loads take the shortest shard, so that scenes without proposals are spread as well
        lightest = min(range(shards), key=lambda s: (loads[s], len(shares[s]), s))
        shares[lightest].append(index)
        loads[lightest] += weights[index]
    return [sorted(share) for share in shares]


class SceneSampler(DistributedSampler[Any]):
    """The scenes of one process, in annotation order, balanced by their number of regions.

    torch's own sampler repeats items until all shards have the same length, which changes a metric. Lightning inserts
    it unless the loader's sampler is already a :class:`~torch.utils.data.DistributedSampler`. This class is one, and
    neither repeats nor drops items. Shards may differ in length and may be empty, so use it for evaluation only.

    Args:
        counts: R of each scene.
        num_replicas: number of processes; None asks ``torch.distributed``, and is 1 where that is not initialised.
        rank: this process; None asks ``torch.distributed``, and is 0 where that is not initialised.

    Attributes:
        imbalance: the heaviest process's regions over the mean, 1.0 being perfect.

    Example:
        >>> [list(SceneSampler([4, 1, 3, 2], num_replicas=2, rank=rank)) for rank in range(2)]
        [[0, 1], [2, 3]]
    """

    def __init__(self, counts: Sequence[int], *, num_replicas: int | None = None, rank: int | None = None) -> None:
        running = dist.is_available() and dist.is_initialized()
        replicas = num_replicas if num_replicas is not None else (dist.get_world_size() if running else 1)
        place = rank if rank is not None else (dist.get_rank() if running else 0)
        super().__init__(range(len(counts)), num_replicas=replicas, rank=place, shuffle=False, drop_last=False)  # type: ignore[arg-type]
        shards = balanced_shards(counts, replicas)
        loads = [sum(counts[i] for i in shard) for shard in shards]
        self.imbalance = max(loads) * replicas / sum(loads) if sum(loads) else 1.0
        self.indices = shards[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
