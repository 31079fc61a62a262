"""While the processes of a run wait for each other at its start: who is missing, when to give up, and signals.

That waiting happens inside the communication library, where Python hears no signal. A thread does it instead.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

from bsap.runs.signals import SIGNALS, STOPPED, StopSignals, say

FIRST_NOTE, NEXT_NOTE = 30.0, 60.0  # seconds; imports alone may take that long on a busy disk
_ENDING = (*SIGNALS, signal.SIGINT)
_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


def watch_start(trainer: Trainer, signals: StopSignals, *, stage: str, timeout: timedelta) -> StartWatch | None:
    """Watch over the start of the stage ``test`` or ``fit`` on several processes, before Lightning lets them meet."""
    main = threading.current_thread() is threading.main_thread()  # handlers of signals can be set there only
    if trainer.state.fn != stage or trainer.world_size == 1 or not main:
        return None
    signals.catch()
    return StartWatch(trainer, timeout=timeout)


class StartWatch:
    """Watches a process of several until the first batch.

    Every process writes its rank into the store at which the processes meet, so that the first one can tell which are
    missing. A signal ends this process at once with status 75, and with it its ``children``, which it started.
    """

    def __init__(self, trainer: Trainer, *, timeout: timedelta) -> None:
        environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
        self.rank, self.world = trainer.global_rank, trainer.world_size
        self.address, self.port = environment.main_address, environment.main_port
        self.timeout = timeout
        self.children: Sequence[Any] = getattr(trainer.strategy.launcher, "procs", None) or []
        self._store: Any = None
        self._met, self._stopped = threading.Event(), threading.Event()
        self._ends = os.pipe()
        os.set_blocking(self._ends[1], False)
        # The handler in C writes each signal's number here, whatever the main thread is doing.
        self._before = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        # A signal must not interrupt the library: it would complain at length.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        for target in (self._watch, self._register):
            threading.Thread(target=target, daemon=True).start()

    def met(self) -> None:
        """From now on all processes are there: only signals count."""
        self._met.set()

    def stop(self) -> None:
        """End the watch: the first batch comes, or an error does. A second call does nothing."""
        if not self._stopped.is_set():
            self._stopped.set()
            signal.set_wakeup_fd(self._before)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _register(self) -> None:
        with contextlib.suppress(Exception):  # the error of the main thread's own attempt says more
            # Twice the time: this attempt must not be the first to complain.
            store = dist.TCPStore(  # type: ignore[attr-defined]
                self.address, self.port, timeout=2 * self.timeout, wait_for_workers=False
            )
            store.set(f"bsap/{self.rank}", "here")
            self._store = store

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        begin, note = time.monotonic(), FIRST_NOTE
        while not self._stopped.wait(0.05):
            waited, missing = time.monotonic() - begin, self._missing()
            if select.select([self._ends[0]], [], [], 0)[0]:
                numbers = [n for n in os.read(self._ends[0], 1024) if n in _ENDING]
                if numbers and not self._stopped.is_set():
                    name, state = signal.Signals(numbers[0]).name, f", while waiting {missing}" if missing else ""
                    self._leave(f"stopped by {name} before it began{state}.", STOPPED)
            if missing and waited > self.timeout.total_seconds():
                limit = f"{self.timeout.total_seconds() / 60:g} minutes (`run.timeout`)"
                self._leave(f"gave up after waiting {limit} {missing}. {_hint()}", 2)
            if missing and waited > note:
                note += NEXT_NOTE
                if self.rank == 0 or self._store is None:
                    say(f"has waited {waited:.0f} s {missing}. {_hint()}")

    def _missing(self) -> str:
        """Whom this process waits for; empty when all are there."""
        absent = [0] if self.rank else list(range(1, self.world))
        if self._met.is_set():
            absent = []
        elif self._store is not None:
            absent = [rank for rank in range(self.world) if not self._store.check([f"bsap/{rank}"])]
        if not absent:
            self._met.set()
            return ""
        ranks = ", ".join(map(str, absent[:8])) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        return f"for rank {ranks} at {self.address}:{self.port} (this is rank {self.rank} of {self.world})"

    def _leave(self, text: str, status: int) -> None:
        say(text)
        for child in self.children:
            with contextlib.suppress(OSError):
                child.terminate()
        for child in self.children:
            with contextlib.suppress(Exception):
                child.wait(timeout=5)
        os._exit(status)


def _hint() -> str:
    given = ", ".join(f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ)
    stale = f"; or unset what an earlier launcher left in the environment ({given})" if given else ""
    return f"Start all processes, and make sure that they reach this address{stale}."
