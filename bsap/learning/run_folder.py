"""The run folder of learning: settings, checkpoints, the course of training, and the learned bank."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from bsap.errors import ConfigError, DataError
from bsap.learning.files import write_bank
from bsap.runs.identity import resolved_settings
from bsap.runs.parts import write_atomic
from bsap.runs.processes import on_rank_zero
from bsap.runs.settings import RunConfig, differences, digest, plain

if TYPE_CHECKING:
    from bsap.learning.module import PromptLearner


class LearningFolder(Callback):
    """Writes ``config.yaml``, ``checkpoints/``, ``history.json`` and ``bank/`` of a run of learning.

    Args:
        config: where to write.

    Attributes:
        folder: the run folder; after ``setup("fit")``.
        bank: the learned bank's folder; after training, where the learner has a bank.

    Raises:
        ConfigError: if the folder holds a run with other settings, or a finished one.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder: Path | None = None
        self.bank: Path | None = None
        self.history: list[dict[str, float]] = []
        self._settings: dict[str, Any] = {}
        self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell checkpoints where to go."""
        if stage != "fit":
            return
        self._settings = _settings(trainer, pl_module)
        self.folder = folder = Path(self.config.root) / (self.config.name or digest(self._settings))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")

    def _prepare(self, folder: Path, *, resumed: bool) -> None:
        config = folder / "config.yaml"
        if config.exists() and not self.config.overwrite:
            before = yaml.safe_load(config.read_text(encoding="utf-8"))
            before.pop("run", None)
            lines = differences(before, self._settings)
            if lines:
                raise ConfigError(
                    f"{folder} holds a run with other settings:\n  "
                    + "\n  ".join(lines)
                    + "\nChoose another `--run.name`, or start anew with `--run.overwrite true`."
                )
            if not resumed:
                raise ConfigError(
                    f"{folder} holds this run. Continue it with `--ckpt_path last`, or start anew with "
                    "`--run.overwrite true`."
                )
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            if not resumed:
                for old in (folder / "checkpoints").glob("*.ckpt"):
                    old.unlink()
            write_atomic(config, yaml.safe_dump(self._settings | {"run": asdict(self.config)}, sort_keys=False))
        except OSError as error:
            raise ConfigError(f"Cannot write the run folder {folder}: {error}. Choose another `--run.root`.") from error

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the folder, once it is known whether training resumes; start the clock."""
        folder = self.folder
        assert folder is not None
        on_rank_zero(trainer, lambda: self._prepare(folder, resumed=trainer.ckpt_path is not None))
        self._started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the epoch's numbers."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.history.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **values})

    def state_dict(self) -> dict[str, Any]:
        """The course of training goes on where it was."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Likewise."""
        self.history = list(state_dict["history"])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the best epoch on every process, and write its bank."""
        seconds = time.perf_counter() - self._started
        best: dict[str, Any] = {}
        on_rank_zero(trainer, lambda: best.update(self._best(trainer)))
        # Sent and not read again: whatever uses the module next is the same on every process.
        if best := trainer.strategy.broadcast(best, src=0):
            pl_module.load_state_dict(best)
        on_rank_zero(trainer, lambda: self._finish(trainer, pl_module, seconds))  # type: ignore[arg-type]

    def _best(self, trainer: Trainer) -> dict[str, Any]:
        """The weights of the best epoch, none where no checkpoint was kept."""
        assert self.folder is not None
        if not trainer.global_step:
            raise ConfigError(
                f"No step of training was made, so that nothing is learned; no bank is written to {self.folder}. Set "
                "`--trainer.max_epochs` to at least 1."
            )
        write_atomic(self.folder / "history.json", json.dumps(self.history, indent=2) + "\n")
        path = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if not path:
            return {}
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        return state

    def _finish(self, trainer: Trainer, module: PromptLearner, seconds: float) -> None:
        assert self.folder is not None
        tensors = module.bank_tensors()
        if not tensors:
            return
        if not bool(tensors["features"].isfinite().all()):
            raise DataError(f"The learned bank holds values that are not finite; nothing is written to {self.folder}.")
        score = getattr(trainer.checkpoint_callback, "best_model_score", None)
        meta = module.bank_meta() | {
            "name": self.folder.name,
            "val": None if score is None else round(float(score), 6),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seed": self._settings["seed_everything"],
            "data": self._settings["data"],
            "sources": getattr(trainer.datamodule, "sources", {}),  # type: ignore[attr-defined]
            "precision": str(trainer.precision),
            "processes": trainer.world_size,
            "seconds": round(seconds, 1),
        }
        self.bank = write_bank(self.folder / "bank", tensors, meta)


def _settings(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    settings = resolved_settings(trainer, module.settings)  # type: ignore[arg-type]
    settings["trainer"] |= {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
    return dict(plain(settings))


def checkpoints(monitor: str) -> list[Callback]:
    """Keep the epoch with the best value of ``monitor``, and the last one to continue from.

    Two callbacks: one alone writes its last checkpoint only when the best changes.
    """
    best = ModelCheckpoint(monitor=monitor, mode="max", filename="best", enable_version_counter=False)
    return [best, ModelCheckpoint(filename="last", enable_version_counter=False)]
