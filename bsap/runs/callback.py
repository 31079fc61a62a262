"""The life of a run: Lightning's callback that keeps the run folder, from its preparation to its end."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, cast

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from bsap.datamodules.base import scene_data
from bsap.errors import BSAPError, ConfigError, DataError
from bsap.runs.buckets import check_fields
from bsap.runs.evaluated import Evaluated
from bsap.runs.folder import RunFolder
from bsap.runs.identity import origin, resolved_settings
from bsap.runs.processes import Rendezvous, State, detach_children, on_all_ranks, on_rank_zero
from bsap.runs.recompute import breakdowns, recompute
from bsap.runs.results import made_by, make_results
from bsap.runs.saved import read_results
from bsap.runs.schema import Precision, Record, Timing
from bsap.runs.settings import RunConfig, differences
from bsap.runs.signals import Stopped, StopSignals, say
from bsap.runs.startup import StartWatch, watch_start


class RunCallback(Callback):
    """Writes the run folder of a test, continues one that was killed, and refuses one that ran something else.

    SIGTERM and SIGUSR1 end a run in an orderly way: all processes finish what they have begun and exit with status 75.
    After ``setup("test")``, ``folder`` is the run folder.

    Raises:
        ConfigError: if the folder holds a run with other settings, or cannot be written.
        DataError: if at the end an expression was not seen, or was seen twice.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder: RunFolder | None = None
        self._signals = StopSignals()
        self._watch: StartWatch | None = None
        self._rendezvous: Rendezvous | None = None
        self._started = 0.0
        self._resumed = 0

    # --- start ------------------------------------------------------------------------------------------------------

    def watch_start(self, trainer: Trainer) -> None:
        """Watch over the start of a test on several processes; call it before Lightning lets them meet."""
        self._watch = watch_start(trainer, self._signals, stage="test", timeout=self.config.patience())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare the folder, and let the data module skip what is already done."""
        if stage != "test":
            return
        data = scene_data(trainer)
        referents = (e.referent for scene in data.scenes for e in scene.expressions)
        check_fields(self.config.breakdown, ((referent.category, referent.distractors) for referent in referents))
        _check_launcher(trainer)
        children = detach_children(trainer)
        self._signals.catch()
        if self._watch is not None:
            self._watch.children = children
            self._watch.met()
        _disable_requeue(trainer)
        module = _evaluated(pl_module)
        self.folder = folder = RunFolder(self.config, resolved_settings(trainer, module.settings))
        done: list[Record] = []

        def prepare() -> None:
            _refuse_stray_checkpoints(Path(trainer.default_root_dir))
            folder.prepare()
            done.extend(folder.finished([[expression.id for expression in scene.expressions] for scene in data.scenes]))

        on_rank_zero(trainer, prepare)
        if folder.damaged:
            say(
                f"{folder.damaged} damaged lines in {folder.path / 'parts'} (without a right checksum); their "
                "expressions are computed again."
            )
        # Only the first process reads what is done: on a network disk another node may see older files.
        finished, folder.attempt = trainer.strategy.broadcast(([r["id"] for r in done], folder.attempt), src=0)
        self._resumed = len(finished)
        data.skip(finished)
        module.metrics.reset()
        if done:
            module.metrics.update(done)
        on_all_ranks(trainer, lambda: folder.open_part(trainer.global_rank))
        note = folder.path / "parts" / f"{folder.attempt}.stop"
        self._rendezvous = Rendezvous(note, self._signals, children, timeout=self.config.patience())

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to continue a run of other data or weights, or with processes that read others; start the clock."""
        self._signals.catch()  # Lightning sets handlers of its own between setup and here
        if (folder := self.folder) is not None:
            module = _evaluated(pl_module)
            found = origin(scene_data(trainer), module)

            def check() -> None:
                folder.check_origin(found, resumed=self._resumed > 0)
                folder.note_attempt(made_by(module, processes=trainer.world_size))

            on_rank_zero(trainer, check)
            of_first = trainer.strategy.broadcast(found, src=0)

            def compare() -> None:
                if lines := differences(of_first, found):
                    raise DataError(
                        f"Rank {trainer.global_rank} read other data or weights than the first process:\n  "
                        + "\n  ".join(lines)
                        + "\nMake sure that all nodes see the same files."
                    )

            on_all_ranks(trainer, compare)
        if self._watch is not None:
            self._watch.stop()
        if self._rendezvous is not None:
            self._rendezvous.open = True
        self._started = time.perf_counter()

    # --- batches and early ends -------------------------------------------------------------------------------------

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put new records on disk at once, and stop here if a process was asked to."""
        if self.folder is None or self._rendezvous is None:
            return
        self.folder.write(outputs["records"])
        self._rendezvous.check_parent_and_children(trainer)
        if self._rendezvous.requested():
            self.folder.write(_evaluated(pl_module).finish())
            self._leave(trainer, self._rendezvous.wait(State.STOPPED, self._rendezvous.reason()))

    def _leave(self, trainer: Trainer, state: State) -> None:
        """End this process early, as all others do.

        Raises:
            Stopped: on all processes, if the run was asked to stop.
            BSAPError: on the first process, if another one failed, which prints what happened.
        """
        assert self._rendezvous is not None
        assert self.folder is not None
        self._close()
        if state is State.STOPPED:
            self._rendezvous.wait_for_children()
        if state is State.FAILED:
            if trainer.is_global_zero:
                raise BSAPError(
                    f"Another process failed: {self._rendezvous.reason()} "
                    f"Finished scenes are kept in {self.folder.path}."
                )
            raise SystemExit(2)
        if trainer.is_global_zero:
            again = ", without --run.overwrite," if self.config.overwrite else ""
            say(
                f"stopped by {self._rendezvous.reason()}; {self.folder.done()} expressions are done. Run the same "
                f"command again{again} to continue."
            )
        raise Stopped

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the other processes too, and keep what was written."""
        _evaluated(pl_module).keep_features()
        rendezvous, self._rendezvous = self._rendezvous, None
        if rendezvous is None or not rendezvous.open or isinstance(exception, KeyboardInterrupt):
            self._close()
            return
        if rendezvous.signals.received is not None:
            # A signal to the whole job also ends the processes that decode pictures, and that looks like a failure.
            self._rendezvous = rendezvous
            self._leave(trainer, rendezvous.wait(State.STOPPED, rendezvous.reason()))
        text = f"rank {trainer.global_rank}: {type(exception).__name__}: {exception}"
        with contextlib.suppress(BSAPError):  # the exception itself says more
            rendezvous.wait(State.FAILED, text)
        self._close()

    # --- end --------------------------------------------------------------------------------------------------------

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the others before anything that needs them all."""
        if self._rendezvous is None:
            return
        state = self._rendezvous.wait(State.DONE)
        if state is not State.DONE:
            self._leave(trainer, state)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge all processes' records and write the result."""
        if self.folder is None or not self.folder.open:
            return
        seconds = time.perf_counter() - self._started
        trainer.strategy.barrier("records written")
        on_rank_zero(trainer, lambda: self._finish(trainer, _evaluated(pl_module), seconds))
        if self._rendezvous is not None:
            self._rendezvous.wait_for_children()
        self._close()

    def _finish(self, trainer: Trainer, module: Evaluated, seconds: float) -> None:
        assert self.folder is not None
        data, strict = scene_data(trainer), bool(module.settings["strict"])
        made = made_by(module, processes=trainer.world_size)
        self.folder.note_attempt(made)  # again: the device may have run out of memory
        records, parts = self.folder.merge(data.expression_ids)
        again = recompute(records, strict=strict, tasks=module.tasks)
        if json.dumps(again) != json.dumps(module.results):
            raise DataError(
                "The metrics counted during the run differ from those of its predictions: an expression was counted "
                f"twice or lost. Counted {module.results}, predictions give {again}. "
                f"The records are kept in {self.folder.path}."
            )
        timing: Timing = {
            "seconds": round(seconds, 3),
            "resumed_expressions": self._resumed,
            "attempts": parts.attempts,
            "processes": made["processes"],
            "device": made["device"],
        }
        results = make_results(
            module,
            records,
            summary=data.summary,
            settings=self.folder.settings,
            precision=_precision(trainer),
            timing=timing,
        )
        path = self.folder.path / "results.json"
        if path.exists() and self._resumed == len(records):
            # Nothing was left to do: what made the numbers is what made them then.
            before = read_results(path)
            results["timing"], results["versions"] = before["timing"], before["versions"]
        if self.config.breakdown:
            results["breakdown"] = breakdowns(records, self.config.breakdown, strict=strict, tasks=module.tasks)
        self.folder.finish(records, results)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the folder and the signals.

        Raises:
            DataError: if Lightning left the test out, which it does without a message when there is no batch.
        """
        left_out = self.folder is not None and self.folder.open
        self._close()
        if self.folder is not None:
            scene_data(trainer).skip(())
        if left_out:
            raise DataError("The test did not run: its loader gave no batch. Is `--trainer.limit_test_batches` 0?")

    def _close(self) -> None:
        if self.folder is not None:
            self.folder.close()
        if self._watch is not None:
            self._watch.stop()
        self._signals.release()


def _evaluated(module: LightningModule) -> Evaluated:
    return cast(Evaluated, module)


def _precision(trainer: Trainer) -> Precision:
    """Lightning changes some precisions in silence, for example ``16-mixed`` on a CPU."""
    flag = getattr(getattr(trainer, "_accelerator_connector", None), "_precision_flag", None)
    return {"requested": str(flag or trainer.precision), "effective": str(trainer.precision)}


def _check_launcher(trainer: Trainer) -> None:
    """Processes that do not know of each other would each do the whole work, in one folder."""
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if "TORCHELASTIC_RUN_ID" in os.environ and started != trainer.world_size:
        raise ConfigError(
            f"torchrun started {started} processes, but the Trainer is set to {trainer.world_size}. Set "
            "`--trainer.devices` to torchrun's --nproc-per-node and `--trainer.num_nodes` to its --nnodes."
        )


def _disable_requeue(trainer: Trainer) -> None:
    """Lightning requeues a SLURM job by saving a checkpoint and loading it again, which cannot continue a test."""
    environment = getattr(getattr(trainer, "_accelerator_connector", None), "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


def _refuse_stray_checkpoints(root: Path) -> None:
    """Under SLURM, Lightning's test loads any such file that it finds, and with it other weights."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    stray = sorted(root.glob("hpc_ckpt_*"))
    if stray:
        raise ConfigError(
            f"{stray[0]} would be loaded into the model under SLURM. Move it away, or set another default_root_dir."
        )
