"""Learning without pictures: other sentences stand in for regions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bsap.datamodules.files import read_bytes
from bsap.datamodules.records import SplitRecords
from bsap.errors import DataError, check_number, unknown
from bsap.learning.batch import Example
from bsap.prompts.equal_texts import normalise_text


@dataclass(frozen=True)
class TextConfig:
    """Learning from text alone.

    Attributes:
        regions: stand-ins in a pseudo-scene, at least 2; the referents of the picture come first, then others.
        dropout: share of words that the stand-in of a single sentence loses, 0 to 1.
        gap: the modality gap that a projector ignores: ``none``; ``regions``, the mean of the regions of
            ``data.gap_expressions`` minus the mean of the texts; or a ``.safetensors`` file with a tensor ``gap`` (D,).
        mu: how strongly the gap is ignored, at least 0.
        rho: how close the projector stays to the identity; positive.

    Raises:
        ConfigError: for a value out of its range.
    """

    regions: int = 8
    dropout: float = 0.3
    gap: str = "none"
    mu: float = 1e3
    rho: float = 1.0

    def __post_init__(self) -> None:
        check_number("model.text.regions", self.regions, least=2)
        check_number("model.text.dropout", self.dropout, most=1)
        check_number("model.text.mu", self.mu)
        check_number("model.text.rho", self.rho, above=True)
        if self.gap not in ("none", "regions") and not self.gap.endswith(".safetensors"):
            raise unknown("modality gap (`model.text.gap`)", self.gap, ("none", "regions", "FILE.safetensors"))


@dataclass(frozen=True)
class TextScene:
    """The texts about one picture.

    Attributes:
        id: the picture's name, or the line of a text file.
        referents: the expressions of each referent; one without another, apart from case and spaces, is paired with
            itself after word-dropout.
    """

    id: str
    referents: tuple[tuple[str, ...], ...]


def text_scenes(records: SplitRecords) -> list[TextScene]:
    """A split's expressions by picture and referent, in annotation order; reads no picture."""
    found: dict[str, dict[str, list[str]]] = {}
    for expression in records.expressions:
        referents = found.setdefault(expression.referent.image_id, {})
        referents.setdefault(expression.referent.id, []).append(expression.text)
    return [
        TextScene(records.pictures[image].file_name, tuple(tuple(texts) for texts in referents.values()))
        for image, referents in found.items()
    ]


def read_texts(file: Path) -> list[TextScene]:
    """A text file, one sentence a line, each standing for a picture of its own.

    Raises:
        DataError: if it cannot be read, a line is empty, or there are fewer than two sentences.
    """
    data = read_bytes(file, what="text file", fix="Set `--data.text_file` to a file that exists.")
    try:
        lines = data.decode("utf-8-sig").splitlines()  # editors on Windows put a mark before the first line
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError(f"{file}, line {number}: empty. Remove it. Every line must be one sentence.")
    if len({normalise_text(line) for line in lines}) < 2:
        raise DataError(f"{file}: needs at least two different sentences, but holds {len(lines)} lines.")
    return [TextScene(f"{file.name}:{number}", ((line.strip(),),)) for number, line in enumerate(lines, 1)]


def check_lengths(scenes: Sequence[TextScene], longest: int, count: Callable[[str], int]) -> None:
    """Raise a DataError for the first text of more than ``longest`` tokens, with start and end, as ``count`` says."""
    for scene in scenes:
        for text in (text for texts in scene.referents for text in texts):
            if (tokens := count(text)) > longest:
                raise DataError(
                    f"{scene.id}: {text[:60]!r} is {tokens} tokens long, but the model reads {longest}; shorten it."
                )


def drop_words(text: str, share: float, rng: random.Random) -> str:
    """The text without some of its words; at least one word is kept, and at least one of several is dropped.

    Example:
        >>> drop_words("the big red cup", 0.5, random.Random(1))
        'big red'
    """
    words = text.split()
    if len(words) < 2:
        return text
    kept = [word for word in words if rng.random() >= share]
    if len(kept) == len(words):
        kept.pop(rng.randrange(len(kept)))
    return " ".join(kept) or rng.choice(words)


class PseudoScenes:
    """Makes pseudo-scenes: texts as stand-ins for regions, and other expressions of the same referents as queries.

    A stand-in is never its own query. If a stand-in is right for a query, all stand-ins with the same text are. Queries
    with the text of a stand-in are left out.

    Args:
        scenes: the texts of a split; referents of other scenes fill up a scene.
        config: the settings.
        features: from texts without template to (N, D) unit vectors.
        seed: of all random choices, which also depend on the epoch and the scene, and on nothing else.
    """

    def __init__(
        self, scenes: Sequence[TextScene], config: TextConfig, features: Callable[[Sequence[str]], Tensor], *, seed: int
    ) -> None:
        self.config, self.features, self.seed = config, features, seed
        self.referents = [texts for scene in scenes for texts in scene.referents]

    @property
    def expressions(self) -> int:
        """All texts."""
        return sum(map(len, self.referents))

    @property
    def unpaired(self) -> int:
        """Number of texts that cannot be a query: a single word, and the only text about its referent."""
        return sum(len(texts) for texts in self.referents if len(d := _distinct(texts)) < 2 and len(d[0].split()) < 2)

    def example(self, scene: TextScene, epoch: int) -> Example | None:
        """The pseudo-scene of a scene in an epoch, with regions (1, R, D); None if no query is left."""
        rng = random.Random(f"{self.seed}/{epoch}/{scene.id}")
        own = list(scene.referents)
        rng.shuffle(own)
        own = own[: self.config.regions]
        others = rng.choices(self.referents, k=self.config.regions - len(own))
        pairs = [self._pair(texts, rng) for texts in (*own, *others)]
        stand_ins = [normalise_text(stand_in) for stand_in, _ in pairs]
        queries = [(stand_in, query) for stand_in, query in pairs[: len(own)] if normalise_text(query) not in stand_ins]
        if not queries:
            return None
        iou = torch.tensor(
            [[float(other == normalise_text(stand_in)) for other in stand_ins] for stand_in, _ in queries]
        )
        regions = self.features([stand_in for stand_in, _ in pairs])[None]
        return Example(scene.id, tuple(query for _, query in queries), regions, iou)

    def _pair(self, texts: tuple[str, ...], rng: random.Random) -> tuple[str, str]:
        """A stand-in and a query of one referent."""
        distinct = _distinct(texts)
        if len(distinct) == 1:
            return drop_words(distinct[0], self.config.dropout, rng), distinct[0]
        stand_in, query = rng.sample(distinct, 2)
        return stand_in, query


def _distinct(texts: Sequence[str]) -> list[str]:
    """The texts that differ in more than case and spaces."""
    return list({normalise_text(text): text for text in texts}.values())
