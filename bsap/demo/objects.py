"""Draw the objects of the drawn world, one at a time, on a transparent background."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from bsap.demo.kinds import KINDS, MATERIALS, PATTERNS, Colour, Part

# Shapes are drawn this many times larger and then reduced, which smooths their edges.
_OVERSAMPLE = 2


def _shifted(colour: Colour, by: int) -> Colour:
    red, green, blue = (min(255, max(0, value + by)) for value in colour)
    return red, green, blue


def contrast(colour: Colour) -> Colour:
    """The second colour of a pattern: dark on light colours, light on dark ones.

    Example:
        >>> contrast((240, 240, 236)), contrast((34, 34, 38))
        ((70, 70, 78), (235, 235, 230))
    """
    return (70, 70, 78) if sum(colour) > 400 else (235, 235, 230)


def _paint(size: tuple[int, int], colour: Colour, pattern: str) -> Image.Image:
    """A whole canvas of the object's colour and pattern, of which the body's parts are cut out."""
    paint = Image.new("RGB", size, colour)
    if pattern == "plain":
        return paint
    draw, second = ImageDraw.Draw(paint), contrast(colour)
    width, height = size
    step = max(6, min(size) // 5)
    if pattern == "striped":
        for x in range(step // 2, width, step):
            draw.rectangle((x, 0, x + step // 2 - 1, height), fill=second)
    elif pattern == "dotted":
        for row, y in enumerate(range(0, height, step)):
            for x in range(-(row % 2) * (step // 2), width, step):
                draw.ellipse((x + step // 4, y + step // 4, x + step * 3 // 4, y + step * 3 // 4), fill=second)
    elif pattern == "checkered":
        for row, y in enumerate(range(0, height, step)):
            for x in range((row % 2) * step, width, 2 * step):
                draw.rectangle((x, y, x + step - 1, y + step - 1), fill=second)
    else:
        raise ValueError(f"Expected argument `pattern` to be one of {PATTERNS}, but got {pattern}.")
    return paint


def _stamp(size: tuple[int, int], part: Part) -> Image.Image:
    """The part's shape in white on black."""
    stamp = Image.new("L", size)
    draw = ImageDraw.Draw(stamp)
    pairs = part.points[: len(part.points) // 2 * 2]  # an odd number is a thickness
    xy = [tuple(point) for point in (np.reshape(pairs, (-1, 2)) * (np.array(size) - 1)).tolist()]
    if part.shape == "ellipse":
        draw.ellipse(xy, fill=255)
    elif part.shape == "box":
        draw.rectangle(xy, fill=255)
    elif part.shape == "polygon":
        draw.polygon(xy, fill=255)
    else:
        thickness = max(2, round(part.points[-1] * min(size)))
        if part.shape == "ring":
            draw.ellipse(xy, outline=255, width=thickness)
        else:
            draw.line(xy, fill=255, width=thickness, joint="curve")
    return stamp


def draw_object(
    category: str,
    colour: Colour,
    pattern: str,
    height: int,
    *,
    stretch: float = 1.0,
    turn: float = 0.0,
    flip: bool = False,
) -> Image.Image:
    """Draw one object on a transparent background.

    Args:
        category: one of :data:`~bsap.demo.kinds.CATEGORIES`.
        colour: RGB of its body.
        pattern: one of :data:`~bsap.demo.kinds.PATTERNS`.
        height: pixels before it is turned.
        stretch: factor on the width.
        turn: degrees, anticlockwise.
        flip: mirror left and right.

    Returns:
        An RGBA picture cut to the object; its alpha channel is the object's shape.

    Example:
        >>> picture = draw_object("ball", (206, 32, 38), "plain", 40)
        >>> picture.size, picture.getpixel((20, 30)), picture.getpixel((0, 0))[3]
        ((40, 40), (206, 32, 38, 255), 0)
    """
    kind = KINDS[category]
    size = (max(4, round(height * kind.aspect * stretch)) * _OVERSAMPLE, height * _OVERSAMPLE)
    colours = {**MATERIALS, "shade": _shifted(colour, 40 if sum(colour) < 150 else -40)}
    paint = _paint(size, colour, pattern)
    canvas, alpha = Image.new("RGB", size, colour), Image.new("L", size)
    for part in kind.parts:
        stamp = _stamp(size, part)
        canvas.paste(paint if part.role == "body" else colours[part.role], (0, 0), stamp)
        alpha.paste(255, (0, 0), stamp)
    canvas.putalpha(alpha)
    if flip:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if turn:
        canvas = canvas.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    canvas = canvas.reduce(_OVERSAMPLE)
    return canvas.crop(canvas.getchannel("A").getbbox())
