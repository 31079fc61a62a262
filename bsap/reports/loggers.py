"""What a run hands to any of Lightning's loggers, beside the metrics that the module logs itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from bsap.errors import BSAPError, visible
from bsap.runs.callback import RunCallback
from bsap.runs.saved import read_run

SHEET = 12
"""Expressions on the logged sheet of pictures."""


class LogResults(Callback):
    """Logs settings as hyperparameters, exact metrics, and the table and a sheet of pictures where a logger has these.

    Only Lightning's generic methods are used: ``log_hyperparams`` and ``log_metrics`` of every logger, ``log_table``
    and ``log_image`` of those that have them.

    Args:
        run: the callback that writes the run folder; this callback must come after it.
    """

    def __init__(self, run: RunCallback) -> None:
        self._run = run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the settings before the loggers are saved for the first time: TensorBoard's writes them only once."""
        if self._run.folder is not None and stage == "test" and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_hyperparams(dict(self._run.folder.settings))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the run folder holds, on the first process."""
        folder = self._run.folder
        if folder is None or not trainer.loggers or not trainer.is_global_zero:
            return
        run = read_run(folder.path)
        metrics = run.finished()["metrics"]
        values: dict[str, float] = {}
        rows: dict[str, dict[str, float]] = {}
        for task, scorers in metrics.items():
            for scorer, row in scorers.items():
                values |= {f"{task}/{scorer}/{name}": value for name, value in row.items()}
                rows.setdefault(scorer, {}).update({f"{task}/{name}": value for name, value in row.items()})
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        table = [[scorer, *map(row.get, columns)] for scorer, row in rows.items()]
        sheet: list[Any] | None = None
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            if hasattr(logger, "log_table"):
                logger.log_table(key="results", columns=["scorer", *columns], data=table)
            if hasattr(logger, "log_image"):
                sheet = _sheet(run.folder) if sheet is None else sheet
                if sheet:
                    logger.log_image(key="choices", images=sheet)
            logger.save()


def _sheet(folder: Path) -> list[Any]:
    """A sheet of choices; empty, with a line on standard error, where the pictures cannot be drawn."""
    from bsap.reports.draw_choices import draw_sheet
    from bsap.reports.shown_run import ShownRun, spread

    try:
        shown = ShownRun(folder)
        return [draw_sheet(shown, spread(shown.records, SHEET))]
    except BSAPError as error:
        print(visible(f"bsap: no sheet of pictures is logged: {error}"), file=sys.stderr)
        return []
