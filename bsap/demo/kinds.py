"""The kinds of things in the drawn world: a few simple parts each, in unit coordinates, and their colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Colour = tuple[int, int, int]


class Part(NamedTuple):
    """One shape of an object.

    Attributes:
        shape: ``ellipse`` and ``box`` take x0, y0, x1, y1; ``ring`` takes these and its thickness; ``polygon`` takes
            x, y pairs; ``line`` takes x, y pairs and its thickness. All in units of the object's width and height.
        role: what it is painted with; ``body`` is the object's own colour and pattern, ``shade`` a darker plain one,
            others are of :data:`MATERIALS`.
        points: the numbers that the shape takes.
    """

    shape: str
    role: str
    points: tuple[float, ...]


class Kind(NamedTuple):
    """How a category is drawn: its width divided by its height, and its parts from back to front."""

    aspect: float
    parts: list[Part]


PALETTE: Mapping[str, Colour] = {
    "red": (206, 32, 38),
    "orange": (240, 132, 26),
    "yellow": (246, 214, 48),
    "green": (46, 146, 62),
    "blue": (38, 84, 190),
    "purple": (124, 54, 160),
    "pink": (244, 148, 186),
    "brown": (120, 74, 38),
    "black": (34, 34, 38),
    "white": (240, 240, 236),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")

MATERIALS: Mapping[str, Colour] = {
    "dark": (48, 46, 52),
    "light": (226, 226, 220),
    "skin": (224, 178, 142),
    "wood": (150, 108, 66),
    "glass": (176, 212, 228),
}

_DRAWINGS = """
person 0.45
    box     dark  0.26 0.60  0.47 1.00
    box     dark  0.53 0.60  0.74 1.00
    line    skin  0.24 0.30  0.06 0.60  0.16
    line    skin  0.76 0.30  0.94 0.60  0.16
    polygon body  0.14 0.27  0.86 0.27  0.78 0.66  0.22 0.66
    ellipse skin  0.29 0.00  0.71 0.25
    ellipse dark  0.27 0.00  0.73 0.11
car 1.9
    polygon body  0.22 0.42  0.34 0.04  0.70 0.04  0.84 0.42
    polygon glass 0.30 0.40  0.38 0.12  0.50 0.12  0.50 0.40
    polygon glass 0.55 0.40  0.55 0.12  0.67 0.12  0.76 0.40
    box     body  0.02 0.38  0.98 0.80
    ellipse dark  0.12 0.60  0.34 1.00
    ellipse dark  0.66 0.60  0.88 1.00
    ellipse light 0.18 0.71  0.28 0.89
    ellipse light 0.72 0.71  0.82 0.89
bus 1.7
    box     body  0.02 0.04  0.98 0.86
    box     glass 0.07 0.16  0.25 0.44
    box     glass 0.29 0.16  0.47 0.44
    box     glass 0.51 0.16  0.69 0.44
    box     glass 0.76 0.16  0.92 0.82
    ellipse dark  0.12 0.72  0.28 1.00
    ellipse dark  0.56 0.72  0.72 1.00
boat 1.1
    box     wood  0.48 0.00  0.53 0.70
    polygon light 0.55 0.04  0.90 0.60  0.55 0.60
    polygon light 0.46 0.16  0.46 0.60  0.18 0.60
    polygon body  0.02 0.66  0.98 0.66  0.80 1.00  0.20 1.00
ball 1.0
    ellipse body  0.00 0.00  1.00 1.00
    ring    shade 0.00 0.00  1.00 1.00  0.05
    ellipse light 0.22 0.16  0.40 0.32
cup 1.15
    ring    shade 0.58 0.26  0.98 0.76  0.09
    polygon body  0.04 0.10  0.76 0.10  0.68 1.00  0.12 1.00
    ellipse shade 0.04 0.00  0.76 0.20
bottle 0.38
    box     body  0.36 0.04  0.64 0.36
    box     dark  0.32 0.00  0.68 0.09
    ellipse body  0.06 0.26  0.94 0.56
    box     body  0.06 0.41  0.94 1.00
    box     light 0.06 0.58  0.94 0.80
chair 0.72
    box     shade 0.08 0.00  0.24 1.00
    box     shade 0.76 0.56  0.90 1.00
    box     body  0.10 0.04  0.40 0.50
    box     body  0.08 0.46  0.96 0.64
umbrella 1.0
    line    wood  0.50 0.05  0.50 0.92  0.05
    ring    wood  0.48 0.80  0.68 1.00  0.05
    polygon body  0.00 0.50  0.06 0.30  0.20 0.13  0.50 0.04  0.80 0.13  0.94 0.30  \
                  1.00 0.50  0.83 0.42  0.67 0.50  0.50 0.42  0.33 0.50  0.17 0.42
clock 1.0
    ellipse body  0.00 0.00  1.00 1.00
    ellipse light 0.17 0.17  0.83 0.83
    line    dark  0.50 0.50  0.50 0.24  0.07
    line    dark  0.50 0.50  0.70 0.58  0.07
bird 1.35
    polygon shade 0.00 0.40  0.36 0.44  0.30 0.68
    line    dark  0.46 0.78  0.44 1.00  0.04
    line    dark  0.58 0.78  0.58 1.00  0.04
    polygon wood  0.86 0.20  1.00 0.29  0.86 0.36
    ellipse body  0.20 0.30  0.80 0.86
    ellipse body  0.60 0.04  0.92 0.48
    ellipse dark  0.77 0.16  0.84 0.25
kite 0.7
    line    dark  0.50 0.66  0.36 0.82  0.62 0.90  0.48 1.00  0.05
    polygon body  0.50 0.00  1.00 0.28  0.50 0.74  0.00 0.28
    line    shade 0.50 0.00  0.50 0.72  0.04
    line    shade 0.02 0.28  0.98 0.28  0.04
house 1.1
    box     body  0.10 0.40  0.90 1.00
    polygon wood  0.00 0.44  0.50 0.00  1.00 0.44
    box     dark  0.56 0.60  0.74 1.00
    box     glass 0.20 0.56  0.42 0.76
lamp 0.62
    line    dark  0.50 0.40  0.50 0.92  0.10
    ellipse dark  0.20 0.88  0.80 1.00
    polygon body  0.28 0.00  0.72 0.00  1.00 0.48  0.00 0.48
"""
"""Each category with its aspect; below it a line for each part: its shape, its role, its points."""


def _read(drawings: str) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for line in drawings.strip().splitlines():
        name, second, *numbers = line.split()
        if line.startswith(" "):
            kinds[next(reversed(kinds))].parts.append(Part(name, second, tuple(map(float, numbers))))
        else:
            kinds[name] = Kind(float(second), [])
    return kinds


KINDS: Mapping[str, Kind] = _read(_DRAWINGS)
CATEGORIES = tuple(KINDS)
