"""What a record says of the relations of its sentence; a file of its own, since readers of records need no NumPy."""

from __future__ import annotations

from typing import TypedDict


class Understood(TypedDict):
    """What the relations of a sentence are, see :mod:`bsap.relations.entities`.

    ``entities``: the noun phrases that were scored. ``found``: names of relations, and of superlatives as
    ``most NAME``. ``steps``: what joined, first the sentence itself.
    """

    status: str
    entities: list[str]
    found: list[str]
    steps: list[str]
