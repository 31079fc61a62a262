"""The examples of every stage: scenes with the features of their regions, or pseudo-scenes drawn from texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError, DataError
from bsap.features.ensemble import Ensemble
from bsap.learning.batch import Example, LearningBatch, scene_example
from bsap.learning.datamodule import LearningDataModule
from bsap.learning.projector import gap_projector, read_gap
from bsap.learning.pseudo_scenes import PseudoScenes, TextConfig, TextScene, check_lengths
from bsap.learning.scene_features import encode_regions, stored_regions
from bsap.models.encoder import Encoder

Stage = Literal["train", "val", "test", "gap"]


class Examples:
    """Everything that batches are made of, in memory.

    Args:
        ensemble: the model with each view.
        config: settings of learning from text alone.
        pictures: encode regions whose features are not stored; False raises an error instead.
        barrier: waits for all processes, which then share the encoding through the store; None for one process.

    Attributes:
        projector: W of :func:`~bsap.learning.projector.gap_projector`, or None if no gap is ignored.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        config: TextConfig,
        *,
        pictures: bool,
        barrier: Callable[[str], Any] | None,
    ) -> None:
        self.ensemble, self.config, self.pictures, self.barrier = ensemble, config, pictures, barrier
        self.projector: Tensor | None = None
        self._train_rows: Tensor | None = None
        self._sources: dict[Stage, Sequence[Any]] = {}
        self._examples: dict[Stage, dict[str, Example]] = {}
        self._pseudo: dict[Stage, PseudoScenes] = {}

    @property
    def text_only(self) -> bool:
        """Whether texts stand in for regions."""
        return bool(self._pseudo)

    @property
    def skipped(self) -> int:
        """Expressions of the train split that nothing is learned from: they have no right region or stand-in."""
        if (pseudo := self._pseudo.get("train")) is not None:
            return pseudo.unpaired
        examples = self._examples.get("train", {}).values()
        return sum(int((~(example.iou >= 0.5).any(-1)).sum()) for example in examples)

    def read(self, data: SceneDataModule, stages: Sequence[Stage], *, seed: int) -> None:
        """Read what the stages need; scenes that were read before are not read again.

        Args:
            data: after its ``setup``.
            stages: ``train``, ``val`` or ``test``.
            seed: of the random choices in pseudo-scenes.

        Raises:
            ConfigError: if the modality gap is to be estimated and there are no regions.
            DataError: if features are missing, a text is too long, or there is nothing to learn from.
        """
        scenes: dict[Stage, Sequence[Scene]]
        scenes = {"train": data.train_scenes, "val": data.val_scenes, "test": data.scenes}
        texts: dict[Stage, Sequence[TextScene]] = {}
        if isinstance(data, LearningDataModule) and data.text_only:
            scenes |= {"train": (), "val": (), "gap": data.gap_scenes}
            texts = {"train": data.train_texts, "val": data.val_texts}
        for stage in (*stages, *(("gap",) if "train" in stages else ())):
            source = texts.get(stage) or scenes.get(stage, ())
            if self._sources.get(stage) is source:
                continue
            self._sources[stage] = source
            if stage in texts:
                self._add_texts(stage, texts[stage], seed=seed)
            elif stage in scenes:
                self._add_scenes(stage, scenes[stage])
        self.projector = self._fit_projector()

    def _add_scenes(self, stage: Stage, scenes: Sequence[Scene]) -> None:
        if stage in ("train", "val") and not scenes:
            raise DataError(f"The data module has no {stage} scenes: its setup() must set `{stage}_scenes`.")
        if not self.pictures:
            found = stored_regions(scenes, self.ensemble, stage=stage)
        else:
            if self.barrier is not None and self.ensemble.cache is not None:
                encode_regions(scenes, self.ensemble, share=True)
                self.barrier("features")
                self.ensemble.cache.store.refresh()
            found = encode_regions(scenes, self.ensemble)
        members = self.ensemble.members
        empty = torch.zeros(len(members), 0, members[0].encoder.dim)
        self._examples[stage] = {s.image_id: scene_example(s, found.get(s.image_id, empty)) for s in scenes}
        count = sum(len(scene.expressions) for scene in scenes)
        if stage == "train" and self.skipped == count:
            raise DataError(
                f"There is nothing to learn from: none of the {count} expressions of the train split has a region with "
                "an IoU of at least 0.5. Choose other proposals (`--data.proposals`) or another `--data.train_split`."
            )

    def _add_texts(self, stage: Stage, scenes: Sequence[TextScene], *, seed: int) -> None:
        member = self.ensemble.members[0]
        encoder, template = member.encoder, member.templates.query
        assert isinstance(encoder, Encoder)
        if (encode := getattr(encoder.tokenizer, "encode", None)) is not None:
            check_lengths(scenes, encoder.context_length, lambda text: len(encode(template.format(text))) + 2)
        self._pseudo[stage] = pseudo = PseudoScenes(scenes, self.config, self._text_features, seed=seed)
        if pseudo.unpaired == pseudo.expressions:
            raise DataError(
                f"None of the {pseudo.expressions} texts of stage {stage!r} can be a query: each is a single word, and "
                "the only text about its referent. Use sentences of several words."
            )
        if stage == "train":
            self._train_rows = self._text_features([text for s in scenes for texts in s.referents for text in texts])

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        member = self.ensemble.members[0]
        return member.texts.features([member.templates.query.format(text) for text in texts]).cpu()

    def _fit_projector(self) -> Tensor | None:
        rows = self._train_rows
        if rows is None or self.config.gap == "none":
            return None
        if self.config.gap != "regions":
            gap = read_gap(Path(self.config.gap), rows.shape[1])
        else:
            regions = [example.regions.flatten(0, 1) for example in self._examples.get("gap", {}).values()]
            if not regions:
                raise ConfigError(
                    "`model.text.gap` is `regions`, but no regions are read. Set `data.gap_expressions`, or name a "
                    "file with the gap, or use `--model.text.gap none`."
                )
            gap = torch.cat(regions).mean(0) - rows.mean(0)
        return gap_projector(rows, gap, mu=self.config.mu, rho=self.config.rho)

    def batch(self, stage: Stage, items: Sequence[Scene | TextScene], *, epoch: int) -> LearningBatch:
        """A batch of some of a stage's scenes or texts.

        Args:
            stage: ``train``, ``val`` or ``test``.
            items: scenes or texts; those that nothing can be learned from are left out.
            epoch: pseudo-scenes differ from epoch to epoch.
        """
        examples = []
        for item in items:
            if isinstance(item, Scene):
                examples.append(self._examples[stage][item.image_id])
            elif (example := self._pseudo[stage].example(item, epoch)) is not None:
                rows = example.regions if self.projector is None else example.regions @ self.projector.T
                rows = rows.expand(len(self.ensemble.members), *rows.shape[1:])
                examples.append(Example(example.id, example.texts, rows, example.iou))
        return LearningBatch.of(examples)
