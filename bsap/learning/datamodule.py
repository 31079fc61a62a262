"""The data that prompts are learned from: scenes or texts, of a train and a validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.assemble import LoadedSplit
from bsap.datamodules.loader import training_loader, validation_loader
from bsap.datamodules.records import SplitRecords
from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError, DataError
from bsap.learning.pseudo_scenes import TextScene, read_texts, text_scenes
from bsap.runs.overlaps import need_one_answer
from bsap.runs.settings import digest


class LearningDataModule(RefCOCODataModule):
    """A train and a validation split for ``trainer.fit`` and ``trainer.validate``, a test split for ``trainer.test``.

    Args:
        root: the folder that holds the annotations; not needed for a plain text file.
        proposals: the regions to learn from; not needed where no region is used.
        train_split: the split to learn from.
        val_split: the split that chooses the best epoch.
        text_only: learn from the expressions of the splits alone; no picture and no region is read.
        text_file: learn from this text file instead, one sentence a line; implies ``text_only``.
        val_text_file: the text file that chooses the best epoch; by default the last tenth of ``text_file``.
        gap_expressions: with ``text_only``: estimate the modality gap from the regions of the pictures of this many
            first expressions of the train split; 0 uses none.
        batch_size: scenes per batch and process.
        **kwargs: as for ``bsap test``; ``split`` is the split of ``trainer.test``.

    Attributes:
        train_texts: the texts to learn from, with ``text_only``; after ``setup("fit")``.
        val_texts: the texts that choose the best epoch, with ``text_only``; after ``setup("fit")``.
        gap_scenes: the scenes that the modality gap is estimated from; after ``setup("fit")``.
        sources: for each part that was read, digests of its expressions and of the file of its regions.

    Raises:
        ConfigError: for settings that contradict each other.
        DataError: if a split does not exist.
    """

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
        self.uses_regions = not self.text_only or gap_expressions > 0
        if not root and (text_file is None or gap_expressions):
            raise ConfigError("`data.root` is missing. Set it to the folder that holds the annotations.")
        if val_text_file is not None and text_file is None:
            raise ConfigError("`data.val_text_file` needs `data.text_file`.")
        # What is never read may be left out; what is missing is refused by the base class.
        regions: Any = ProposalConfig("ground_truth") if proposals is None and not self.uses_regions else proposals
        super().__init__(root, regions, batch_size=batch_size, **kwargs)
        self.train_split, self.val_split = train_split, val_split
        self.text_file, self.val_text_file, self.gap_expressions = text_file, val_text_file, gap_expressions
        if val_split == train_split and text_file is None:
            rank_zero_warn(
                f"`data.train_split` and `data.val_split` are both {val_split!r}, so the best epoch is chosen on the "
                "training data. Choose another validation split."
            )
        self.train_texts: Sequence[TextScene] = ()
        self.val_texts: Sequence[TextScene] = ()
        self.gap_scenes: Sequence[Scene] = ()
        self.sources: dict[str, dict[str, Any]] = {}

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, each once."""
        if stage == "test":
            super().setup(stage)
            if self.split in (self.train_split, self.val_split):
                rank_zero_warn(
                    f"`data.split` is {self.split!r}, which prompts are learned from (`data.train_split`) or chosen on "
                    "(`data.val_split`). Its accuracy is not a test result."
                )
        if stage in ("fit", "validate"):
            if self.text_file is not None:
                self._read_text_files(self.text_file)
            else:
                self._read("val", self.val_split)
                if stage == "fit":
                    self._read("train", self.train_split)
        if stage == "fit" and self.gap_expressions and "gap" not in self.sources:
            whole, self.selection = self.selection, replace(self.selection, limit=self.gap_expressions)
            self.gap_scenes = self._scenes("gap", self.train_split)
            self.selection = whole

    def _read_text_files(self, file: str) -> None:
        if "train" in self.sources:
            return
        found = self._lines("train", file)
        if self.val_text_file is not None:
            self.train_texts, self.val_texts = found, self._lines("val", self.val_text_file)
        else:
            kept = len(found) - -(-len(found) // 10)
            self.train_texts, self.val_texts = found[:kept], found[kept:]

    def _read(self, part: str, split: str) -> None:
        if part in self.sources:
            return
        texts: Sequence[TextScene] = self._texts(part, split) if self.text_only else ()
        scenes: Sequence[Scene] = () if self.text_only else self._scenes(part, split)
        if part == "train":
            self.train_texts, self.train_scenes = texts, scenes
        else:
            self.val_texts, self.val_scenes = texts, scenes

    def _lines(self, part: str, file: str) -> list[TextScene]:
        found = read_texts(Path(file))
        self.sources[part] = {"text_file": file, "expressions": digest([scene.referents for scene in found])}
        return found

    def _texts(self, part: str, split: str) -> list[TextScene]:
        records: SplitRecords = self._split(split, self.read)
        texts = digest([[expression.id, expression.text] for expression in records.expressions])
        self.sources[part] = {"split": split, "sha256": records.sha256, "expressions": texts}
        return text_scenes(records)

    def _scenes(self, part: str, split: str) -> list[Scene]:
        loaded: LoadedSplit = self._split(split, self.load)
        need_one_answer(expression for scene in loaded.scenes for expression in scene.expressions)
        texts = digest([[e.id, e.text] for scene in loaded.scenes for e in scene.expressions])
        self.sources[part] = {"split": split, "expressions": texts, "proposals": loaded.summary.proposals}
        return loaded.scenes

    def _split(self, split: str, read: Callable[[str], Any]) -> Any:
        try:
            return read(split)
        except ConfigError as error:
            if "split of" not in str(error):
                raise
            raise DataError(
                f"There is no split {split!r} to learn from. {error} Name another one with `--data.train_split` and "
                "`--data.val_split`, never the split that you will test on."
            ) from error

    def train_dataloader(self) -> DataLoader[Any]:
        """Lists of scenes, or of texts with ``text_only``: shuffled, and as many on every process."""
        return training_loader(self.train_texts or self.train_scenes, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Lists of this process's share of the validation scenes, or texts with ``text_only``."""
        if not self.val_texts:
            return super().val_dataloader()
        weights = [len(scene.referents) for scene in self.val_texts]
        return validation_loader(self.val_texts, weights, batch_size=self.batch_size)
