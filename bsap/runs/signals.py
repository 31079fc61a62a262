"""Signals that ask a run to stop: before the first batch it stops at once, later when its batch is on disk."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPED = 75
"""Exit status of a run that was asked to stop and can be continued (``EX_TEMPFAIL`` of sysexits.h: try again)."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What a cluster sends before it kills: SLURM's time limit, preemption and requeueing."""


class Stopped(SystemExit):
    """A run that was stopped and can be continued; the process exits with status 75."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


def say(text: str) -> None:
    """Print a message of this process at once."""
    print(f"bsap: {text}", file=sys.stderr, flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    say(f"stopped by {signal.Signals(number).name} before the first picture.")
    raise Stopped


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set the handler of all signals, and return the earlier ones; only the main thread can, others catch nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """Raise :class:`Stopped` on a signal as long as nothing can be lost, for example while annotations are read.

    A run handles the signals itself (:class:`StopSignals`) as long as it lasts.
    """
    before = _handle(_leave)
    try:
        yield
    finally:
        _restore(before)


class StopSignals:
    """Notes that SIGTERM or SIGUSR1 arrived, instead of ending the process.

    Example:
        >>> import os
        >>> signals = StopSignals()
        >>> signals.catch()
        >>> os.kill(os.getpid(), signal.SIGTERM)
        >>> signals.received
        'SIGTERM'
        >>> signals.release()
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def catch(self) -> None:
        """Handle the signals from now on, also where other code has set handlers since the last call."""
        self._before = _handle(self._note) | self._before

    def release(self) -> None:
        """Set the earlier handlers again."""
        _restore(self._before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if hasattr(signal, "SIGCHLD") and signal.SIGCHLD not in self._before:
            # A signal to the whole job also ends the processes that decode pictures. torch would then raise an error in
            # the middle of the current batch, although the batch no longer needs them.
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
            # Not SIG_IGN, which would discard the exit status of child processes.
