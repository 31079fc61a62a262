"""Where the processes of a run come together: none goes on alone, none waits for one that is gone.

Shares of scenes differ in length, so processes see nothing of each other until the end. Whoever has done its share, was
asked to stop, or failed goes to the meeting. There they learn what the worst of them brought, and all do the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from bsap.errors import BSAPError
from bsap.runs.signals import STOPPED, StopSignals

T = TypeVar("T")

_PAUSE = 0.05  # seconds between two looks at what the others do
_GONE = (
    "Another process of this run is gone or does not answer (seen by rank {rank} on {host}; its own message stands "
    "above, if it left one). Finished scenes are kept: run the same command again to continue."
)


class Outcome(IntEnum):
    """How a process comes to the meeting; the greatest of all is what happens."""

    DONE = 0
    STOPPED = 1
    FAILED = 2


class Meeting:
    """One meeting of all processes.

    A process that waits still hears signals, because it waits in Python and not inside a collective. The processes have
    a group of their own for it: a rank that dies closes its connection, which ends the waiting of the others at once.

    Args:
        note: a file that calls the others in early, in a folder that all processes see.
        signals: what this process was told.
        children: the processes that this one started, from :func:`take_children`.
        timeout: how long a process waits for one that is alive but does not come.

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

    def called(self) -> bool:
        """Whether this process must come now, unfinished: it was told to, or somebody called."""
        return self.signals.received is not None or (self._group is not None and self.note.exists())

    def call(self, text: str) -> None:
        """Ask all others to come after their batch."""
        try:
            self.note.write_text(text, encoding="utf-8")
        except OSError as error:
            # On a full disk the others come at the end of their share instead.
            print(f"bsap: cannot write {self.note}: {error}", file=sys.stderr)

    def check_family(self, trainer: Trainer) -> None:
        """A process that the first one started must not outlive it, nor the first one go on without it.

        Raises:
            BSAPError: if the process that started this one is gone, or one that this one started.
        """
        if trainer.local_rank > 0 and os.getppid() != self._parent:
            self.open = False
            raise BSAPError("The process that started this one is gone. Run the same command again to continue.")
        for number, child in enumerate(self.children, start=1):
            # A child that was told to stop ends with its own status, and has called the others before.
            if child.poll() not in (None, 0, STOPPED) and not self.called():
                raise BSAPError(
                    f"Process {number} of this run ended with status {child.returncode} (-9: killed, often for want of "
                    "memory). Finished scenes are kept: run the same command again to continue."
                )

    def wait_for_children(self, timeout: float = 10.0) -> None:
        """Let the processes that this one started end before it."""
        for child in self.children:
            with contextlib.suppress(Exception):
                child.wait(timeout=timeout)

    def meet(self, outcome: Outcome, text: str = "") -> Outcome:
        """Wait for all others.

        Args:
            outcome: what this process brings.
            text: what the others are told if it is not ``DONE``.

        Returns:
            The greatest outcome.

        Raises:
            BSAPError: if a process is gone, or does not come within the timeout.
        """
        self.open = False
        if self._group is None:
            return outcome
        if outcome is not Outcome.DONE:
            self.call(text)
        worst = torch.tensor(int(outcome))
        work = dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        told = outcome is not Outcome.DONE
        while not work.is_completed():
            if self.signals.received is not None and not told:
                told = True
                self.call(self.signals.received)
            time.sleep(_PAUSE)
        try:
            work.wait()
        except RuntimeError as error:
            raise BSAPError(_GONE.format(rank=dist.get_rank(), host=socket.gethostname())) from error
        return Outcome(int(worst))

    def reason(self) -> str:
        """Why the meeting was called."""
        try:
            return self.note.read_text(encoding="utf-8")
        except OSError:
            return self.signals.received or "unknown reason"


def on_first_rank(trainer: Trainer, work: Callable[[], object]) -> None:
    """Run ``work`` on the first process while the others wait; if it fails there, all end, and only the first speaks.

    Raises:
        Exception: on the first process, what ``work`` raised.
        SystemExit: on all others.
    """
    failure: Exception | None = None
    if trainer.is_global_zero:
        try:
            work()
        except Exception as caught:
            failure = caught
    failed = trainer.strategy.broadcast(failure is not None, src=0)
    if failure is not None:
        take_children(trainer)
        raise failure
    if failed:
        raise SystemExit(2)


def all_or_none(trainer: Trainer, failure: BSAPError | None) -> None:
    """A check that every process makes for itself: if one fails, all end, and the failed ones speak.

    Raises:
        BSAPError: on the processes whose check failed.
        SystemExit: on all others.
    """
    fine = trainer.strategy.reduce_boolean_decision(failure is None, all=True)
    if fine:
        return
    take_children(trainer)
    if failure is not None:
        raise failure
    raise SystemExit(2)


def one_of_each_node_first(trainer: Trainer | None, work: Callable[[], T]) -> T:
    """Run ``work`` on all processes, on each node first in one of them, so that only that one downloads.

    Raises:
        BSAPError: what ``work`` raised; where the first process of a node failed, its others end without a word.
        SystemExit: on processes that end because another one failed.
    """
    if trainer is None:
        return work()
    found: list[T] = []
    for first in (True, False):
        failure: BSAPError | None = None
        if (trainer.local_rank == 0) is first:
            try:
                found.append(work())
            except BSAPError as error:
                failure = error
        all_or_none(trainer, failure)
    return found[0]


def take_children(trainer: Trainer) -> list[Any]:
    """The processes that the trainer started, out of the hands of Lightning's launcher.

    The launcher watches them, and kills this process without a word when one of them ends with a status other than 0.
    """
    watched = getattr(trainer.strategy.launcher, "procs", None) or []
    children = list(watched)
    watched.clear()  # the very list that the launcher's observer looks at
    return children


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What a process says when another one is gone in the middle of something that needs them all.

    Raises:
        BSAPError: in the place of the communication library's error.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and not any(word in text for word in ("gloo", "by peer", "NCCL")):
            raise
        raise BSAPError(_GONE.format(rank=os.environ.get("RANK", "0"), host=socket.gethostname())) from error
