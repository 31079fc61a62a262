"""Keeps the processes of a run together: none continues alone, and none waits for one that has ended.

Shares of scenes differ in length, so processes see nothing of each other until the end. A process that has done its
share, was asked to stop, or failed goes to a rendezvous. There the processes exchange their states, and all act on the
worst one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from bsap.errors import BSAPError, ConfigError
from bsap.runs.signals import STOPPED, StopSignals, say

T = TypeVar("T")

_PAUSE = 0.05  # seconds between two looks at what the others do
_LOST = (
    "Another process of this run has ended or does not answer (noticed by rank {rank} on {host}). If it left a message "
    "of its own, read that first. Finished scenes are kept: run the same command again to continue."
)


class State(IntEnum):
    """The state in which a process comes to the rendezvous; all processes act on the greatest one."""

    DONE = 0
    STOPPED = 1
    FAILED = 2


class Rendezvous:
    """A barrier at which all processes of a run learn whether to finish, to stop or to fail.

    A process that waits still receives signals, because it waits in Python and not inside a collective. The processes
    use a group of their own for it: a rank that dies closes its connection, which ends the waiting of the others at
    once.

    The file ``note``, in a folder that all processes see, asks them to come early. ``children`` are the processes that
    this one started, from :func:`detach_children`. Within ``timeout`` a process that is alive must come.

    Attributes:
        open: whether the others will come: from the first batch on, until this process has been there.
    """

    def __init__(self, note: Path, signals: StopSignals, children: Sequence[Any], *, timeout: timedelta) -> None:
        self.note, self.signals, self.children = note, signals, children
        self.open = False
        self._group: Any = None
        self._parent = os.getppid()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timeout)

    def requested(self) -> bool:
        """Whether this process must come now, before its share is done: it or another one received a signal."""
        return self.signals.received is not None or (self._group is not None and self.note.exists())

    def request(self, reason: str) -> None:
        """Ask all other processes to come after their batch."""
        try:
            self.note.write_text(reason, encoding="utf-8")
        except OSError as error:
            # On a full disk the others come at the end of their share instead.
            say(f"cannot write {self.note}: {error}")

    def check_parent_and_children(self, trainer: Trainer) -> None:
        """Make sure that a process started by the first one does not outlive it, and that the first needs no dead one.

        Raises:
            BSAPError: if the process that started this one has ended, or one that this one started.
        """
        if trainer.local_rank > 0 and os.getppid() != self._parent:
            self.open = False
            raise BSAPError("The process that started this one has ended. Run the same command again to continue.")
        for number, child in enumerate(self.children, start=1):
            # A child that was asked to stop ends with the status of a stopped run, and has asked the others before.
            if child.poll() not in (None, 0, STOPPED) and not self.requested():
                raise BSAPError(
                    f"Process {number} of this run ended with status {child.returncode} (-9 means killed, often for "
                    "lack of memory). Finished scenes are kept: run the same command again to continue."
                )

    def wait_for_children(self) -> None:
        """Let the processes that this one started end before it."""
        for child in self.children:
            with contextlib.suppress(Exception):
                child.wait(timeout=10)

    def wait(self, state: State, reason: str = "") -> State:
        """Wait for all other processes, and return the greatest of all states.

        The others print the reason for a state that is not ``DONE``.

        Raises:
            BSAPError: if a process has ended, or does not come within the timeout.
        """
        self.open = False
        if self._group is None:
            return state
        if state is not State.DONE:
            self.request(reason)
        worst = torch.tensor(int(state))
        work = dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        asked = state is not State.DONE
        while not work.is_completed():
            if self.signals.received is not None and not asked:
                asked = True
                self.request(self.signals.received)
            time.sleep(_PAUSE)
        try:
            work.wait()
        except RuntimeError as error:
            raise BSAPError(_LOST.format(rank=dist.get_rank(), host=socket.gethostname())) from error
        return State(int(worst))

    def reason(self) -> str:
        """Why a process asked the others to come."""
        try:
            return self.note.read_text(encoding="utf-8")
        except OSError:
            return self.signals.received or "unknown reason"


def on_all_ranks(trainer: Trainer, work: Callable[[], T]) -> T:
    """Run ``work`` on all processes; if it fails on one, all end, and only those speak on which it failed.

    Raises:
        Exception: what ``work`` raised, on the processes where it did.
        SystemExit: on all others.
    """
    failure: Exception | None = None
    try:
        found = work()
    except Exception as caught:
        failure = caught
    if not trainer.strategy.reduce_boolean_decision(failure is None, all=True):
        detach_children(trainer)
        raise SystemExit(2) if failure is None else failure
    return found


def on_rank_zero(trainer: Trainer, work: Callable[[], object]) -> None:
    """Run ``work`` on the first process while the others wait; see :func:`on_all_ranks`."""
    on_all_ranks(trainer, lambda: work() if trainer.is_global_zero else None)


def local_rank_zero_first(trainer: Trainer | None, work: Callable[[], T]) -> T:
    """Run ``work`` on all processes, on each node first in one of them, so that only that one downloads.

    Where the first process of a node fails, its others end without a message; see :func:`on_all_ranks`.
    """
    if trainer is None:
        return work()
    early = on_all_ranks(trainer, lambda: work() if trainer.local_rank == 0 else None)
    late = on_all_ranks(trainer, lambda: work() if trainer.local_rank > 0 else None)
    return cast(T, early if trainer.local_rank == 0 else late)


def check_cluster(trainer: Trainer) -> None:
    """Compare what SLURM started with the Trainer's settings.

    Raises:
        ConfigError: if they differ: processes would wait for others that do not exist.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    try:
        if environment is not None:
            environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
    except ValueError as error:
        raise ConfigError(
            f"The job and the Trainer disagree: {error} Set `--trainer.devices` to SLURM's --ntasks-per-node and "
            "`--trainer.num_nodes` to its --nodes."
        ) from error


def detach_children(trainer: Trainer) -> list[Any]:
    """The processes that the trainer started, which Lightning's launcher watches no longer.

    The launcher kills this process without a message when one of them ends with a status other than 0.
    """
    watched = getattr(trainer.strategy.launcher, "procs", None) or []
    children = list(watched)
    watched.clear()  # the very list that the launcher's observer looks at
    return children


@contextlib.contextmanager
def distributed_errors() -> Iterator[None]:
    """Turn the communication library's error about a lost process into a clear one.

    Raises:
        BSAPError: if another process has ended in the middle of something that needs all of them.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and not any(word in text for word in ("gloo", "by peer", "NCCL")):
            raise
        raise BSAPError(_LOST.format(rank=os.environ.get("RANK", "0"), host=socket.gethostname())) from error
