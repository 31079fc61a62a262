"""Ref-L4's review of RefCOCO, RefCOCO+ and RefCOCOg: which expressions of a split are label errors.

The files ``refcocos_annotation_reviewed/{dataset}_{split}_reviewed.json`` hold ``{"annotation": [...]}``, an entry for
each expression; its ``caption_quality`` is 0 where the label is wrong (Chen et al. 2024, arXiv 2406.16866;
https://huggingface.co/datasets/JierunChen/Ref-L4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bsap.datamodules.fields import Record, number
from bsap.datamodules.files import parse_json, read_bytes
from bsap.errors import DataError

_TEXTS = ("caption", "sent", "sentence", "expression", "text")


class Reviewed(NamedTuple):
    """An expression to find in a review: its id, picture and text, and x and y of its box where they are known."""

    id: str
    image_id: str
    text: str
    corner: Sequence[float] = ()


def label_errors(file: Path, expressions: Sequence[Reviewed]) -> set[str]:
    """The ids of the expressions that the review calls label errors.

    An expression is found by its picture and its words, whatever their case and punctuation; among several, as two
    objects of a picture may be described alike, by the nearest box.

    Args:
        file: a ``*_reviewed.json``; it may hold more expressions.
        expressions: all must be in the file.

    Raises:
        DataError: for a file of another form, or of another split.
    """
    name = str(file)
    data = read_bytes(file, what="review", fix="Name one of Ref-L4's files *_reviewed.json.")
    entries: dict[tuple[str, str], list[tuple[list[float], bool]]] = {}
    for n, item in enumerate(Record(parse_json(data, name), name).items("annotation"), start=1):
        entry = Record(item, f"{name}, annotation {n}")
        text = entry.text(next((key for key in _TEXTS if key in entry), _TEXTS[0]))
        box = [number(value, f"{entry.where}, 'bbox'") for value in entry.items("bbox")[:2]] if "bbox" in entry else []
        wrong = number(entry["caption_quality"], f"{entry.where}, 'caption_quality'") == 0
        entries.setdefault((entry.identity("image_id"), _words(text)), []).append((box, wrong))
    found, lost = set(), []
    for expression in expressions:
        alike = entries.get((expression.image_id, _words(expression.text)), [])
        if not alike:
            lost.append(expression)
        elif min(alike, key=lambda entry: _distance(entry[0], expression.corner))[1]:
            found.add(expression.id)
    if lost:
        raise DataError(
            f"{name}: {len(lost)} of {len(expressions)} expressions are not in this review, first {lost[0].id} "
            f"({lost[0].text!r}). Name the file of the same data set and split."
        )
    return found


def _words(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    """How far apart two corners are; the same for all where one is not known."""
    return sum(abs(p - q) for p, q in zip(a, b, strict=False))
