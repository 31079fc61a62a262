"""Pictures for people: a drawn scene beside rows of small pictures that say more of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsap.reports.lettering import Canvas, Colour, Mark

Mask = NDArray[np.bool_]

OVERLAP: Mapping[str, Colour] = {
    "choice and referent": (86, 180, 233),
    "choice only": (240, 228, 66),
    "referent only": (0, 158, 115),
}
"""Colours of :func:`overlap`; Okabe and Ito's, which people with any kind of colour vision can tell apart."""

_PAD = 10
_NARROWEST = 340  # pixels of the rows' side, so that few columns do not squeeze the text
_LEAST, _MOST = 128, 224  # pixels of a small picture's longer side: smaller ones are enlarged to show their pixels


@dataclass(frozen=True)
class PanelRow:
    """One row beside the scene: a heading, notes below it, each with a colour, and a picture for each column."""

    title: str
    marks: Sequence[Mark]
    images: Sequence[Image.Image]


def panel(
    scene: Image.Image,
    *,
    columns: Sequence[str],
    rows: Sequence[PanelRow],
    notes: Sequence[str] = (),
    legend: Sequence[Mark] = (),
) -> Image.Image:
    """Put a drawn scene and rows of small pictures side by side.

    Args:
        scene: goes to the left, as it is.
        columns: what each column shows.
        rows: top down.
        notes: small print below.
        legend: what colours inside the small pictures mean.

    Returns:
        A new RGB picture.

    Raises:
        ValueError: if a row has not one picture for each column.

    Example:
        >>> row = PanelRow("region 0", [("clip 0.9", (213, 94, 0))], [Image.new("RGB", (224, 224))])
        >>> panel(Image.new("RGB", (480, 400)), columns=["crop"], rows=[row]).size
        (850, 420)
    """
    for row in rows:
        if len(row.images) != len(columns):
            raise ValueError(
                f"Expected argument `rows` to have {len(columns)} pictures each, but got {len(row.images)}."
            )
    images = [[_shown(image) for image in row.images] for row in rows]
    widths = [max(row[n].width for row in images) for n in range(len(columns))] if rows else []
    side = scene.width + 2 * _PAD
    lefts = [side + sum(width + _PAD for width in widths[:n]) for n in range(len(widths))]
    canvas = Canvas(side, side + max(_NARROWEST, sum(widths) + _PAD * (len(widths) - 1)) if rows else scene.width)
    canvas.paste(scene, 0, 0)

    top = _PAD
    if rows:
        top = canvas.marks(legend, top, small=True)
        top = max(
            canvas.text(name, top, left=left, right=left + width, small=True)
            for name, left, width in zip(columns, lefts, widths, strict=True)
        )
    for row, shown in zip(rows, images, strict=True):
        top = canvas.marks(row.marks, canvas.text(row.title, top + _PAD // 2)) + 2
        for image, left in zip(shown, lefts, strict=True):
            canvas.paste(image, left, top)
        top += max((image.height for image in shown), default=0) + _PAD
    top = max(top, scene.height + _PAD)
    for note in notes:
        top = canvas.text(note, top, left=_PAD, small=True)
    return canvas.finish(canvas.right + _PAD if rows else scene.width, top + _PAD)


def overlap(picture: Image.Image, chosen: Mask, referents: Sequence[Mask], *, size: int = _MOST) -> Image.Image:
    """A window of the picture around a chosen mask and the referent's, each part in its colour of :data:`OVERLAP`.

    Args:
        picture: W x H.
        chosen: (H, W).
        referents: the referent's masks, each (H, W).
        size: pixels of the result's longer side.

    Example:
        >>> mask = np.zeros((40, 60), bool); mask[10:20, 10:30] = True
        >>> overlap(Image.new("RGB", (60, 40)), mask, [mask]).size
        (224, 112)
    """
    meant = np.any(np.stack([np.zeros_like(chosen), *referents]), axis=0)
    pixels = np.repeat(np.asarray(picture.convert("L"), np.float32)[:, :, None], 3, axis=2)
    for part, colour in zip((chosen & meant, chosen & ~meant, meant & ~chosen), OVERLAP.values(), strict=True):
        pixels[part] = 0.4 * pixels[part] + 0.6 * np.array(colour, np.float32)
    rows, columns = np.nonzero(chosen | meant)
    if not len(rows):
        rows, columns = np.array([0, picture.height - 1]), np.array([0, picture.width - 1])
    y0, y1, x0, x1 = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    dx, dy = (x1 - x0) // 10, (y1 - y0) // 10
    window = (max(0, x0 - dx), max(0, y0 - dy), min(picture.width, x1 + dx), min(picture.height, y1 + dy))
    cut = Image.fromarray(pixels.round().astype(np.uint8)).crop(window)
    scale = size / max(cut.size)
    return cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.NEAREST)


def _shown(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer > _MOST:
        return image.resize((max(1, image.width * _MOST // longer), max(1, image.height * _MOST // longer)))
    factor = math.ceil(_LEAST / longer)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
