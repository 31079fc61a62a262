"""Pictures for people: a scene with its proposals, the referent, and what each scorer chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart (https://jfly.uni-koeln.de/color/).
# Green is the referent's alone.
_REFERENT: Colour = (0, 158, 115)
_CHOICES: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
_PROPOSAL: Colour = (150, 150, 150)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (20, 20, 20)
_PAD = 8


def draw_scene(
    picture: Image.Image,
    *,
    boxes: ArrayLike,
    referent: ArrayLike | None,
    choices: Mapping[str, int],
    title: str,
    hits: Mapping[str, bool] | None = None,
    width: int = 480,
) -> Image.Image:
    """Draw what each scorer chose for one expression.

    The referent has a dashed green frame, each scorer's choice a solid frame of its own colour, other proposals thin
    grey ones. Frames of scorers that chose the same region lie inside each other. A legend below names them.

    Args:
        picture: the scene's picture.
        boxes: (R, 4) proposals, xyxy, in pixels of the picture.
        referent: (4,) or (T, 4) the referent's boxes; None where it is not known.
        choices: index of the chosen proposal for each scorer's name; -1 where it could not choose.
        title: the expression.
        hits: whether each scorer was right, marked in the legend.
        width: pixels of the result; small pictures are enlarged so that frames stay thin beside objects.

    Returns:
        A new RGB picture with the title above and the legend below.

    Raises:
        ValueError: for a choice that is no proposal.

    Example:
        >>> picture = Image.new("RGB", (320, 240))
        >>> boxes = [[10, 10, 60, 60], [100, 80, 180, 200]]
        >>> draw_scene(picture, boxes=boxes, referent=boxes[0], choices={"clip": 1, "bsap": 0}, title="left cup").width
        480
    """
    regions = np.asarray(boxes, np.float64).reshape(-1, 4)
    for name, choice in choices.items():
        if not -1 <= choice < len(regions):
            raise ValueError(f"Expected argument `choices` to be below {len(regions)}, but got {choice} for {name}.")
    scale = width / picture.width
    view = picture.convert("RGB").resize((width, max(1, round(picture.height * scale))), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(view)
    stroke = max(2, width // 160)
    for box in regions * scale:
        draw.rectangle(_inside(box, view.size), outline=_PROPOSAL, width=max(1, stroke // 2))
    # The referent's frame lies outside the choices' so that neither hides the other.
    for box in np.asarray([] if referent is None else referent, np.float64).reshape(-1, 4) * scale:
        _dashed(draw, _inside(box + np.array([-1, -1, 1, 1]) * stroke, view.size), stroke)
    depth: dict[int, int] = {}
    colours = {name: _CHOICES[n % len(_CHOICES)] for n, name in enumerate(choices)}
    for name, choice in choices.items():
        if choice < 0:
            continue
        inset = depth.get(choice, 0) * (stroke + 1)
        depth[choice] = depth.get(choice, 0) + 1
        draw.rectangle(_inside(regions[choice] * scale, view.size, inset), outline=colours[name], width=stroke)
    entries = [("referent", _REFERENT)] if referent is not None else []
    entries += [(_label(name, choices[name], hits), colour) for name, colour in colours.items()]
    if len(regions) > len(depth):
        entries.append(("other proposals", _PROPOSAL))
    return _framed(view, title, entries)


def contact_sheet(images: Sequence[Image.Image], columns: int = 3) -> Image.Image:
    """Put pictures in rows on one sheet.

    Args:
        images: pictures of any sizes; each row is as high as its highest.
        columns: pictures in a row.

    Raises:
        ValueError: without pictures, or with less than one column.

    Example:
        >>> contact_sheet([Image.new("RGB", (100, 50))] * 5, columns=2).size
        (224, 182)
    """
    if not images:
        raise ValueError("Expected argument `images` to be at least one picture, but got none.")
    if columns < 1:
        raise ValueError(f"Expected argument `columns` to be at least 1, but got {columns}.")
    columns = min(columns, len(images))
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    cell = max(image.width for image in images)
    heights = [max(image.height for image in row) for row in rows]
    size = (columns * cell + (columns + 1) * _PAD, sum(heights) + (len(rows) + 1) * _PAD)
    sheet = Image.new("RGB", size, (225, 225, 225))
    top = _PAD
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (_PAD + column * (cell + _PAD), top))
        top += height + _PAD
    return sheet


def _label(name: str, choice: int, hits: Mapping[str, bool] | None) -> str:
    if choice < 0:
        return f"{name}: none"
    if hits is None or name not in hits:
        return name
    return f"{name}: {'right' if hits[name] else 'wrong'}"


def _inside(box: NDArray[np.float64], size: tuple[int, int], inset: float = 0) -> Box:
    """A box as corners of pixels inside the picture, at least a pixel wide."""
    x0, y0, x1, y1 = box + np.array([inset, inset, -inset, -inset])
    right, bottom = size[0] - 1, size[1] - 1
    x0, y0 = min(max(x0, 0), right), min(max(y0, 0), bottom)
    return float(x0), float(y0), float(min(max(x1 - 1, x0), right)), float(min(max(y1 - 1, y0), bottom))


def _dashed(draw: ImageDraw.ImageDraw, box: Box, stroke: int) -> None:
    """A dashed frame on a white one, to be seen on any ground."""
    x0, y0, x1, y1 = box
    draw.rectangle(box, outline=_PAPER, width=stroke)
    dash, gap = 4 * stroke, 2 * stroke
    for start in np.arange(x0, x1, dash + gap).tolist():
        end = min(start + dash, x1)
        draw.rectangle((start, y0, end, min(y0 + stroke - 1, y1)), fill=_REFERENT)
        draw.rectangle((start, max(y1 - stroke + 1, y0), end, y1), fill=_REFERENT)
    for start in np.arange(y0, y1, dash + gap).tolist():
        end = min(start + dash, y1)
        draw.rectangle((x0, start, min(x0 + stroke - 1, x1), end), fill=_REFERENT)
        draw.rectangle((max(x1 - stroke + 1, x0), start, x1, end), fill=_REFERENT)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _framed(view: Image.Image, title: str, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The picture with its title above and the legend below, both as high as their text needs."""
    size, small_size = max(12, view.width // 26), max(11, view.width // 32)
    font, small = ImageFont.load_default(size=size), ImageFont.load_default(size=small_size)
    line, row = math.ceil(size * 1.25), math.ceil(small_size * 1.4)
    lines = _wrapped(title, font, view.width - 2 * _PAD)
    places: list[tuple[float, int]] = []
    x, y = float(_PAD), 0
    for label, _ in entries:
        length = row + small.getlength(label) + 2 * _PAD
        if x > _PAD and x + length > view.width:
            x, y = float(_PAD), y + row
        places.append((x, y))
        x += length
    head, foot = len(lines) * line + _PAD, (y + row + _PAD) if entries else 0
    frame = Image.new("RGB", (view.width, head + view.height + foot), _PAPER)
    frame.paste(view, (0, head))
    draw = ImageDraw.Draw(frame)
    for n, text in enumerate(lines):
        draw.text((_PAD, _PAD // 2 + n * line), text, fill=_INK, font=font)
    for (label, colour), (left, down) in zip(entries, places, strict=True):
        top = head + view.height + _PAD // 2 + down
        draw.rectangle((left, top + row * 0.15, left + row * 0.7, top + row * 0.85), fill=colour)
        draw.text((left + row, top), label, fill=_INK, font=small)
    return frame
