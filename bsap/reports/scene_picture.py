"""Pictures for people: a scene with its proposals, the referent, and what each scorer chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from bsap.reports.lettering import INK, PAPER, Canvas, Colour, Mark, font

Box = tuple[float, float, float, float]

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart (https://jfly.uni-koeln.de/color/).
# Green is the referent's alone.
REFERENT: Colour = (0, 158, 115)
CHOICES: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
_PROPOSAL: Colour = (150, 150, 150)
_PAD = 8
_THINNEST = 96  # pixels of a picture's shorter side: frames in a narrower strip look the same
_LONGEST = 4  # a picture's longer side, in widths of the drawing


def draw_scene(
    picture: Image.Image,
    *,
    boxes: ArrayLike,
    referent: ArrayLike | None,
    choices: Mapping[str, int | Sequence[int]],
    title: str,
    hits: Mapping[str, bool] | None = None,
    width: int = 480,
) -> Image.Image:
    """Draw what each scorer chose for one expression.

    The referent has a dashed green frame, each scorer's choice a solid frame of its own colour, other proposals thin
    grey ones. Frames of scorers that chose the same region lie inside each other. A legend below names them. Where
    there are more scorers than colours, frames and legend are numbered.

    Args:
        picture: the scene's picture.
        boxes: (R, 4) proposals, xyxy, in pixels of the picture.
        referent: (4,) or (T, 4) the referent's boxes, none where nothing is meant; None where it is not known.
        choices: index of the chosen proposal for each scorer's name, or of all proposals that it answered with; -1 or
            an empty list is drawn as "none".
        title: the expression.
        hits: whether each scorer was right, marked in the legend.
        width: pixels of the result; small pictures are enlarged so that frames stay thin beside objects. Strips are
            up to four times as wide, and never more than that high.

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
    answers = {name: [given] if isinstance(given, int) else list(given) for name, given in choices.items()}
    for name, answer in answers.items():
        for choice in answer:
            if not -1 <= choice < len(regions):
                limit = f"below {len(regions)}, but got {choice} for {name}"
                raise ValueError(f"Expected argument `choices` to be {limit}.")
    scale = _scale(picture, width)
    shown = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    view = picture.convert("RGB").resize(shown, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(view)
    stroke = max(2, width // 160)
    for box in regions * scale:
        draw.rectangle(_inside(box, view.size), outline=_PROPOSAL, width=max(1, stroke // 2))
    # The referent's frame lies outside the choices' so that neither hides the other.
    targets = np.asarray([] if referent is None else referent, np.float64).reshape(-1, 4)
    for box in targets * scale:
        _dashed(draw, _inside(box + np.array([-1, -1, 1, 1]) * stroke, view.size), stroke)
    depth: dict[int, int] = {}
    numbered = len(choices) > len(CHOICES)
    numbers: list[tuple[str, Box, Colour]] = []
    entries = [] if referent is None else [("referent" if len(targets) else "no target", REFERENT)]
    for n, (name, answer) in enumerate(answers.items()):
        colour, chosen = choice_colour(n), [choice for choice in answer if choice >= 0]
        entries.append((f"{n + 1}  " * numbered + _label(name, chosen, hits), colour))
        for choice in chosen:
            place = depth[choice] = depth.get(choice, -1) + 1
            box = regions[choice] * scale
            draw.rectangle(_inside(box, view.size, place * (stroke + 1)), outline=colour, width=stroke)
            numbers.append((str(n + 1), _inside(box + np.array([20 * place, 0, 0, 0]), view.size), colour))
    for number, corner, colour in numbers if numbered else []:
        _tab(draw, number, corner, colour)
    if len(regions) > len(depth):
        entries.append(("other proposals", _PROPOSAL))
    return _framed(view, title, entries, width)


def choice_colour(n: int) -> Colour:
    """The colour of the ``n``-th scorer's frame; colours are few and come again."""
    return CHOICES[n % len(CHOICES)]


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


def _scale(picture: Image.Image, width: int) -> float:
    """Pixels of the drawing for each of the picture: it fills the width, unless it is a strip."""
    thin, long = sorted(picture.size)
    return min(max(width / picture.width, _THINNEST / thin), _LONGEST * width / long)


def _label(name: str, chosen: Sequence[int], hits: Mapping[str, bool] | None) -> str:
    found = [] if chosen else ["none"]
    if hits is not None and name in hits:
        found.append("right" if hits[name] else "wrong")
    return ": ".join([name, *([", ".join(found)] if found else [])])


def _inside(box: NDArray[np.float64], size: tuple[int, int], inset: float = 0) -> Box:
    """A box as corners of pixels inside the picture, at least a pixel wide."""
    x0, y0, x1, y1 = box + np.array([inset, inset, -inset, -inset])
    right, bottom = size[0] - 1, size[1] - 1
    x0, y0 = min(max(x0, 0), right), min(max(y0, 0), bottom)
    return float(x0), float(y0), float(min(max(x1 - 1, x0), right)), float(min(max(y1 - 1, y0), bottom))


def _dashed(draw: ImageDraw.ImageDraw, box: Box, stroke: int) -> None:
    """A dashed frame on a white one, to be seen on any ground."""
    x0, y0, x1, y1 = box
    draw.rectangle(box, outline=PAPER, width=stroke)
    dash, gap = 4 * stroke, 2 * stroke
    for start in np.arange(x0, x1, dash + gap).tolist():
        end = min(start + dash, x1)
        draw.rectangle((start, y0, end, min(y0 + stroke - 1, y1)), fill=REFERENT)
        draw.rectangle((start, max(y1 - stroke + 1, y0), end, y1), fill=REFERENT)
    for start in np.arange(y0, y1, dash + gap).tolist():
        end = min(start + dash, y1)
        draw.rectangle((x0, start, min(x0 + stroke - 1, x1), end), fill=REFERENT)
        draw.rectangle((max(x1 - stroke + 1, x0), start, x1, end), fill=REFERENT)


def _tab(draw: ImageDraw.ImageDraw, number: str, box: Box, colour: Colour) -> None:
    """A number in the upper left corner of a frame."""
    draw.rectangle((box[0], box[1], box[0] + 19, box[1] + 17), fill=PAPER, outline=colour, width=2)
    draw.text((box[0] + 10, box[1] + 9), number, fill=INK, font=font(11), anchor="mm")


def _framed(view: Image.Image, title: str, entries: Sequence[Mark], width: int) -> Image.Image:
    """The picture with its title above and the legend below, both as high as their text needs.

    The letters go by ``width``, the usual one, which is the least that title and legend have.
    """
    whole = max(width, view.width)
    canvas = Canvas(_PAD, whole - _PAD, large=max(12, width // 26), small=max(11, width // 32), faint=INK)
    top = canvas.paste(view, 0, canvas.text(title, _PAD // 2) + _PAD // 2)
    if entries:
        top = canvas.marks(entries, top + _PAD // 2, small=True) + _PAD // 2
    return canvas.finish(whole, top)
