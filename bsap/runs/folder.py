"""The run folder: what ran, what every expression became, and the result, on disk as soon as it is known.

``runs/<name>/`` holds ``config.yaml``, ``predictions.jsonl`` and ``results.json``; while a run is under way its records
lie in ``parts/``, one file per process and attempt, so that a killed run continues where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from bsap.datamodules.base import SceneDataModule, scene_data
from bsap.errors import BSAPError, ConfigError, DataError
from bsap.runs.buckets import check_fields
from bsap.runs.identity import identity, origin, resolved_settings
from bsap.runs.parts import (
    LOCK,
    FolderLock,
    PartFile,
    next_attempt,
    note_attempt,
    read_attempts,
    read_parts,
    write_atomic,
)
from bsap.runs.processes import Meeting, Outcome, all_or_none, on_first_rank, take_children
from bsap.runs.recompute import breakdowns, recompute
from bsap.runs.records import Record, dump_records
from bsap.runs.results import made_by, make_results
from bsap.runs.settings import differences, digest
from bsap.runs.signals import Stopped, StopSignals

if TYPE_CHECKING:
    from bsap.module import BSAPModule


@dataclass(frozen=True)
class RunConfig:
    """Where a run is written.

    Attributes:
        root: the folder of all runs.
        name: the run's own folder; by default a digest of the resolved configuration, never a clock.
        overwrite: start anew where the folder already holds a run; otherwise the run is continued. A job that SLURM
            requeues continues all the same: it has started anew once.
        breakdown: fields by which results are also broken down: ``category``, ``words``, ``distractors``.
        timeout: minutes that a process which has done its share waits for the others.
    """

    root: str = "runs"
    name: str | None = None
    overwrite: bool = False
    breakdown: list[str] = field(default_factory=list)
    timeout: float = 60.0


class RunFolder(Callback):
    """Writes the run folder of a test run, continues a killed one, and refuses one that ran something else.

    SIGTERM and SIGUSR1 end a run in good order: all processes finish their batch, and exit with status 75.

    Args:
        config: where to write.

    Raises:
        ConfigError: if the folder holds a run with other settings, or cannot be written.
        DataError: if at the end an expression was not seen, or seen twice.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder: Path | None = None
        self._signals = StopSignals()
        self._meeting: Meeting | None = None
        self._lock: FolderLock | None = None
        self._part: PartFile | None = None
        self._settings: dict[str, Any] = {}
        self._started = 0.0
        self._resumed = 0
        self._attempt = 0

    # --- start ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare the folder and tell the data module what is already done."""
        if stage != "test":
            return
        check_fields(self.config.breakdown)
        _check_launcher(trainer)
        children = take_children(trainer)
        self._signals = StopSignals()
        self._signals.catch()
        _no_requeue(trainer)
        self._settings = resolved_settings(trainer, pl_module)
        self.folder = folder = Path(self.config.root) / (self.config.name or digest(identity(self._settings)))
        done: dict[str, Record] = {}

        def prepare() -> None:
            _refuse_stray_checkpoints(Path(trainer.default_root_dir))
            self._prepare(folder)
            done.update(self._finished(scene_data(trainer)))

        on_first_rank(trainer, prepare)
        # Only the first process reads what is done: on a network's disk another node may see older files.
        finished, self._attempt = trainer.strategy.broadcast((sorted(done), self._attempt), src=0)
        self._resumed = len(finished)
        scene_data(trainer).skip(finished)
        pl_module.metrics.reset()  # type: ignore[operator, union-attr]
        if done:
            pl_module.metrics.update(list(done.values()))  # type: ignore[operator, union-attr]
        failure = None
        try:
            self._part = PartFile(folder / "parts", self._attempt, trainer.global_rank)
        except ConfigError as error:
            failure = error
        all_or_none(trainer, failure)
        note = folder / "parts" / f"{self._attempt}.stop"
        self._meeting = Meeting(note, self._signals, children, timeout=timedelta(minutes=self.config.timeout))

    def _prepare(self, folder: Path) -> None:
        config = folder / "config.yaml"
        # What a start leaves behind that came no further, on a full disk for example, is no stranger's.
        strange = [p for p in folder.iterdir() if not _own(p.name)] if folder.is_dir() else folder.exists()
        if strange and not config.exists():
            raise ConfigError(
                f"{folder} exists and is not a run folder (it has no config.yaml). Choose another `--run.name`."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
            (folder / "parts").mkdir(exist_ok=True)
            if self.config.overwrite and not _requeued():
                # The configuration stays until it is replaced: without one, nobody could tell what folder this is.
                for old in ("results.json", "predictions.jsonl", "origin.json"):
                    (folder / old).unlink(missing_ok=True)
                for part in (folder / "parts").iterdir():
                    part.unlink()
            self._attempt = next_attempt(folder)
        except OSError as error:
            raise ConfigError(f"Cannot write the run folder {folder}: {error}. Choose another `--run.root`.") from error
        # A run that failed before its first record has nothing that other settings could spoil.
        if config.exists() and any(True for _ in read_parts(folder)):
            lines = differences(identity(_read(config, yaml.safe_load)), identity(self._settings))
            if lines:
                raise ConfigError(
                    f"{folder} holds a run with other settings:\n  "
                    + "\n  ".join(lines)
                    + "\nChoose another `--run.name`, or start anew with `--run.overwrite true`."
                )
        write_atomic(config, yaml.safe_dump(self._settings | {"run": asdict(self.config)}, sort_keys=False))

    def _finished(self, data: SceneDataModule) -> dict[str, Record]:
        """Records of an earlier attempt, of scenes that were finished whole."""
        assert self.folder is not None
        records = {record["id"]: record for record in read_parts(self.folder)}
        ids = [[expression.id for expression in scene.expressions] for scene in data.scenes]
        return {key: records[key] for keys in ids if all(key in records for key in keys) for key in keys}

    # --- on the way -------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to continue a run of other data or weights, or with processes that read others; start the clock."""
        self._signals.catch()  # Lightning sets handlers of its own between setup and here
        if self.folder is not None:
            folder = self.folder
            found = origin(trainer, pl_module)  # type: ignore[arg-type]

            def check() -> None:
                self._check_origin(found)
                note_attempt(folder, self._attempt, made_by(trainer, pl_module))  # type: ignore[arg-type]

            on_first_rank(trainer, check)
            first = trainer.strategy.broadcast(found, src=0)
            lines = differences(first, found)
            all_or_none(
                trainer,
                DataError(
                    f"Rank {trainer.global_rank} read other data or weights than the first process:\n  "
                    + "\n  ".join(lines)
                    + "\nAll nodes must see the same files."
                )
                if lines
                else None,
            )
        if self._meeting is not None:
            self._meeting.open = True
        self._started = time.perf_counter()

    def _check_origin(self, found: dict[str, Any]) -> None:
        """The same settings may name files that are not the same any more: their digests tell."""
        assert self.folder is not None
        path = self.folder / "origin.json"
        if path.exists() and self._resumed:
            lines = differences(_read(path, json.loads), found)
            if lines:
                raise ConfigError(
                    f"{self.folder} holds a run of other data or weights under the same settings:\n  "
                    + "\n  ".join(lines)
                    + "\nStart anew with `--run.overwrite true`."
                )
        write_atomic(path, json.dumps(found, indent=2) + "\n")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the batch's records on disk at once, and stop here if that is wished."""
        if self._part is None or self._meeting is None:
            return
        self._part.write(dump_records(outputs["records"]))
        self._meeting.check_family(trainer)
        if self._meeting.called():
            self._leave(trainer, self._meeting.meet(Outcome.STOPPED, self._meeting.reason()))

    def _leave(self, trainer: Trainer, outcome: Outcome) -> None:
        """End this process early, as all others do.

        Raises:
            Stopped: on all processes, if the run was asked to stop.
            BSAPError: on the first process, if another one failed; that one tells what happened.
        """
        assert self._meeting is not None
        assert self.folder is not None
        self._close()
        if outcome is Outcome.STOPPED:
            self._meeting.wait_for_children()
        if outcome is Outcome.FAILED:
            if trainer.is_global_zero:
                raise BSAPError(
                    f"Another process failed: {self._meeting.reason()} Finished scenes are kept in {self.folder}."
                )
            raise SystemExit(2)
        if trainer.is_global_zero:
            done = len({record["id"] for record in read_parts(self.folder)})
            print(
                f"bsap: stopped by {self._meeting.reason()}; {done} expressions are done. Run the same command again"
                f"{', without --run.overwrite,' if self.config.overwrite else ''} to continue.",
                file=sys.stderr,
            )
        raise Stopped

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the other processes along, and leave what was written."""
        pl_module.keep_features()  # type: ignore[operator, union-attr]
        meeting, self._meeting = self._meeting, None
        if meeting is None or not meeting.open or isinstance(exception, KeyboardInterrupt):
            self._close()
            return
        if meeting.signals.received is not None:
            # A signal to the whole job also ends the processes that decode pictures, and that looks like a failure.
            self._meeting = meeting
            self._leave(trainer, meeting.meet(Outcome.STOPPED, meeting.reason()))
        text = f"rank {trainer.global_rank}: {type(exception).__name__}: {exception}"
        with contextlib.suppress(BSAPError):  # what happened here says more
            meeting.meet(Outcome.FAILED, text)
        self._close()

    # --- end --------------------------------------------------------------------------------------------------------

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the others before anything that needs them all."""
        if self._meeting is None:
            return
        outcome = self._meeting.meet(Outcome.DONE)
        if outcome is not Outcome.DONE:
            self._leave(trainer, outcome)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge all processes' records and write the result."""
        if self.folder is None or self._part is None:
            return
        seconds = time.perf_counter() - self._started
        self._part.close()
        trainer.strategy.barrier("records written")
        on_first_rank(trainer, lambda: self._finish(trainer, pl_module, seconds))  # type: ignore[arg-type]
        if self._meeting is not None:
            self._meeting.wait_for_children()
        self._close()

    def _finish(self, trainer: Trainer, module: BSAPModule, seconds: float) -> None:
        assert self.folder is not None
        data = scene_data(trainer)
        expected = data.expression_ids
        records = {record["id"]: record for record in read_parts(self.folder)}
        ordered = [records[key] for key in expected if key in records]
        if len(ordered) != len(expected):
            absent = [key for key in expected if key not in records]
            raise DataError(
                f"{len(absent)} of {len(expected)} expressions were not seen, among them {', '.join(absent[:5])}."
            )
        again = recompute(ordered, strict=module.settings["strict"], tasks=module.tasks)
        if json.dumps(again) != json.dumps(module.results):
            raise DataError(
                "The metrics counted during the run differ from those of its predictions: an expression was counted "
                f"twice or lost. Counted {module.results}, predictions say {again}. "
                f"The records are kept in {self.folder}."
            )
        attempts = read_attempts(self.folder)
        write_atomic(self.folder / "predictions.jsonl", dump_records(ordered))
        timing = {"seconds": round(seconds, 3), "resumed_expressions": self._resumed, "attempts": attempts}
        results = make_results(trainer, module, ordered, summary=data.summary, settings=self._settings, timing=timing)
        path = self.folder / "results.json"
        if path.exists() and self._resumed == len(ordered):
            # Nothing was left to do: what made the numbers is what made them then.
            before = _read(path, json.loads)
            results |= {name: before[name] for name in ("timing", "versions") if name in before}
        if self.config.breakdown:
            results["breakdown"] = breakdowns(ordered, self.config.breakdown, strict=module.settings["strict"])
        write_atomic(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        shutil.rmtree(self.folder / "parts", ignore_errors=True)  # all of it is in the merged files now

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave what was written.

        Raises:
            DataError: if Lightning passed over the test, which it does without a word when there is no batch.
        """
        skipped = self._part is not None
        self._close()
        if self.folder is not None:
            scene_data(trainer).skip(())
        if skipped:
            raise DataError("The test did not run: its loader gave no batch. Is `--trainer.limit_test_batches` 0?")

    def _close(self) -> None:
        """Give back the part file, the lock and the signals."""
        if self._part is not None:
            self._part.close()
            self._part = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._signals.release()


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A file that an earlier attempt left.

    Raises:
        ConfigError: if it is damaged.
    """
    try:
        found = parse(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        reason: object = "it is empty" if found is None else "it holds no mapping"
    except (ValueError, yaml.YAMLError) as error:
        reason = error
    raise ConfigError(f"{path} is damaged: {reason}. Start anew with `--run.overwrite true`.")


def _own(name: str) -> bool:
    return name in (LOCK, "parts") or name.startswith(".config.yaml.")


def _requeued() -> bool:
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def _check_launcher(trainer: Trainer) -> None:
    """Processes that know nothing of each other would each do the whole work, in one folder."""
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if "TORCHELASTIC_RUN_ID" in os.environ and started != trainer.world_size:
        raise ConfigError(
            f"torchrun started {started} processes, but the Trainer is set to {trainer.world_size}: set "
            "`--trainer.devices` to torchrun's --nproc-per-node and `--trainer.num_nodes` to its --nnodes."
        )


def _no_requeue(trainer: Trainer) -> None:
    """Lightning requeues a SLURM job by writing a checkpoint and loading it again: no way to continue a test."""
    environment = getattr(getattr(trainer, "_accelerator_connector", None), "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


def _refuse_stray_checkpoints(root: Path) -> None:
    """Under SLURM, Lightning's test loads any such file it finds, and with it other weights."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    stray = sorted(root.glob("hpc_ckpt_*"))
    if stray:
        raise ConfigError(
            f"{stray[0]} would be loaded into the model under SLURM. Move it away, or set another default_root_dir."
        )
