"""What batches are made of: every scene's features and overlaps in memory, or pseudo-scenes drawn from texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError, DataError
from bsap.features.ensemble import Ensemble
from bsap.learning.batch import Example, LearningBatch, scene_example
from bsap.learning.datamodule import LearningDataModule
from bsap.learning.projector import gap_projector
from bsap.learning.pseudo_scenes import PseudoScenes, TextConfig, TextScene, check_lengths
from bsap.learning.regions import encode_regions, stored_regions
from bsap.models.encoder import Encoder


@dataclass(frozen=True)
class RegionSource:
    """Where the features of regions come from.

    Attributes:
        pictures: whether features that are not stored may be made from pictures.
        barrier: waits for all processes, which then share the encoding through the store; None for one process.
        command: of a split and a number of first expressions (None: all), what stores their features; None where there
            is no store.
    """

    pictures: bool
    barrier: Callable[[str], Any] | None
    command: Callable[[str, int | None], str | None]


class Material:
    """Features for all stages of learning.

    Args:
        ensemble: the model with each view.

    Attributes:
        projector: W of :func:`~bsap.learning.projector.gap_projector`, or None where no gap is ignored.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.projector: Tensor | None = None
        self._examples: dict[str, dict[str, Example]] = {}
        self._pseudo: dict[str, PseudoScenes] = {}
        self._text_rows: Tensor | None = None
        self._items: dict[str, list[int]] = {}

    @property
    def text_only(self) -> bool:
        """Whether texts stand in for regions."""
        return bool(self._pseudo)

    @property
    def skipped(self) -> int:
        """Expressions to learn from that teach nothing: no region is right for them, or no stand-in can be made."""
        if (pseudo := self._pseudo.get("train")) is not None:
            return pseudo.unpaired
        examples = self._examples.get("train", {}).values()
        return sum(int((~(example.iou >= 0.5).any(-1)).sum()) for example in examples)

    def check(self, stage: str, split: str) -> None:
        """Whether there is anything to learn from, or to choose the best epoch by.

        Raises:
            DataError: if not.
        """
        if (pseudo := self._pseudo.get(stage)) is not None and pseudo.unpaired == pseudo.expressions:
            raise DataError(
                f"None of the {pseudo.expressions} texts of stage {stage!r} can be a query: each is a single word, and "
                "the only thing that is said of its referent. Give sentences of several words."
            )
        examples = self._examples.get(stage, {}).values()
        count = sum(len(example.texts) for example in examples)
        if stage == "train" and count and self.skipped == count:
            raise DataError(
                f"There is nothing to learn from: none of the {count} expressions of split {split!r} has a region with "
                "an IoU of at least 0.5. Choose other proposals (`--data.proposals`) or another `--data.train_split`."
            )

    def knows(self, stage: str, items: Sequence[Scene | TextScene]) -> bool:
        """Whether a stage was added with these very items: a second run of the trainer needs no second reading."""
        return self._items.get(stage) is not None and self._items[stage] == [id(item) for item in items]

    def read(self, data: LearningDataModule, config: TextConfig, *, source: RegionSource) -> None:
        """The features of all stages that the data has read and that are not known yet.

        Args:
            data: the scenes or texts.
            config: of learning from text alone.
            source: where the features of regions come from.

        Raises:
            DataError: if features are missing, or there is nothing to learn from.
        """
        stages = {
            "train": ("train_items", data.train_split),
            "val": ("val_items", data.val_split),
            "test": ("scenes", data.split),
            "gap": ("gap_scenes", data.train_split),
        }
        for stage, (name, split) in stages.items():
            items = list(getattr(data, name, ()))
            if not items or self.knows(stage, items):
                continue
            if isinstance(items[0], TextScene):
                self.add_texts(stage, items, config, seed=data.seed)
            else:
                limit = data.gap_expressions if stage == "gap" else None
                self.add_scenes(stage, items, split, source, limit=limit)
            self.check(stage, split)
        self.fit_projector(config)

    def add_scenes(
        self, stage: str, scenes: list[Scene], split: str, source: RegionSource, *, limit: int | None = None
    ) -> None:
        """Read or make the features of a stage's scenes.

        Args:
            stage: ``train``, ``val``, ``test`` or ``gap``.
            scenes: the scenes.
            split: their split, for messages.
            source: where features come from.
            limit: the scenes are of so many first expressions; None: of all.

        Raises:
            DataError: if features are missing.
        """
        if not source.pictures:
            found = stored_regions(scenes, self.ensemble, split=split, command=lambda: source.command(split, limit))
        else:
            if source.barrier is not None and (cache := self.ensemble.cache) is not None:
                encode_regions(scenes, self.ensemble, share=True)
                source.barrier("features")
                cache.store.refresh()
            found = encode_regions(scenes, self.ensemble)
        members = self.ensemble.members
        empty = torch.zeros(len(members), 0, members[0].encoder.dim)
        self._items[stage] = [id(item) for item in scenes]
        self._examples[stage] = {s.image_id: scene_example(s, found.get(s.image_id, empty)) for s in scenes}

    def add_texts(self, stage: str, scenes: list[TextScene], config: TextConfig, *, seed: int) -> None:
        """Make a stage of texts alone.

        Raises:
            DataError: for a text that the model would cut.
        """
        member = self.ensemble.members[0]
        encoder, template = member.encoder, member.templates.query
        assert isinstance(encoder, Encoder)
        if (encode := getattr(encoder.tokenizer, "encode", None)) is not None:
            check_lengths(scenes, encoder.context_length, lambda text: len(encode(template.format(text))) + 2)

        def features(texts: Sequence[str]) -> Tensor:
            return member.texts.features([template.format(text) for text in texts]).cpu()

        self._items[stage] = [id(item) for item in scenes]
        self._pseudo[stage] = PseudoScenes(scenes, config, features, seed=seed)
        if stage == "train":
            self._text_rows = features([text for scene in scenes for texts in scene.referents for text in texts])

    def fit_projector(self, config: TextConfig) -> None:
        """Fit W to the texts to learn from and to the gap, where one is to be ignored.

        Raises:
            ConfigError: if the gap is to be estimated and there are no regions.
        """
        if self._text_rows is None or config.gap == "none":
            return
        if config.gap == "regions":
            rows = [example.regions.flatten(0, 1) for example in self._examples.get("gap", {}).values()]
            if not rows:
                raise ConfigError(
                    "The modality gap is to be estimated from regions, but none are read: set `data.gap_expressions`, "
                    "give `model.text.gap` a file, or switch it off with `--model.text.gap none`."
                )
            gap = torch.cat(rows).mean(0) - self._text_rows.mean(0)
        else:
            gap = read_gap(Path(config.gap), self._text_rows.shape[1])
        self.projector = gap_projector(self._text_rows, gap, mu=config.mu, rho=config.rho)

    def collate(self, stage: str, items: Sequence[Scene | TextScene], *, epoch: int) -> LearningBatch | None:
        """A batch of a stage's items; where none of them can be learned from, an empty one to train on, else None."""
        examples = []
        for item in items:
            if isinstance(item, Scene):
                examples.append(self._examples[stage][item.image_id])
            elif (example := self._pseudo[stage].example(item, epoch)) is not None:
                rows = example.regions if self.projector is None else example.regions @ self.projector.T
                rows = rows.expand(len(self.ensemble.members), *rows.shape[1:])
                examples.append(Example(example.id, example.texts, rows, example.iou))
        if not examples:
            return LearningBatch.empty() if stage == "train" else None
        return LearningBatch.of(examples)


def read_gap(path: Path, dim: int) -> Tensor:
    """The tensor ``gap`` (D,) of a ``.safetensors`` file.

    Raises:
        DataError: if there is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        gap = load_file(path).get("gap")
    except (OSError, SafetensorError) as error:
        raise DataError(f"The modality gap {path} cannot be read: {error}.") from error
    if gap is None or tuple(gap.shape) != (dim,):
        got = "no such tensor" if gap is None else tuple(gap.shape)
        raise DataError(f"The modality gap {path}: expected a tensor `gap` of shape ({dim},), but got {got}.")
    return gap.float()
