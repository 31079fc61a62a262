"""The kinds of things in the drawn world: a few simple parts each, in unit coordinates, and their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Colour = tuple[int, int, int]
Role = Literal["body", "shade", "dark", "light", "skin", "wood", "glass"]


class Part(NamedTuple):
    """One shape of an object.

    Attributes:
        shape: ``ellipse`` and ``box`` take x0, y0, x1, y1; ``ring`` takes these and its thickness; ``polygon`` takes
            x, y pairs; ``line`` takes x, y pairs and its thickness. All in units of the object's width and height.
        points: the numbers that the shape takes.
        role: what it is painted with; ``body`` is the object's own colour and pattern, ``shade`` a darker plain one.
    """

    shape: Literal["ellipse", "box", "ring", "polygon", "line"]
    points: tuple[float, ...]
    role: Role


class Kind(NamedTuple):
    """How a category is drawn: its width divided by its height, and its parts from back to front."""

    aspect: float
    parts: Sequence[Part]


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

_P = Part
KINDS: Mapping[str, Kind] = {
    "person": Kind(
        0.45,
        [
            _P("box", (0.26, 0.60, 0.47, 1.00), "dark"),
            _P("box", (0.53, 0.60, 0.74, 1.00), "dark"),
            _P("line", (0.24, 0.30, 0.06, 0.60, 0.16), "skin"),
            _P("line", (0.76, 0.30, 0.94, 0.60, 0.16), "skin"),
            _P("polygon", (0.14, 0.27, 0.86, 0.27, 0.78, 0.66, 0.22, 0.66), "body"),
            _P("ellipse", (0.29, 0.00, 0.71, 0.25), "skin"),
            _P("ellipse", (0.27, 0.00, 0.73, 0.11), "dark"),
        ],
    ),
    "car": Kind(
        1.9,
        [
            _P("polygon", (0.22, 0.42, 0.34, 0.04, 0.70, 0.04, 0.84, 0.42), "body"),
            _P("polygon", (0.30, 0.40, 0.38, 0.12, 0.50, 0.12, 0.50, 0.40), "glass"),
            _P("polygon", (0.55, 0.40, 0.55, 0.12, 0.67, 0.12, 0.76, 0.40), "glass"),
            _P("box", (0.02, 0.38, 0.98, 0.80), "body"),
            _P("ellipse", (0.12, 0.60, 0.34, 1.00), "dark"),
            _P("ellipse", (0.66, 0.60, 0.88, 1.00), "dark"),
            _P("ellipse", (0.18, 0.71, 0.28, 0.89), "light"),
            _P("ellipse", (0.72, 0.71, 0.82, 0.89), "light"),
        ],
    ),
    "bus": Kind(
        1.7,
        [
            _P("box", (0.02, 0.04, 0.98, 0.86), "body"),
            _P("box", (0.07, 0.16, 0.25, 0.44), "glass"),
            _P("box", (0.29, 0.16, 0.47, 0.44), "glass"),
            _P("box", (0.51, 0.16, 0.69, 0.44), "glass"),
            _P("box", (0.76, 0.16, 0.92, 0.82), "glass"),
            _P("ellipse", (0.12, 0.72, 0.28, 1.00), "dark"),
            _P("ellipse", (0.56, 0.72, 0.72, 1.00), "dark"),
        ],
    ),
    "boat": Kind(
        1.1,
        [
            _P("box", (0.48, 0.00, 0.53, 0.70), "wood"),
            _P("polygon", (0.55, 0.04, 0.90, 0.60, 0.55, 0.60), "light"),
            _P("polygon", (0.46, 0.16, 0.46, 0.60, 0.18, 0.60), "light"),
            _P("polygon", (0.02, 0.66, 0.98, 0.66, 0.80, 1.00, 0.20, 1.00), "body"),
        ],
    ),
    "ball": Kind(
        1.0,
        [
            _P("ellipse", (0.0, 0.0, 1.0, 1.0), "body"),
            _P("ring", (0.0, 0.0, 1.0, 1.0, 0.05), "shade"),
            _P("ellipse", (0.22, 0.16, 0.40, 0.32), "light"),
        ],
    ),
    "cup": Kind(
        1.15,
        [
            _P("ring", (0.58, 0.26, 0.98, 0.76, 0.09), "shade"),
            _P("polygon", (0.04, 0.10, 0.76, 0.10, 0.68, 1.00, 0.12, 1.00), "body"),
            _P("ellipse", (0.04, 0.00, 0.76, 0.20), "shade"),
        ],
    ),
    "bottle": Kind(
        0.38,
        [
            _P("box", (0.36, 0.04, 0.64, 0.36), "body"),
            _P("box", (0.32, 0.00, 0.68, 0.09), "dark"),
            _P("ellipse", (0.06, 0.26, 0.94, 0.56), "body"),
            _P("box", (0.06, 0.41, 0.94, 1.00), "body"),
            _P("box", (0.06, 0.58, 0.94, 0.80), "light"),
        ],
    ),
    "chair": Kind(
        0.72,
        [
            _P("box", (0.08, 0.00, 0.24, 1.00), "shade"),
            _P("box", (0.76, 0.56, 0.90, 1.00), "shade"),
            _P("box", (0.10, 0.04, 0.40, 0.50), "body"),
            _P("box", (0.08, 0.46, 0.96, 0.64), "body"),
        ],
    ),
    "umbrella": Kind(
        1.0,
        [
            _P("line", (0.50, 0.05, 0.50, 0.92, 0.05), "wood"),
            _P("ring", (0.48, 0.80, 0.68, 1.00, 0.05), "wood"),
            _P(
                "polygon",
                (
                    0.00,
                    0.50,
                    0.06,
                    0.30,
                    0.20,
                    0.13,
                    0.50,
                    0.04,
                    0.80,
                    0.13,
                    0.94,
                    0.30,
                    1.00,
                    0.50,
                    0.83,
                    0.42,
                    0.67,
                    0.50,
                    0.50,
                    0.42,
                    0.33,
                    0.50,
                    0.17,
                    0.42,
                ),
                "body",
            ),
        ],
    ),
    "clock": Kind(
        1.0,
        [
            _P("ellipse", (0.0, 0.0, 1.0, 1.0), "body"),
            _P("ellipse", (0.17, 0.17, 0.83, 0.83), "light"),
            _P("line", (0.50, 0.50, 0.50, 0.24, 0.07), "dark"),
            _P("line", (0.50, 0.50, 0.70, 0.58, 0.07), "dark"),
        ],
    ),
    "bird": Kind(
        1.35,
        [
            _P("polygon", (0.00, 0.40, 0.36, 0.44, 0.30, 0.68), "shade"),
            _P("line", (0.46, 0.78, 0.44, 1.00, 0.04), "dark"),
            _P("line", (0.58, 0.78, 0.58, 1.00, 0.04), "dark"),
            _P("polygon", (0.86, 0.20, 1.00, 0.29, 0.86, 0.36), "wood"),
            _P("ellipse", (0.20, 0.30, 0.80, 0.86), "body"),
            _P("ellipse", (0.60, 0.04, 0.92, 0.48), "body"),
            _P("ellipse", (0.77, 0.16, 0.84, 0.25), "dark"),
        ],
    ),
    "kite": Kind(
        0.7,
        [
            _P("line", (0.50, 0.66, 0.36, 0.82, 0.62, 0.90, 0.48, 1.00, 0.05), "dark"),
            _P("polygon", (0.50, 0.00, 1.00, 0.28, 0.50, 0.74, 0.00, 0.28), "body"),
            _P("line", (0.50, 0.00, 0.50, 0.72, 0.04), "shade"),
            _P("line", (0.02, 0.28, 0.98, 0.28, 0.04), "shade"),
        ],
    ),
    "house": Kind(
        1.1,
        [
            _P("box", (0.10, 0.40, 0.90, 1.00), "body"),
            _P("polygon", (0.00, 0.44, 0.50, 0.00, 1.00, 0.44), "wood"),
            _P("box", (0.56, 0.60, 0.74, 1.00), "dark"),
            _P("box", (0.20, 0.56, 0.42, 0.76), "glass"),
        ],
    ),
    "lamp": Kind(
        0.62,
        [
            _P("line", (0.50, 0.40, 0.50, 0.92, 0.10), "dark"),
            _P("ellipse", (0.20, 0.88, 0.80, 1.00), "dark"),
            _P("polygon", (0.28, 0.00, 0.72, 0.00, 1.00, 0.48, 0.00, 0.48), "body"),
        ],
    ),
}
CATEGORIES = tuple(KINDS)
