"""Scenes of the drawn world: a textured background with several objects that may hide parts of each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsap.demo.kinds import CATEGORIES, PALETTE, PATTERNS, Colour
from bsap.demo.objects import draw_object

Mask = NDArray[np.bool_]

_SIZES = ((320, 240), (320, 240), (320, 240), (240, 320), (300, 225), (320, 214))
# Attributes are long-tailed, as they are in text from the web: a few kinds are frequent, and each kind has its usual
# colours. The exponents are small, so that a training run sees even the rarest pair.
_CATEGORY_WEIGHTS = np.arange(1, len(CATEGORIES) + 1, dtype=np.float64) ** -0.5
_COLOUR_WEIGHTS = np.arange(1, len(PALETTE) + 1, dtype=np.float64) ** -0.8
_PATTERN_WEIGHTS = np.array([0.68, 0.16, 0.09, 0.07])
_MIN_VISIBLE = 0.45
_MIN_AREA = 150


class World(IntEnum):
    """The first number of a scene's seed. Worlds share no scene, so that no test scene was seen in training."""

    TRAINING = 1
    CHECKING = 2
    DATASET = 3


@dataclass(frozen=True, eq=False)
class Thing:
    """One object of a scene.

    Attributes:
        category: one of :data:`~bsap.demo.kinds.CATEGORIES`.
        colour: name of its colour.
        pattern: one of :data:`~bsap.demo.kinds.PATTERNS`.
        mask: (H, W) bool, its visible pixels.
        whole: number of pixels it would have if nothing hid it.
    """

    category: str
    colour: str
    pattern: str
    mask: Mask
    whole: int

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The tightest xyxy box around the visible pixels."""
        columns, rows = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@dataclass(frozen=True, eq=False)
class DrawnScene:
    """A picture and what is in it, from back to front."""

    picture: Image.Image
    things: tuple[Thing, ...]


def _shuffled(weights: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    order = np.random.default_rng(seed).permutation(len(weights))
    shares: NDArray[np.float64] = weights[order] / weights.sum()
    return shares


# The usual colours of each kind are the same in all scenes.
_COLOURS_OF = {category: _shuffled(_COLOUR_WEIGHTS, index) for index, category in enumerate(CATEGORIES)}


def _ground(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A wall and a floor in two muted colours, with clouds, sometimes planks, and grain."""
    pixels = np.empty((height, width, 3), np.float32)
    horizon = int(height * rng.uniform(0.25, 0.75))
    wall, floor = rng.uniform(90, 205, (2, 1)) + rng.uniform(-28, 28, (2, 3))
    pixels[:horizon], pixels[horizon:] = wall, floor
    if rng.random() < 0.4:
        step = int(rng.integers(12, 32))
        pixels[horizon:, ::step] -= 24
    clouds = Image.fromarray(rng.integers(0, 256, (7, 9), dtype=np.uint8))
    # One axis at a time: which comes first decides the last grey levels, and Pillow's own order is not specified.
    for size in ((width, clouds.height), (width, height)):
        clouds = clouds.resize(size, Image.Resampling.BICUBIC)
    pixels += (np.asarray(clouds, np.float32)[..., None] - 128) * rng.uniform(0.05, 0.30)
    # Grain from one small tile: noise for every pixel would cost more than everything else.
    tile = rng.normal(0, rng.uniform(2, 9), (64, 64)).astype(np.float32)
    pixels += np.tile(tile, (height // 64 + 1, width // 64 + 1))[:height, :width, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shade(colour: Colour, rng: np.random.Generator) -> Colour:
    """The named colour as light and dye vary it."""
    light = rng.uniform(0.85, 1.12)
    red, green, blue = (int(min(255, max(0, value * light + rng.uniform(-9, 9)))) for value in colour)
    return red, green, blue


def _attributes(rng: np.random.Generator, earlier: list[Thing]) -> tuple[str, str, str]:
    """Category, colour and pattern; often of a category that the scene has already, as in RefCOCO."""
    if earlier and rng.random() < 0.45:
        category = earlier[int(rng.integers(len(earlier)))].category
    else:
        category = CATEGORIES[int(rng.choice(len(CATEGORIES), p=_CATEGORY_WEIGHTS / _CATEGORY_WEIGHTS.sum()))]
    colour = tuple(PALETTE)[int(rng.choice(len(PALETTE), p=_COLOURS_OF[category]))]
    return category, colour, PATTERNS[int(rng.choice(len(PATTERNS), p=_PATTERN_WEIGHTS))]


def draw_scene(*seed: int) -> DrawnScene:
    """Draw one scene.

    Args:
        *seed: what determines the scene, for example a world, a split and an index. Equal seeds give equal scenes.

    Returns:
        A picture of about 320 x 240 pixels with 4 to 10 things, none hidden by more than about half.

    Example:
        >>> scene = draw_scene(0, 1, 2)
        >>> 4 <= len(scene.things) <= 10, scene.things[0].mask.shape == scene.picture.size[::-1]
        (True, True)
    """
    rng = np.random.default_rng(seed)
    width, height = _SIZES[int(rng.integers(len(_SIZES)))]
    canvas = _ground(rng, width, height)
    wanted = int(rng.integers(4, 11))
    things: list[Thing] = []
    for _ in range(4 * wanted):
        if len(things) == wanted:
            break
        category, colour, pattern = _attributes(rng, things)
        stamp = draw_object(
            category,
            _shade(PALETTE[colour], rng),
            pattern,
            int(rng.triangular(26, 52, 118)),
            stretch=float(rng.uniform(0.88, 1.14)),
            turn=float(rng.uniform(-10, 10)),
            flip=bool(rng.random() < 0.5),
        )
        if stamp.width > width // 2 or stamp.height > height // 2:
            continue
        left, top = int(rng.integers(width - stamp.width + 1)), int(rng.integers(height - stamp.height + 1))
        shape = np.asarray(stamp.getchannel("A")) > 127
        window = np.s_[top : top + stamp.height, left : left + stamp.width]
        whole = int(shape.sum())
        hides = any(
            thing.area - int((thing.mask[window] & shape).sum()) < max(_MIN_AREA, _MIN_VISIBLE * thing.whole)
            for thing in things
        )
        if hides or whole < _MIN_AREA:
            continue
        # Pasted as a hard shape, so that each pixel belongs to exactly one thing and masks are exact.
        canvas.paste(stamp.convert("RGB"), (left, top), Image.fromarray(shape))
        for thing in things:
            thing.mask[window] &= ~shape
        mask = np.zeros((height, width), bool)
        mask[window] = shape
        things.append(Thing(category, colour, pattern, mask, whole))
    return DrawnScene(canvas, tuple(things))
