"""The run folder of learning: settings, checkpoints, the course of training, and the learned bank."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save
from torch import Tensor

from bsap.datamodules.base import scene_data
from bsap.datamodules.files import dump_yaml
from bsap.errors import ConfigError, DataError
from bsap.learning.datamodule import LearningDataModule
from bsap.models.checkpoint import read_plain
from bsap.prompts.learned import learned_scorer
from bsap.runs.identity import resolved_settings
from bsap.runs.parts import FolderLock, write_atomic
from bsap.runs.processes import on_rank_zero
from bsap.runs.saved import read_config
from bsap.runs.settings import RunConfig, differences, plain
from bsap.runs.signals import StopSignals
from bsap.runs.startup import StartWatch, watch_start

FORMAT = "bsap-bank-1"
TEST_SPLIT = "TEST_SPLIT"
"""Stands in ``test.yaml`` for the split to test on, if only splits are known that were learned from."""


class LearningFolder(Callback):
    """Writes ``config.yaml``, ``checkpoints/``, ``history.json``, ``bank/`` and ``test.yaml`` of a run of learning.

    Args:
        config: where to write.
        model: the settings of the learner.
        learned: returns the tensors of the learned bank and what made it; no tensors if there is no bank.
        monitor: the metric that chooses the best epoch; more is better.

    Attributes:
        checkpoints: keep the best epoch and the last one.
        folder: the run folder; after ``setup("fit")``.
        bank: the folder of the learned bank; after training, if the learner has a bank.

    Raises:
        ConfigError: if the folder holds a run with other settings, or a finished one.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Mapping[str, Any],
        learned: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
        monitor: str,
    ) -> None:
        self.config, self.model, self.learned = config, dict(model), learned
        self.best = ModelCheckpoint(monitor=monitor, mode="max", filename="best", enable_version_counter=False)
        # Two callbacks: one alone writes its last checkpoint only when the best one changes.
        self.checkpoints = [self.best, ModelCheckpoint(filename="last", enable_version_counter=False)]
        self.folder = Path(config.root)
        self.bank: Path | None = None
        self.history: list[dict[str, float]] = []
        self._settings: dict[str, Any] = {}
        self._lock: FolderLock | None = None
        self._started = 0.0
        self._signals = StopSignals()
        self._watch: StartWatch | None = None

    def watch_start(self, trainer: Trainer) -> None:
        """Watch over the start on several processes; call it before Lightning lets them meet."""
        self._watch = watch_start(trainer, self._signals, stage="fit", timeout=self.config.patience())

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self._signals.release()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder and send the checkpoints there; all processes have met."""
        self._end_watch()
        if stage != "fit":
            return
        settings = resolved_settings(trainer, self.model)
        settings["trainer"] |= {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
        self._settings = plain(settings)
        self.folder = self.config.folder(self._settings)
        for callback in self.checkpoints:
            callback.dirpath = str(self.folder / "checkpoints")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the folder and start the clock."""
        on_rank_zero(trainer, lambda: self._prepare(resumed=trainer.ckpt_path is not None))
        self._started = time.perf_counter()

    def _prepare(self, *, resumed: bool) -> None:
        folder, config = self.folder, self.folder / "config.yaml"
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
            # A run that was killed before its first checkpoint has nothing to lose and simply starts again.
            kept = [*folder.glob("checkpoints/*.ckpt"), *folder.glob("bank/*"), *folder.glob("test.yaml")]
            if kept and not self.config.overwrite and config.exists():
                self._refuse(config, resumed=resumed)
            for old in () if resumed else kept:
                old.unlink()
            write_atomic(config, dump_yaml(self._settings | {"run": asdict(self.config)}))
        except OSError as error:
            raise ConfigError(f"Cannot write the run folder {folder}: {error}. Choose another `--run.root`.") from error

    def _refuse(self, config: Path, *, resumed: bool) -> None:
        """Raise a ConfigError if the folder's run cannot be continued, or is not to be."""
        try:
            before = read_config(config)
        except DataError as error:
            raise ConfigError(
                f"{config} is damaged, so it is not known what {self.folder} holds. Choose another `--run.name`, or "
                "start again with `--run.overwrite true`."
            ) from error
        before.pop("run", None)
        if lines := differences(before, self._settings):
            raise ConfigError(
                f"{self.folder} holds a run with other settings:\n  "
                + "\n  ".join(lines)
                + "\nChoose another `--run.name`, or start again with `--run.overwrite true`."
            )
        if not resumed:
            raise ConfigError(
                f"{self.folder} holds this run. Continue it with `--ckpt_path last`, or start again with "
                "`--run.overwrite true`."
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch's metrics."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.history.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **values})

    def state_dict(self) -> dict[str, Any]:
        """The course of training, for a checkpoint."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The course of training, from a checkpoint."""
        self.history = [dict(row) for row in state_dict["history"]]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the best epoch on every process, and write its bank."""
        seconds = time.perf_counter() - self._started
        best: dict[str, Any] = {}
        on_rank_zero(trainer, lambda: best.update(self._best(trainer)))
        # Sent to all, so that the module is the same on every process whatever it is used for next.
        if best := trainer.strategy.broadcast(best, src=0):
            pl_module.load_state_dict(best)
        on_rank_zero(trainer, lambda: self._finish(trainer, seconds))

    def _best(self, trainer: Trainer) -> dict[str, Any]:
        """The weights of the best epoch, none if no checkpoint was kept."""
        if not trainer.global_step:
            raise ConfigError(
                f"No training step was made, so nothing was learned and no bank is written to {self.folder}. Set "
                "`--trainer.max_epochs` to at least 1."
            )
        write_atomic(self.folder / "history.json", json.dumps(self.history, indent=2) + "\n")
        if not self.best.best_model_path:
            return {}
        path = Path(self.best.best_model_path)
        if not path.is_file():
            raise DataError(
                f"The checkpoint of the best epoch, {path}, is missing. Start again with `--run.overwrite true`."
            )
        state: dict[str, Any] = read_plain(path)["state_dict"]
        return state

    def _finish(self, trainer: Trainer, seconds: float) -> None:
        tensors, meta = self.learned()
        if not tensors:
            return
        if not bool(tensors["features"].isfinite().all()):
            raise DataError(f"The learned bank has values that are not finite; nothing is written to {self.folder}.")
        score, data = self.best.best_model_score, scene_data(trainer)
        meta |= {
            "name": self.folder.name,
            "val": None if score is None else round(float(score), 6),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seed": self._settings["seed_everything"],
            "data": self._settings["data"],
            "sources": data.sources if isinstance(data, LearningDataModule) else {},
            "precision": str(trainer.precision),
            "processes": trainer.world_size,
            "seconds": round(seconds, 1),
        }
        self.bank = write_bank(self.folder / "bank", tensors, meta)
        if isinstance(data, LearningDataModule):
            settings = settings_for_test(self._settings, data, self.bank, meta) | {"run": {"root": self.config.root}}
            write_atomic(self.folder / "test.yaml", dump_yaml(settings))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the watch over a start that came to nothing."""
        self._end_watch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the folder."""
        self._end_watch()
        if self._lock is not None:
            self._lock.release()


def write_bank(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write ``bank.safetensors`` and ``bank.json``, which :func:`bsap.prompts.banks.load_learned_bank` reads.

    Args:
        folder: created if it does not exist.
        tensors: ``features`` (K, D); for :mod:`bsap.learning.words` also ``context`` (K, n, W) and ``lengths`` (K,).
        meta: what made the bank; must hold ``model`` with ``weights_sha256``.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bank.safetensors").write_bytes(save(on_cpu, {"format": FORMAT}))
        write_atomic(folder / "bank.json", json.dumps({"format": FORMAT, **meta}, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(
            f"Cannot write the learned bank to {folder}: {error}. Choose another `--run.root`."
        ) from error
    return folder


def settings_for_test(
    settings: Mapping[str, Any], data: LearningDataModule, bank: Path, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of ``bsap test`` that uses a learned bank as it was trained.

    Its split is :data:`TEST_SPLIT` unless ``data.split`` names one that was not learned from. After learning from text
    alone it does not name the proposals.
    """
    learning = ("train_split", "val_split", "text_only", "text_file", "val_text_file", "gap_expressions", "batch_size")
    kept = {name: value for name, value in settings["data"].items() if name not in learning}
    kept["split"] = TEST_SPLIT if data.split in (data.train_split, data.val_split) else data.split
    if not data.uses_regions:
        del kept["proposals"]
    same = ("encoders", "views", "resize", "templates", "aggregate", "strict", "store")
    model = {name: settings["model"][name] for name in same}
    return {
        "seed_everything": settings["seed_everything"],
        "trainer": {"precision": settings["trainer"]["precision"]},
        "data": kept if kept["root"] else {"split": kept["split"]},
        "model": model | {"scorers": ["clip", learned_scorer(meta)], "bank": f"learned:{bank}"},
    }
