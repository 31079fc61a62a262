"""A simulated detector for drawn scenes: loose boxes and ragged masks, misses, duplicates and false alarms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bsap.demo.draw import DrawnScene, Mask, Thing
from bsap.demo.kinds import CATEGORIES

# Pixels around a thing's box into which its mask may grow or move.
_ROOM = 24


class Detection(NamedTuple):
    """One proposal: a category's name, a box x, y, width, height, a mask of its own, and a score from 0 to 1."""

    category: str
    bbox: tuple[float, float, float, float]
    mask: Mask
    score: float


def detect(scene: DrawnScene, rng: np.random.Generator) -> list[Detection]:
    """What a detector of medium quality would find in a scene, best scores first.

    Boxes and masks have independent errors. Small and hidden things are missed more often, some are found twice, and
    one or two regions in a scene show no object.

    Example:
        >>> from bsap.demo.draw import draw_scene
        >>> found = detect(draw_scene(3, 0), np.random.default_rng(0))
        >>> all(a.score >= b.score for a, b in zip(found, found[1:]))
        True
    """
    found = []
    for thing in scene.things:
        hidden = 1 - thing.area / thing.whole
        missed = 0.04 + 0.25 * hidden + (0.08 if thing.area < 500 else 0.0)
        if rng.random() < missed:
            continue
        found.append(_seen(thing, 0.07, float(rng.normal(0.86 - 0.3 * hidden, 0.08)), rng))
        if rng.random() < 0.15:
            found.append(_seen(thing, 0.16, float(rng.normal(0.55, 0.12)), rng))
    found += [_false_alarm(scene.picture.size, rng) for _ in range(int(rng.poisson(1.5)))]
    return sorted((item for item in found if item.mask.any()), key=lambda item: -item.score)


def _score(value: float) -> float:
    return round(min(0.99, max(0.01, value)), 3)


def _bbox(edges: NDArray[np.float64], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Edges x0, y0, x1, y1 kept inside the picture, at least two pixels apart, as x, y, width, height."""
    first = np.clip(edges[:2], 0, np.array(size) - 2)
    last = np.clip(edges[2:], first + 2, size)
    x, y, w, h = (round(float(value), 2) for value in (*first, *(last - first)))
    return x, y, w, h


def _seen(thing: Thing, looseness: float, score: float, rng: np.random.Generator) -> Detection:
    """A detected thing, its edges wrong by a share of its size."""
    height, width = thing.mask.shape
    x0, y0, x1, y1 = thing.box
    off = rng.normal(0, looseness, 4) * np.array([x1 - x0, y1 - y0] * 2)
    return Detection(
        thing.category, _bbox(np.array(thing.box) + off, (width, height)), _ragged(thing, looseness, rng), _score(score)
    )


def _ragged(thing: Thing, looseness: float, rng: np.random.Generator) -> Mask:
    """The thing's mask grown or shrunk, slightly moved, and sometimes with a part missing."""
    x0, y0, x1, y1 = (int(edge) for edge in thing.box)
    # Only a window: filtering the whole picture would cost more than drawing it.
    left, top = max(0, x0 - _ROOM), max(0, y0 - _ROOM)
    window = np.s_[top : y1 + _ROOM, left : x1 + _ROOM]
    image = Image.fromarray(thing.mask[window].astype(np.uint8) * 255)
    size = int(rng.choice((1, 3, 5)))
    grown = rng.random() < 0.6
    if size > 1:  # a filter of size 1 would change nothing, and ends the interpreter with some releases of Pillow
        image = image.filter(ImageFilter.MaxFilter(size) if grown else ImageFilter.MinFilter(size))
    dx, dy = (round(float(rng.normal(0, looseness / 2)) * extent) for extent in (x1 - x0, y1 - y0))
    moved = image.transform(image.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy))
    mask = np.zeros_like(thing.mask)
    mask[window] = np.asarray(moved) > 127
    if rng.random() < 0.15:
        mask[round(y0 + (y1 - y0) * rng.uniform(0.55, 0.9)) :] = False
    return mask


def _false_alarm(size: tuple[int, int], rng: np.random.Generator) -> Detection:
    """A region without an object."""
    width, height = size
    w, h = rng.uniform(20, 110, 2)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    mask = Image.new("1", size)
    ImageDraw.Draw(mask).ellipse((x, y, x + w, y + h), fill=1)
    bbox = _bbox(np.array([x, y, x + w, y + h]), size)
    category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
    return Detection(category, bbox, np.array(mask), _score(float(rng.uniform(0.05, 0.6))))
