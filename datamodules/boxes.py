"""Boxes as files write them, checked and turned into what the package computes with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bsap.datamodules.fields import shown
from bsap.datamodules.scene import Boxes
from bsap.errors import DataError

ROUNDING = 2.0
"""How far, in pixels, a box may reach beyond the picture's edge and still count as rounded: it is clipped."""

UNIT = 1.5
"""Boxes whose numbers are all smaller are not in pixels. Above 1, because normalised boxes may reach beyond 0..1."""

NORMALISED = (
    "These look normalised to 0..1 (GroundingDINO and YOLO write them so, often as centre x, centre y, width, height). "
    "Convert them to [x, y, width, height] in pixels of the original picture."
)


def read_xywh(rows: Sequence[object], where: Sequence[str]) -> NDArray[np.float64]:
    """N boxes ``[x, y, width, height]`` at N places as numbers, (N, 4) float64.

    Raises:
        DataError: if a row is not four finite numbers, or its width or height is negative.
    """
    for row, place in zip(rows, where, strict=True):
        if not isinstance(row, (list, tuple)) or len(row) != 4 or any(type(v) not in (int, float) for v in row):
            raise DataError(f"{place}: a box must be four numbers [x, y, width, height], but got {shown(row)}.")
    try:
        boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    except OverflowError:  # an integer that no float holds
        n = next(n for n, row in enumerate(rows) if isinstance(row, (list, tuple)) and any(abs(v) > 1e300 for v in row))
        raise DataError(f"{where[n]}: a box holds a number too large for a pixel: {shown(rows[n])}.") from None
    bad = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
    if bad.any():
        n = int(bad.argmax())
        raise DataError(
            f"{where[n]}: a box must be [x, y, width, height] with finite numbers and a positive size, "
            f"but got {shown(rows[n])}."
        )
    return boxes


def to_xyxy(xywh: NDArray[np.float64], width: int, height: int, where: Sequence[str], *, fix: str = "") -> Boxes:
    """The same boxes by their corners, clipped to the picture.

    Args:
        xywh: (N, 4), from :func:`read_xywh`.
        width: W of the picture in pixels.
        height: H of the picture in pixels.
        where: N places, for errors.
        fix: what to do about a box without area, for errors.

    Returns:
        (N, 4) float32, xyxy, with 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H.

    Raises:
        DataError: if a box has no area or reaches more than :data:`ROUNDING` pixels over the picture's edge.

    Example:
        >>> to_xyxy(read_xywh([[10, 20, 30, 40.5]], ["box 0"]), 640, 60, ["box 0"])
        array([[10., 20., 40., 60.]], dtype=float32)
    """
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    limit = np.array([width, height, width, height], dtype=np.float64)
    beyond = ((corners < -ROUNDING) | (corners > limit + ROUNDING)).any(axis=1)
    if beyond.any():
        n = int(beyond.argmax())
        x, y, w, h = xywh[n].tolist()
        corners_given = x < w <= width + ROUNDING and y < h <= height + ROUNDING
        hint = (
            "It would fit as corners [x1, y1, x2, y2]: convert the file to [x, y, width, height]."
            if corners_given
            else "Boxes are [x, y, width, height] in pixels of the original picture: are these of another picture size?"
        )
        raise DataError(
            f"{where[n]}: the box {[x, y, w, h]} reaches beyond its picture of {width} x {height} pixels. {hint}"
        )
    clipped: Boxes = np.clip(corners, 0, limit).astype(np.float32)
    flat = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    if flat.any():
        n = int(flat.argmax())
        about = f"the box {xywh[n].tolist()} has no area in its picture of {width} x {height} pixels."
        raise DataError(f"{where[n]}: {about} {fix}".rstrip())
    return clipped


def look_normalised(rows: Iterable[object]) -> bool:
    """Whether boxes seem to be normalised to 0..1: at least half of them do not reach beyond the first pixel or so.

    Half, because a box of the whole picture, in pixels, may have been added to each picture. Boxes without area do not
    count: some detectors fill up their lists with them.

    Args:
        rows: boxes as their file wrote them, in any order of coordinates; None stands for no box.

    Example:
        >>> look_normalised([[0.5, 0.5, 0.25, 0.1], [0, 0, 640, 480]])
        True
        >>> look_normalised([[0.5, 0.5, 0.25, 0.1], [3, 7, 1, 1], [9, 7, 20, 20]])
        False
    """
    small = others = 0
    for row in rows:
        if row is None:
            continue
        if isinstance(row, (list, tuple)) and all(type(v) in (int, float) and abs(v) < UNIT for v in row):
            small += any(row[2:])
        else:
            others += 1
    return small > 0 and small >= others
