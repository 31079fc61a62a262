"""RefCOCO, RefCOCO+, RefCOCOg and whatever has their form, as a LightningDataModule."""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from bsap.datamodules.assemble import LoadedSplit
from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.split_reader import SplitReader


class RefCOCODataModule(SplitReader, SceneDataModule):
    """Scenes of one split, with their proposals, for ``trainer.test``.

    Each process reads all annotations and decodes only the pictures of its own share. The shares neither repeat nor
    drop a scene (:class:`~bsap.datamodules.sampler.SceneSampler`). The arguments are those of
    :class:`~bsap.datamodules.split_reader.SplitReader`.

    Attributes:
        scenes: the scenes, in annotation order of their first expression; after ``setup``.
        texts: every text of the unfiltered split, in annotation order; after ``setup``.
        summary: what was selected and what that leaves out; after ``setup``.
    """

    _loaded: LoadedSplit | None = None

    def base_settings(self, **loading: Any) -> dict[str, Any]:
        """Those that say how pictures are loaded."""
        return loading

    def note_settings(self) -> None:
        """Keep them for ``settings``, those of a subclass included."""
        self.save_hyperparameters(ignore=["proposals"], logger=False)
        self.save_hyperparameters({"proposals": dataclasses.asdict(self.proposals)}, logger=False)

    def setup(self, stage: str) -> None:
        """Read the split to test on, once."""
        if stage == "fit" or self._loaded is not None:
            return
        self._loaded = loaded = self.load(self.split)
        self.scenes, self.texts, self.summary = loaded.scenes, loaded.texts, loaded.summary
        if self.proposals.masked_only:
            single = sum(len(scene.proposals) < 2 for scene in self.scenes)
            rank_zero_warn(
                "Proposals without a mask are left out (`proposals.masked_only`), for REC as for RIS: "
                f"{single} of {len(self.scenes)} pictures keep at most one to choose from."
            )
        if loaded.absent:
            rank_zero_warn(
                f"{loaded.summary.proposals['path']} does not list {len(loaded.absent)} of {loaded.pictures} "
                f"pictures, first {', '.join(loaded.absent[:5])}: no proposals there (policy: {self.proposals.empty})."
            )
