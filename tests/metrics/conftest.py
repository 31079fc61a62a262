from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

Batch = tuple[Tensor, ...]
Job = tuple[Sequence[Metric], Sequence[Sequence[Batch]]]
Result = tuple[Any, int]


@pytest.fixture
def on_processes(tmp_path: Path) -> Callable[[Sequence[Job]], list[list[Result]]]:
    """Run jobs (a metric and a list of batches for each rank) on as many real processes as the first job has metrics.

    Returns for each rank and job what compute gave, or the text of its ValueError, and the samples in its own state.
    """

    def run(jobs: Sequence[Job]) -> list[list[Result]]:
        world = len(jobs[0][0])
        (tmp_path / "jobs.pickle").write_bytes(pickle.dumps(jobs))
        script = Path(__file__).with_name("worker.py")
        command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(world)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                _, complaint = process.communicate(timeout=120)
            finally:
                with contextlib.suppress(ProcessLookupError):  # all have ended
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, complaint
        return [pickle.loads((tmp_path / f"results{rank}.pickle").read_bytes()) for rank in range(world)]

    return run


def _rec_batch(generator: torch.Generator, size: int) -> Batch:
    iou = torch.randint(0, 21, (size,), generator=generator).double() / 20  # often exactly on a threshold
    return iou, torch.rand(size, generator=generator) < 0.1


def _ris_batch(generator: torch.Generator, size: int) -> Batch:
    union = torch.randint(1, 300_000, (size,), generator=generator)
    missing = torch.rand(size, generator=generator) < 0.1
    intersection = (torch.rand(size, generator=generator) * (union + 1)).long().minimum(union)
    return intersection.masked_fill(missing, 0), union, missing


def _rec_set_batch(generator: torch.Generator, size: int) -> Batch:
    answered, targets = (torch.randint(0, 4, (size,), generator=generator) for _ in range(2))
    return (torch.rand(size, generator=generator) * (torch.minimum(answered, targets) + 1)).long(), answered, targets


def _ris_set_batch(generator: torch.Generator, size: int) -> Batch:
    intersection, union, _ = _ris_batch(generator, size)
    answered, targets = (torch.randint(0, 4, (size,), generator=generator) for _ in range(2))
    none, nothing = targets == 0, answered == 0
    return intersection.masked_fill(none | nothing, 0), union.masked_fill(none & nothing, 0), answered, targets


DRAW = {"rec": _rec_batch, "ris": _ris_batch, "rec_sets": _rec_set_batch, "ris_sets": _ris_set_batch}


@pytest.fixture
def batches() -> Callable[[str, Sequence[int]], list[Batch]]:
    """Random batches of given sizes, for a key of `DRAW`."""

    def draw(task: str, sizes: Sequence[int]) -> list[Batch]:
        generator = torch.Generator().manual_seed(5)
        return [DRAW[task](generator, size) for size in sizes]

    return draw
