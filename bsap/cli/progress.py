"""Progress for log files: occasional lines instead of a bar that redraws itself, and no advice of the libraries."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LogLines:
    """Lines on standard error that say how much of a job is done, at most one every ten seconds.

    Args:
        what: what the job is counted in.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._start = self._last = time.monotonic()

    def show(self, done: int, total: int, *, before: int = 0) -> None:
        """Say how much is done and how long the rest may take.

        Args:
            done: how much is done.
            total: of how much.
            before: how much of it an earlier attempt did, which does not count for the speed.
        """
        now = time.monotonic()
        if now - self._last >= 10 and done < total:
            self._last = now
            left = (now - self._start) / (done - before) * (total - done)
            print(f"bsap: {done} of {total} {self.what}, about {left:.0f} s left", file=sys.stderr, flush=True)


class LineProgress(Callback):
    """Says how far a test is, when a tenth of the batches is done."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._lines = LogLines("batches")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say how much is done."""
        done, total = batch_idx + 1, int(trainer.num_test_batches[dataloader_idx])
        if trainer.is_global_zero and done * 10 // total > batch_idx * 10 // total:
            self._lines.show(done, total)


def quiet() -> None:
    """Silence messages of Lightning that a user of the command line cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The package's main() takes arguments for tests and notebooks.
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter is intended.*")
    # The data module has chosen its workers.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Every process holds the same value when it is logged; averaging it over processes would only round it.
    warnings.filterwarnings("ignore", ".*`self.log.*sync_dist=True.*")
    # A machine may have SLURM without this run using it.
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")
    # Lightning calls a deprecated function of torch's tree utilities.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    # Lightning calls jsonargparse by names that will go in jsonargparse 5.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
