"""Joins what a scorer says of a sentence and of its parts with the relations between the boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bsap.relations.boxes import Weights, between_weights, relation_matrix
from bsap.relations.entities import BETWEEN, Entity, Relation


@dataclass(frozen=True)
class Combined:
    """What came of a sentence.

    Attributes:
        weights: (R,) the product of the sentence's distribution and of its entity's, not normalised.
        steps: the best region of the sentence alone, then after its noun phrase, after each relation and after each
            superlative joined; None for a step that left no region.
    """

    weights: Weights
    steps: tuple[int | None, ...]


def step_names(entity: Entity) -> list[str]:
    """What each step of :func:`combine` joins.

    Example:
        >>> step_names(Entity("dog", (Relation("left", (Entity("cat"),)),), ("bigger",)))
        ['sentence', 'dog', 'left: cat', 'most bigger']
    """
    return ["sentence", entity.text, *entity.joins()]


def combine(
    entity: Entity, whole: ArrayLike, parts: Sequence[ArrayLike], boxes: ArrayLike, *, published: bool = False
) -> Combined:
    """Choose a region for a sentence by its parts.

    An entity starts with the distribution of its own noun phrase. A relation multiplies it by how far each region has
    the relation to the other entity, in expectation over the other's distribution; a superlative by how much of its own
    distribution each region surpasses. The product with the sentence's distribution decides.

    Args:
        entity: what the sentence is about.
        whole: (R,) the scorer's distribution over regions for the sentence.
        parts: the same for each of ``entity.all()``.
        boxes: (R, 4), xyxy.
        published: a relation that leaves no region makes all weights 0, so that the first region is chosen, as in
            ReCLIP's code (a division of 0 by 0); otherwise it is left out.

    Source: ReCLIP's code, ``methods/parse.py``.
    """
    sentence = np.asarray(whole, np.float64)
    rows = (np.asarray(part, np.float64) for part in parts)
    if len(sentence) < 2:
        return Combined(sentence, (0,) * len(step_names(entity)))
    known = np.asarray(boxes, np.float64)
    steps: list[int | None] = [int(sentence.argmax())]
    weights = sentence
    for own, kept in _steps(entity, rows, known, published=published):
        weights = sentence * own
        steps.append(int(weights.argmax()) if kept else None)
    return Combined(weights, tuple(steps))


def _distribution(entity: Entity, rows: Iterator[Weights], boxes: Weights, *, published: bool) -> Weights:
    *_, (last, _) = _steps(entity, rows, boxes, published=published)
    return last


def _steps(
    entity: Entity, rows: Iterator[Weights], boxes: Weights, *, published: bool
) -> Iterator[tuple[Weights, bool]]:
    """An entity's distribution as each of its parts joins, and whether that left any region."""
    own = next(rows)
    yield own, bool(own.any())

    def joined(weights: Weights) -> tuple[Weights, bool]:
        total = weights.sum()
        if total > 0:
            return weights / total, True
        return (np.zeros_like(own) if published else own), False

    for relation in entity.relations:
        others = [_distribution(other, rows, boxes, published=published) for other in relation.others]
        own, kept = joined(own * _weights(relation, others, boxes))
        yield own, kept
    several = np.count_nonzero(own) > 1  # one region alone surpasses nothing, and stays
    for name in entity.superlatives:
        kept = bool(own.any())
        if several:
            own, kept = joined(own * (relation_matrix(name, boxes) @ own))
        yield own, kept


def _weights(relation: Relation, others: Sequence[Weights], boxes: Weights) -> Weights:
    if relation.name == BETWEEN:
        return between_weights(boxes, *others)
    return relation_matrix(relation.name, boxes) @ others[0]
