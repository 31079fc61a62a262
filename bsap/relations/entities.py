"""From the parse of a sentence to what it is about, with its relations to other objects and its superlatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bsap.prompts.sentences import Sentence
from bsap.relations.settings import Relations

RELATIONS: Mapping[str, frozenset[str]] = {
    "left": frozenset(("left", "west")),
    "right": frozenset(("right", "east")),
    "above": frozenset(("above", "north", "top", "back", "behind")),
    "below": frozenset(("below", "south", "under", "front")),
    "bigger": frozenset(("bigger", "larger", "closer")),
    "smaller": frozenset(("smaller", "tinier", "further")),
    "inside": frozenset(("inside", "within", "contained")),
}
"""ReCLIP's words for each relation of an object to another; the first group that matches counts."""

SUPERLATIVES: Mapping[str, frozenset[str]] = {
    "left": frozenset(("left", "west", "leftmost", "western")),
    "right": frozenset(("right", "rightmost", "east", "eastern")),
    "above": frozenset(("above", "north", "top")),
    "below": frozenset(("below", "south", "underneath", "front")),
    "bigger": frozenset(("bigger", "biggest", "larger", "largest", "closer", "closest")),
    "smaller": frozenset(("smaller", "smallest", "tinier", "tiniest", "further", "furthest")),
}
"""ReCLIP's words that set an object apart from all others like it."""

NOTHING = frozenset(("part", "image", "side", "picture", "half", "region", "section"))
"""Nouns that name no object of their own: "the left side" is a place."""

BETWEEN = "between"

_RELATION_WORDS = frozenset().union(*RELATIONS.values())
_SUPERLATIVE_WORDS = frozenset().union(*SUPERLATIVES.values())

Status = Literal[
    "used", "noun_phrase", "plain", "nothing_found", "no_entity", "many_entities", "empty", "unparsed", "language"
]
"""What became of a sentence.

``used``: relations or superlatives were found. ``noun_phrase``: none were, but the sentence is also scored by its noun
phrase (``published`` only). All others are scored as they are. ``plain`` has no word of place or size;
``nothing_found`` has one that leads to nothing, such as a relation without a second object; ``no_entity`` has no noun
phrase to start from; ``many_entities`` has more than the setting allows; ``empty`` has no word; ``unparsed`` is what
the pipeline failed on; ``language`` is a sentence of a pipeline that is not English."""


@dataclass(frozen=True)
class Entity:
    """An object that a sentence names.

    Attributes:
        text: its noun phrase; as published, with the last other object that hangs on it by no known relation: "ear of
            the dog".
        relations: in the order of the sentence.
        superlatives: names of :data:`SUPERLATIVES`.
    """

    text: str
    relations: tuple[Relation, ...] = ()
    superlatives: tuple[str, ...] = ()

    def all(self) -> Iterator[Entity]:
        """This entity, then those of its relations, each followed by its own."""
        yield self
        for relation in self.relations:
            for other in relation.others:
                yield from other.all()

    def names(self) -> Iterator[str]:
        """The names of all relations, and of all superlatives as ``most NAME``."""
        for entity in self.all():
            yield from (relation.name for relation in entity.relations)
            yield from (f"most {name}" for name in entity.superlatives)

    def joins(self) -> list[str]:
        """Each relation with its other entities, then each superlative as ``most NAME``."""
        joined = [f"{relation.name}: {' and '.join(map(str, relation.others))}" for relation in self.relations]
        return joined + [f"most {name}" for name in self.superlatives]

    def __str__(self) -> str:
        parts = ", ".join(self.joins())
        return f"{self.text} ({parts})" if parts else self.text


@dataclass(frozen=True)
class Relation:
    """What an object is to another: a name of :data:`RELATIONS` with one, or ``between`` with two."""

    name: str
    others: tuple[Entity, ...]


@dataclass(frozen=True)
class Meaning:
    """What was understood of a sentence: the status, and where its parts are scored what it is about."""

    status: Status
    entity: Entity | None = None


def understand(sentence: Sentence | None, settings: Relations = Relations()) -> Meaning:  # noqa: B008 - frozen
    """Find what a parsed sentence is about, its relations and superlatives; None is what the pipeline failed on.

    Example:
        >>> words = ("dog", "left", "of", "cat")
        >>> parse = Sentence(words, (True,) * 4, (0, 0, 1, 2), ("ROOT", "advmod", "prep", "pobj"), (), ((0, 1), (3, 4)))
        >>> str(understand(parse).entity)
        'dog (left: cat)'
    """
    if sentence is None:
        return Meaning("unparsed")
    if not sentence.words:
        return Meaning("empty")
    reader = _Reader(sentence, settings)
    if not reader.says_something():
        return Meaning("plain")
    try:
        entity = reader.start()
        count = 0 if entity is None else sum(1 for _ in entity.all())
    except RecursionError:  # a parse of thousands of words, one below the other
        return Meaning("unparsed")
    if entity is None:
        return Meaning("no_entity")
    if count > settings.entities and not settings.published:
        return Meaning("many_entities")
    if entity.relations or entity.superlatives:
        return Meaning("used", entity)
    return Meaning("noun_phrase", entity) if settings.published else Meaning("nothing_found")


