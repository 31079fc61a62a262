"""What prompts are learned from: the scenes, or the texts alone, of a train and a validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler

from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.assemble import LoadedSplit
from bsap.datamodules.records import SplitRecords
from bsap.datamodules.sampler import SceneSampler
from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError, DataError
from bsap.learning.pseudo_scenes import TextScene, read_texts, text_scenes
from bsap.runs.settings import digest

Item = Scene | TextScene
Collate = Callable[[str, Sequence[Item]], Any]


class LearningDataModule(RefCOCODataModule):
    """Scenes without pictures, for ``trainer.fit``, ``validate`` and ``test``.

    Batches are what the learner makes of scenes (:attr:`collate`): it has their features. Training shards are of equal
    length on all processes; those of validation and test neither repeat nor drop a scene.

    Args:
        root: the folder that holds the annotations; may be left out for a plain text file.
        proposals: which regions are learned from; may be left out where no region is looked at.
        train_split: the split to learn from.
        val_split: the split that chooses the best epoch.
        text_only: learn from the splits' expressions alone; no picture and no region is read.
        text_file: learn from this text file, one sentence a line; implies ``text_only``.
        val_text_file: the text file that chooses the best epoch; by default the last tenth of ``text_file``.
        gap_expressions: with ``text_only``: the modality gap is estimated from the regions of the pictures of so many
            first expressions of the train split; 0 looks at none.
        batch_size: scenes per batch and process.
        **kwargs: of the data module for ``bsap test``; ``split`` is what ``trainer.test`` tests on.

    Attributes:
        train_items: what is learned from; after ``setup("fit")``.
        val_items: what chooses the best epoch; after ``setup("fit")`` or ``setup("validate")``.
        gap_scenes: scenes for the gap; after ``setup("fit")``.
        sources: for each stage that was read, digests of its expressions and of the file that its regions come from.
        collate: makes a batch of one of the stages ``train``, ``val`` and ``test``; set by the learner.

    Raises:
        ConfigError: for settings that contradict each other.
        DataError: if a split does not exist.
    """

    train_items: Sequence[Item]
    val_items: Sequence[Item]

    def __init__(
        self,
        root: str = "",
        proposals: ProposalConfig | None = None,
        *,
        train_split: str = "train",
        val_split: str = "val",
        text_only: bool = False,
        text_file: str | None = None,
        val_text_file: str | None = None,
        gap_expressions: int = 0,
        batch_size: int = 16,
        **kwargs: Any,
    ) -> None:
        self.text_only = text_only or text_file is not None
        self.sees_regions = not self.text_only or gap_expressions > 0
        if proposals is None and not self.sees_regions:
            proposals = ProposalConfig("ground_truth")  # never read
        if not root and (text_file is None or gap_expressions):
            raise ConfigError("`data.root` is missing: the folder that holds the annotations.")
        if val_text_file is not None and text_file is None:
            raise ConfigError("`data.val_text_file` needs `data.text_file`.")
        super().__init__(root, proposals, batch_size=batch_size, **kwargs)  # type: ignore[arg-type]
        self.train_split, self.val_split = train_split, val_split
        self.text_file, self.val_text_file, self.gap_expressions = text_file, val_text_file, gap_expressions
        if val_split == train_split and text_file is None:
            rank_zero_warn(
                f"`data.train_split` and `data.val_split` are both {val_split!r}: the best epoch is chosen on what was "
                "learned by heart."
            )
        self.gap_scenes: list[Scene] = []
        self.sources: dict[str, dict[str, Any]] = {}
        self.collate: Collate = lambda stage, items: list(items)
        self._read: set[str] = set()

    def setup(self, stage: str) -> None:
        """Read what the stage needs, once."""
        if stage == "test":
            super().setup(stage)
            if self.split in (self.train_split, self.val_split):
                rank_zero_warn(
                    f"`data.split` is {self.split!r}, which prompts are learned from (`data.train_split`) or chosen on "
                    "(`data.val_split`): its accuracy is no test."
                )
        elif stage in ("fit", "validate") and stage not in self._read:
            self._read.add(stage)
            self._read_splits(stage)

    def _read_splits(self, stage: str) -> None:
        if self.text_file is not None:
            train = self._lines("train", self.text_file)
            held = -(-len(train) // 10)
            val = None if self.val_text_file is None else self._lines("val", self.val_text_file)
            self.train_items, self.val_items = (train[:-held], train[-held:]) if val is None else (train, val)
        else:
            read = self._texts if self.text_only else self._scenes
            self.val_items = read("val", self.val_split)
            if stage == "fit":
                self.train_items = read("train", self.train_split)
        if stage == "fit" and self.gap_expressions:
            whole, self.selection = self.selection, replace(self.selection, limit=self.gap_expressions)
            self.gap_scenes = self._scenes("gap", self.train_split)
            self.selection = whole

    def _lines(self, stage: str, file: str) -> list[TextScene]:
        found = read_texts(Path(file))
        self.sources[stage] = {"text_file": file, "expressions": digest([scene.referents for scene in found])}
        return found

    def _texts(self, stage: str, split: str) -> list[TextScene]:
        records: SplitRecords = self._split(split, self.read)
        said = digest([[expression.id, expression.text] for expression in records.expressions])
        self.sources[stage] = {"split": split, "sha256": records.sha256, "expressions": said}
        return text_scenes(records)

    def _scenes(self, stage: str, split: str) -> list[Scene]:
        loaded: LoadedSplit = self._split(split, self.load)
        said = digest([[e.id, e.text] for scene in loaded.scenes for e in scene.expressions])
        self.sources[stage] = {"split": split, "expressions": said, "proposals": loaded.summary.proposals}
        return loaded.scenes

    def _split(self, split: str, read: Callable[[str], Any]) -> Any:
        try:
            return read(split)
        except ConfigError as error:
            if "split of" not in str(error):
                raise
            raise DataError(
                f"There is no split {split!r} to learn from. {error} Name another with `--data.train_split` and "
                "`--data.val_split`, never the split that you will test on."
            ) from error

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of this process's share, as long as every other process's."""
        running = dist.is_available() and dist.is_initialized()
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.train_items,  # type: ignore[arg-type]
            num_replicas=None if running else 1,
            rank=None if running else 0,
            shuffle=True,
            seed=self.seed,
        )
        return self._loader("train", self.train_items, sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's exact share of the validation split."""
        return self._loader("val", self.val_items, SceneSampler([_size(item) for item in self.val_items]))

    def test_dataloader(self) -> DataLoader[Any]:
        """This process's exact share of the test split."""
        return self._loader("test", self.scenes, SceneSampler([_size(item) for item in self.scenes]))

    @property
    def seed(self) -> int:
        """Of the shuffling: the global seed, so that ``seed_everything`` decides about all."""
        import os

        return int(os.environ.get("PL_GLOBAL_SEED") or 0)

    def _loader(self, stage: str, items: Sequence[Item], sampler: DistributedSampler[Any]) -> DataLoader[Any]:
        # No worker processes: the features are in memory, and copying them to workers would take longer than padding.
        return DataLoader(
            items,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=lambda found: self.collate(stage, found),
        )


def _size(item: Item) -> int:
    return len(item.proposals) if isinstance(item, Scene) else len(item.referents)
