"""Changes that a test makes inside the processes of a run: each function runs in every rank before the command.

A test names them, for example ``ranks.start(..., hooks=[("slow", {"pauses": [0, 1], "log": "encoded"})])``.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def before_step(act: Callable[[Any, int], None]) -> None:
    """Call ``act(batch, batch_idx)`` before every test step."""
    from bsap.module import BSAPModule

    step = BSAPModule.test_step

    def test_step(self: BSAPModule, batch: Any, batch_idx: int) -> Any:
        act(batch, batch_idx)
        return step(self, batch, batch_idx)

    BSAPModule.test_step = test_step  # type: ignore[method-assign]


def slow(rank: int, *, pauses: list[float], log: str) -> None:
    """Wait so many seconds in every batch of a rank, and note the pictures that are encoded."""

    def act(batch: Any, batch_idx: int) -> None:
        with Path(log).open("a") as file:
            file.writelines(f"{scene.image_id}\n" for scene in batch.scenes)
        time.sleep(pauses[rank])

    before_step(act)


def killed(rank: int, *, victim: int) -> None:
    """One rank is killed in its third batch."""

    def act(batch: Any, batch_idx: int) -> None:
        if rank == victim and batch_idx == 2:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)

    before_step(act)


def broken_picture(rank: int, *, victim: int) -> None:
    """One rank fails in its third batch."""

    def act(batch: Any, batch_idx: int) -> None:
        if rank == victim and batch_idx == 2:
            from bsap.errors import DataError

            raise DataError("picture 7 is broken")

    before_step(act)


def killed_at(rank: int, *, victim: int, place: str) -> None:
    """One rank is killed where a function, by its dotted name, is called."""
    module, _, name = place.rpartition(".")

    def die(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if rank == victim:
        setattr(pkgutil.resolve_name(module), name, die)


def fewer_scenes(rank: int, *, victim: int) -> None:
    """One rank reads data without the first scene."""
    from bsap.datamodules import RefCOCODataModule

    setup = RefCOCODataModule.setup

    def other(self: RefCOCODataModule, stage: str) -> None:
        setup(self, stage)
        if rank == victim:
            self.scenes = self.scenes[1:]

    RefCOCODataModule.setup = other  # type: ignore[method-assign]


def slow_loading(rank: int, *, log: str) -> None:
    """Loading a model takes a while; its begin and end are noted."""
    import bsap.module

    load: Any = bsap.module.load_model

    def note(text: str) -> None:
        with Path(log).open("a") as file:
            file.write(f"{text} {rank}\n")

    def slow_load(config: Any) -> Any:
        note("begin")
        time.sleep(0.3)
        encoder = load(config)
        note("end")
        return encoder

    bsap.module.load_model = slow_load


def own_group(rank: int) -> None:
    """Each rank leads a process group of its own."""
    os.setpgid(0, 0)


def small_files(rank: int, *, size: int) -> None:
    """No file can grow beyond a size: writing fails in the middle of a record, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def peak_memory(rank: int, *, log: str) -> None:
    """Note the peak of the resident memory, in KiB, after every test step."""
    from bsap.module import BSAPModule

    step = BSAPModule.test_step

    def test_step(self: BSAPModule, batch: Any, batch_idx: int) -> Any:
        found = step(self, batch, batch_idx)
        lines = Path("/proc/self/status").read_text().splitlines()
        with Path(log).open("a") as file:
            print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=file)
        return found

    BSAPModule.test_step = test_step  # type: ignore[method-assign]


def worse_after_the_best_epoch(rank: int) -> None:
    """Learned prompts change after the best epoch; a digest of what each rank holds in the end is written."""
    from bsap.learning.run_folder import LearningFolder

    end = LearningFolder.on_fit_end

    def on_fit_end(self: Any, trainer: Any, module: Any) -> None:
        module.learner.prompts.context.data += 1.0 + trainer.global_rank
        end(self, trainer, module)
        digest = hashlib.sha256(module.learner.prompts.context.detach().numpy().tobytes()).hexdigest()
        Path(trainer.default_root_dir, f"hash{trainer.global_rank}").write_text(digest)

    LearningFolder.on_fit_end = on_fit_end  # type: ignore[method-assign]


def not_finite(rank: int, *, victim: int) -> None:
    """The region features of one rank's validation batches are NaN."""
    from bsap.learning.module import PromptLearner

    step = PromptLearner.validation_step

    def validation_step(self: PromptLearner, batch: Any, batch_idx: int) -> None:
        if rank == victim and batch is not None:
            batch.regions.fill_(float("nan"))
        step(self, batch, batch_idx)

    PromptLearner.validation_step = validation_step  # type: ignore[method-assign]


def waiting(rank: int, *, log: str, first_note: float = 60) -> None:
    """Make a file when the process begins to wait for the others, and let it say soon for whom."""
    from bsap.runs import startup

    begin = startup.StartWatch.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        Path(log).touch()

    startup.FIRST_NOTE = first_note
    startup.StartWatch.__init__ = noted  # type: ignore[method-assign]


def note_texts(rank: int, *, log: str, fails: int | None = None) -> None:
    """Note the texts that each rank encodes, in files of its own; one rank may fail at it."""
    import json

    from bsap.errors import ModelError
    from bsap.models.interface import DualEncoder

    encode = DualEncoder.encode_text

    def encode_text(self: DualEncoder, texts: Any, **options: Any) -> Any:
        if rank == fails:
            raise ModelError("the text tower is broken")
        with Path(f"{log}{rank}").open("a") as file:
            print(json.dumps(list(texts)), file=file)
        return encode(self, texts, **options)

    DualEncoder.encode_text = encode_text  # type: ignore[method-assign]
