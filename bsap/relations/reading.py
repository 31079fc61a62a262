"""Relations in a run: sentences are parsed, their entities scored beside them, and the scores joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from bsap.datamodules.scene import Scene
from bsap.prompts.banks import Bank
from bsap.prompts.sentences import Sentences
from bsap.relations.combine import combine, step_names
from bsap.relations.entities import Meaning, understand
from bsap.relations.settings import Relations
from bsap.relations.understood import Understood
from bsap.scoring import Scores, log_softmax_regions

Place = tuple[int, int]
"""A sentence's scene, and its place among the expressions of the scene."""

Steps = dict[Place, tuple[int | None, ...]]
"""The steps of each sentence whose parts were scored; see :class:`~bsap.relations.combine.Combined`."""

AllSteps = dict[Place, dict[str, tuple[int | None, ...]]]
"""The same for every scorer by name."""


class RelationReader:
    """Asks a scorer for the entities of sentences too, and joins what it says.

    Args:
        settings: what counts as a relation.
        folder: the feature store's folder, where parses are kept, or None.

    Attributes:
        sentences: parses.

    Raises:
        ModelError: the pipeline is not installed.
    """

    def __init__(self, settings: Relations, folder: Path | None = None) -> None:
        self.settings = settings
        self.sentences = Sentences(settings.parser, folder=folder, use="Relations")
        self._known: dict[str, Meaning] = {}
        if not self._english:
            rank_zero_warn(
                f"Pipeline {settings.parser!r} is not of English, whose words relations are found by: all sentences "
                "are scored as they are."
            )

    @property
    def _english(self) -> bool:
        return self.sentences.pipeline["language"] == "en"

    def meaning(self, text: str) -> Meaning:
        """What is understood of a sentence."""
        if not self._english:
            return Meaning("language")
        if text not in self._known:
            self._known[text] = understand(self.sentences(text), self.settings)
        return self._known[text]

    def describe(self, text: str) -> Understood:
        """What is understood of a sentence, as plain values for its record."""
        meaning = self.meaning(text)
        if (entity := meaning.entity) is None:
            return {"status": meaning.status, "entities": [], "found": [], "steps": []}
        return {
            "status": meaning.status,
            "entities": [part.text for part in entity.all()],
            "found": list(entity.names()),
            "steps": step_names(entity),
        }

    def asked(self, scenes: Sequence[Scene]) -> tuple[Scene, ...]:
        """The same scenes with the entities of their sentences as further expressions, which no metric counts."""
        if self._english:  # parse all sentences, in batches
            self.sentences.prepare(expression.text for scene in scenes for expression in scene.expressions)
        found = []
        for scene in scenes:
            parts = [
                replace(expression, text=part.text, phrase=part.text, part_of=expression.text)
                for expression in scene.expressions
                if (entity := self.meaning(expression.text).entity) is not None
                for part in entity.all()
            ]
            found.append(replace(scene, expressions=(*scene.expressions, *parts)) if parts else scene)
        return tuple(found)

    def join(self, scenes: Sequence[Scene], scores: Scores) -> tuple[Scores, Steps]:
        """Join the scores of sentences with those of their entities.

        Args:
            scenes: B scenes.
            scores: (B, E', R) of what :meth:`asked` made of them, by any scorer.

        Returns:
            (B, E, R) scores of the sentences alone, on the CPU in float64, and the steps of those that were changed. A
            sentence that no part of was scored keeps its very scores. The others rank by the logarithm of the product
            of distributions, each the softmax over regions of what the scorer ranks by; the product is their value.
        """
        most = max((len(scene.expressions) for scene in scenes), default=0)
        rank, value = scores.rank.double().cpu(), scores.value.double().cpu()
        joined = Scores(rank[:, :most].clone(), value[:, :most].clone())
        steps: Steps = {}
        for b, scene in enumerate(scenes):
            count, place = len(scene.proposals), len(scene.expressions)
            for e, expression in enumerate(scene.expressions):
                entity = self.meaning(expression.text).entity
                if entity is None:
                    continue
                size = sum(1 for _ in entity.all())
                rows = [e, *range(place, place + size)]
                place += size
                if count:
                    whole, *parts = log_softmax_regions(rank[b, rows, :count]).exp().numpy()
                    found = combine(entity, whole, parts, scene.proposals.boxes, published=self.settings.published)
                    steps[b, e] = found.steps
                    joined.value[b, e, :count] = torch.from_numpy(found.weights)
                    with np.errstate(divide="ignore"):
                        joined.rank[b, e, :count] = torch.from_numpy(np.log(found.weights))
        return joined, steps


def asked(scenes: Sequence[Scene], reader: RelationReader | None) -> tuple[Scene, ...]:
    """See :meth:`RelationReader.asked`; the very scenes without a reader."""
    return tuple(scenes) if reader is None else reader.asked(scenes)


def sentences_of(scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """The scenes of which :func:`asked` made these: without the entities of their sentences."""
    return tuple(
        replace(scene, expressions=tuple(e for e in scene.expressions if e.part_of is None)) for scene in scenes
    )


def join_all(
    reader: RelationReader | None, scenes: Sequence[Scene], scores: Mapping[str, Scores]
) -> tuple[list[Scores], AllSteps]:
    """See :meth:`RelationReader.join`, for several scorers by name; the very scores without a reader."""
    steps: AllSteps = {}
    if reader is None:
        return list(scores.values()), steps
    found = []
    for name, score in scores.items():
        joined, own = reader.join(scenes, score)
        found.append(joined)
        for place, regions in own.items():
            steps.setdefault(place, {})[name] = regions
    return found, steps


def parsers_of(reader: RelationReader | None, bank: Bank | None) -> dict[str, Sentences]:
    """What parses sentences, by what needs it: ``relations`` and ``bank``."""
    found = {
        "relations": None if reader is None else reader.sentences,
        "bank": None if bank is None else bank.sentences,
    }
    return {name: sentences for name, sentences in found.items() if sentences is not None}