def _name(groups: Mapping[str, frozenset[str]], words: Sequence[str]) -> str | None:
    """The first group that has one of the words."""
    return next((name for name, group in groups.items() if not group.isdisjoint(words)), None)


class _Reader:
    """Reads one sentence."""

    def __init__(self, sentence: Sentence, settings: Relations) -> None:
        self.sentence, self.between, self.published = sentence, settings.between, settings.published
        self.words = [word.lower() for word in sentence.words]

    def says_something(self) -> bool:
        """Whether any word is one of a relation or a superlative."""
        known = _RELATION_WORDS | _SUPERLATIVE_WORDS | ({BETWEEN} if self.between else set())
        return not known.isdisjoint(self.words)

    def start(self) -> Entity | None:
        """The entity of the root; where that is none, the one that the first noun phrase depends on."""
        heads = self.sentence.heads
        entity = self.entity(next(word for word, head in enumerate(heads) if word == head))
        if entity is None and self.sentence.chunks:
            return self.entity(heads[self.sentence.root(0)])
        return entity

    def entity(self, word: int, *, apart: int | None = None) -> Entity | None:
        """The entity of a word in a noun phrase; of a predicate whose first dependent is in one, that one's.

        The entity of the word ``apart`` stands beside this one and is no part of it.
        """
        chunk = self.sentence.chunk(word)
        if chunk is None:
            children = self.sentence.children(word)[:1]
            return self.entity(children[0]) if children and self.sentence.chunk(children[0]) is not None else None
        relations: list[Relation] = []
        superlatives: list[str] = []
        text = self.sentence.text(chunk)
        for path, other in self._found(word, chunk, ()):
            words = [self.words[place] for place in path]
            if other is not None and other == apart:
                continue
            if other is None:
                name = _name(SUPERLATIVES, words)
                superlatives += [name] if name is not None else []
            elif (relation := self._relation(words, other)) is not None:
                relations.append(relation)
            elif self.published:
                text = self._tied(chunk, other)
        return Entity(text, tuple(relations), tuple(superlatives))

    def _tied(self, chunk: int, other: int) -> str:
        """A noun phrase with another one that hangs on it: all below the other's words, and all above to the root."""
        sentence = self.sentence
        own = set(range(*sentence.chunks[chunk]))
        kept = set(own)
        for word in range(*sentence.chunks[sentence.chunk(other) or 0]):
            above = sentence.above(word)
            if own.intersection(above):
                kept.update(above, sentence.below(word))
        return " ".join(sentence.words[word] for word in sorted(kept))

    def _relation(self, words: Sequence[str], other: int) -> Relation | None:
        name = _name(RELATIONS, words)
        if name is not None:
            entity = self.entity(other)
            return None if entity is None else Relation(name, (entity,))
        joined = [child for child in self.sentence.children(other) if self.sentence.deps[child] == "conj"]
        if not (self.between and BETWEEN in words and joined):
            return None
        first, second = self.entity(other, apart=joined[0]), self.entity(joined[0])
        return None if first is None or second is None else Relation(BETWEEN, (first, second))

    def _found(self, word: int, own: int, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int | None]]:
        """Ways down the tree from a word of an entity: to another entity's word, or to where a way ends, with None.

        ``own`` is the noun phrase of the entity, and ``path`` the words on the way that may name a relation.
        """
        chunk, text = self.sentence.chunk(word), self.words[word]
        passes = text in _RELATION_WORDS or text in NOTHING
        if chunk is not None and chunk != own and not passes:
            yield path, word
            return
        children = self.sentence.children(word)
        if not children:
            yield (*path, word), None
            return
        onward = (*path, word) if chunk is None or passes or text in _SUPERLATIVE_WORDS else path
        for child in children:
            within = chunk is not None and self.sentence.chunk(child) == chunk
            if not within or self.words[child] in _SUPERLATIVE_WORDS:
                yield from self._found(child, own, onward)
            elif len(children) == 1:  # "the goat on the left": only its article hangs on "left"
                yield (*path, word), None
