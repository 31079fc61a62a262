"""Progress for log files: occasional lines instead of a bar that redraws itself, and no advice of the libraries."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LineProgress(Callback):
    """Prints a line to standard error when a tenth of the batches is done, at most one every few seconds.

    Args:
        every: least number of seconds between two lines.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self._start = self._last = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = self._last = time.monotonic()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print how much is done and how long the rest may take."""
        if not trainer.is_global_zero:
            return
        time_now, done = time.monotonic(), batch_idx + 1
        total = trainer.num_test_batches[dataloader_idx]
        if time_now - self._last < self.every or done * 10 // total == (done - 1) * 10 // total:
            return
        self._last = time_now
        left = (time_now - self._start) / done * (total - done)
        print(f"bsap: {done} of {total} batches, about {left:.0f} s left", file=sys.stderr, flush=True)


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
