"""Loaders that make batches of scenes; worker processes decode the pictures."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from bsap.datamodules.batch import collate
from bsap.datamodules.picture_files import scene_picture
from bsap.datamodules.sampler import SceneSampler
from bsap.datamodules.scene import Scene


class SceneDataset(Dataset[tuple[Scene, Tensor]]):
    """Scenes with their decoded pictures: item n is (scene, uint8 (3, H, W)); (3, 0, 0) if n is in ``unopened``."""

    def __init__(self, scenes: Sequence[Scene], unopened: Collection[int] = ()) -> None:
        self.scenes, self.unopened = scenes, frozenset(unopened)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Scene, Tensor]:
        scene = self.scenes[index]
        if index in self.unopened:
            return scene, torch.empty(3, 0, 0, dtype=torch.uint8)
        return scene, scene_picture(scene)


class SceneLoader(DataLoader[Any]):
    """A loader that always gives at least one batch, which may have no scene.

    Lightning leaves out the whole test, hooks and collectives with it, on a process whose loader is empty; the others
    would wait for it for ever.
    """

    def __len__(self) -> int:
        return max(1, super().__len__())

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return super().__iter__() if super().__len__() else iter([self.collate_fn([])])


def _end_workers() -> None:
    """At exit, end the worker processes of a loop that stopped early.

    The interpreter would send them SIGTERM, which they ignore (:func:`leave_signals`), and wait for ever.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error for each of them
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


# Registered after multiprocessing's own function, so that it runs before that.
atexit.register(_end_workers)


def leave_signals(worker: int) -> None:
    """Ignore the signals that ask a job to stop: they go to all its processes, and the main process acts on them."""
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def scene_loader(
    scenes: Sequence[Scene],
    sampler: Sampler[int],
    *,
    batch_size: int,
    num_workers: int,
    unopened: Collection[int] = (),
) -> SceneLoader:
    """Batches of B scenes (:class:`~bsap.datamodules.batch.SceneBatch`) in the sampler's order."""
    return SceneLoader(
        SceneDataset(scenes, unopened),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=leave_signals,
        pin_memory=torch.cuda.is_available(),
    )


def global_seed() -> int:
    """The seed of :func:`lightning.pytorch.seed_everything`, 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED") or 0)


def training_loader(items: Any, *, batch_size: int) -> SceneLoader:
    """Lists of items, shuffled in every epoch by the global seed; all processes get equally many. Opens no picture."""
    running = dist.is_available() and dist.is_initialized()
    sampler: DistributedSampler[Any] = DistributedSampler(
        items, None if running else 1, None if running else 0, shuffle=True, seed=global_seed()
    )
    return SceneLoader(items, batch_size=batch_size, sampler=sampler, collate_fn=list)


def validation_loader(items: Any, weights: Sequence[int], *, batch_size: int) -> SceneLoader:
    """Lists of this process's exact share of the items, balanced by their weights. Opens no picture."""
    return SceneLoader(items, batch_size=batch_size, sampler=SceneSampler(weights), collate_fn=list)


def sensible_workers(batches: int, processes: int = 1) -> int:
    """How many workers decode pictures where the settings do not say: at most 8, and one less than the cores at hand.

    Few batches do not pay for starting workers. ``processes`` share this machine's cores.
    """
    if batches < 4:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, cores // max(processes, 1) - 1))
