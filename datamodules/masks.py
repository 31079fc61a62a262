"""Masks as files write them, checked and turned into COCO run-length encodings.

pycocotools trusts its input: a run-length encoding that is cut short, or whose runs do not add up to the picture, is
read or written beyond its memory. So every encoding is checked here before it may reach that code.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import islice
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from bsap.datamodules.boxes import ROUNDING
from bsap.datamodules.fields import shown, whole
from bsap.datamodules.records import RegionRecord
from bsap.datamodules.scene import RLE
from bsap.errors import DataError

_NUMBERS = {int, float}
_LONGEST_RUN = 7  # characters of 5 bits: enough for 32-bit runs


def encode_mask(segmentation: object, width: int, height: int, where: str) -> RLE | None:
    """A mask as a compressed run-length encoding of the picture's size.

    Args:
        segmentation: a list of polygons ``[x1, y1, x2, y2, ...]`` whose union is the mask, or a run-length encoding
            ``{"size": [H, W], "counts": ...}``, compressed (text or bytes) or not (a list). None and [] mean no mask.
        width: W of the picture in pixels.
        height: H of the picture in pixels.
        where: the place, for errors.

    Returns:
        The encoding, or None where there is no mask.

    Raises:
        DataError: if it is none of these, or of another size than the picture.

    Example:
        >>> square = encode_mask([[1, 1, 3, 1, 3, 3, 1, 3]], 5, 4, "annotation 1")
        >>> square["size"], int(coco.area(square))
        ([4, 5], 4)
    """
    return encode_masks([segmentation], width, height, [where])[0]


def encode_masks(segmentations: Sequence[object], width: int, height: int, where: Sequence[str]) -> list[RLE | None]:
    """The masks of one picture, as :func:`encode_mask` gives them: its polygons are checked and drawn in one go.

    Args:
        segmentations: N masks, in any of the forms.
        width: W of the picture in pixels.
        height: H of the picture in pixels.
        where: N places, for errors.

    Returns:
        N encodings; None where there is no mask.

    Raises:
        DataError: as :func:`encode_mask`.
    """
    masks: list[RLE | None] = [None] * len(segmentations)
    polygons: list[NDArray[np.float64]] = []
    drawn: list[tuple[int, int]] = []  # a mask and how many of the polygons are its parts
    for n, (segmentation, place) in enumerate(zip(segmentations, where, strict=True)):
        if segmentation is None:
            continue
        if isinstance(segmentation, (list, tuple)):
            if segmentation:
                polygons += _polygons(segmentation, place)
                drawn.append((n, len(segmentation)))
        elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
            masks[n] = _run_lengths(segmentation, width, height, place)
        else:
            raise DataError(
                f"{place}: a mask must be polygons or a run-length encoding, but got {shown(segmentation)}."
            )
    if not polygons:
        return masks
    if not _inside(np.concatenate(polygons), width, height):
        _raise_outside(polygons, width, height, [where[n] for n, parts in drawn for _ in range(parts)])
    encoded = iter(coco.frPyObjects(polygons, height, width))
    for n, count in drawn:
        parts = list(islice(encoded, count))
        merged = coco.merge(parts) if count > 1 else parts[0]
        masks[n] = RLE(size=[height, width], counts=merged["counts"])
    return masks


class PictureMasks:
    """The masks of one picture's annotated objects and proposals, each encoded once, whoever asks for it.

    Args:
        width: W of the picture in pixels.
        height: H of the picture in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._known: dict[RegionRecord, RLE | None] = {}

    def of(self, regions: Sequence[RegionRecord]) -> list[RLE | None]:
        """Their encodings, None where there is no mask; raises as :func:`encode_mask`."""
        new = [region for region in regions if region not in self._known]
        masks = encode_masks([r.segmentation for r in new], self.width, self.height, [r.where for r in new])
        self._known.update(zip(new, masks, strict=True))
        return [self._known[region] for region in regions]


def pack_polygons(segmentation: object) -> object:
    """Polygons in a quarter of the memory, for files with millions of corners; anything else as it is."""
    if type(segmentation) is not list or not segmentation:
        return segmentation
    if any(type(part) is not list or not set(map(type, part)) <= _NUMBERS for part in segmentation):
        return segmentation
    try:
        return tuple(array("d", part) for part in segmentation)
    except OverflowError:
        return segmentation


def boxes_of_masks(masks: list[RLE]) -> NDArray[np.float64]:
    """The tight boxes of masks: (N, 4) float64, ``[x, y, width, height]``; a mask without pixels has size 0."""
    if not masks:
        return np.zeros((0, 4))
    return np.asarray(coco.toBbox(masks), dtype=np.float64).reshape(-1, 4)


def is_empty(mask: RLE) -> bool:
    """Whether a mask has no pixel, as very thin polygons have none."""
    return int(coco.area(mask)) == 0


def whole_mask(width: int, height: int) -> RLE:
    """The encoding that covers a whole picture."""
    counts = coco.frPyObjects({"size": [height, width], "counts": [0, height * width]}, height, width)["counts"]
    return RLE(size=[height, width], counts=counts)


def _polygons(parts: Sequence[object], where: str) -> list[NDArray[np.float64]]:
    polygons = []
    for part in parts:
        packed = isinstance(part, array)
        plain = isinstance(part, list) and set(map(type, part)) <= _NUMBERS
        if not (packed or plain) or len(part) < 6 or len(part) % 2:  # type: ignore[arg-type]
            raise DataError(f"{where}: a polygon must be a list of at least three x, y pairs, but got {shown(part)}.")
        try:
            polygons.append(np.asarray(part, dtype=np.float64))
        except OverflowError:
            polygons.append(np.full(len(part), np.inf))  # type: ignore[arg-type]
    return polygons


def _inside(corners: NDArray[np.float64], width: int, height: int) -> bool:
    pairs = corners.reshape(-1, 2)
    limit = np.array([width, height]) + ROUNDING
    return bool((pairs >= -ROUNDING).all() and (pairs <= limit).all())  # so that NaN fails, too


def _raise_outside(polygons: list[NDArray[np.float64]], width: int, height: int, where: list[str]) -> NoReturn:
    n = next(n for n, corners in enumerate(polygons) if not _inside(corners, width, height))
    corners = shown(polygons[n].tolist())
    raise DataError(
        f"{where[n]}: a polygon reaches beyond its picture of {width} x {height} pixels: {corners}. "
        "Polygons are in pixels of the original picture: are these of another picture size?"
    )


def _run_lengths(segmentation: dict[object, object], width: int, height: int, where: str) -> RLE:
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise DataError(
            f"{where}: the mask's size {shown(size)} is not [height, width] = {[height, width]} of its picture. "
            "Masks must have the picture's own size."
        )
    if isinstance(counts, list):
        lengths = [-1 if (run := whole(given)) is None else run for given in counts]
        if any(not 0 <= run <= width * height for run in lengths):
            raise DataError(f"{where}: run lengths must be whole numbers of pixels, but got {shown(counts)}.")
        runs = np.array(lengths, dtype=np.int64)
    else:
        given = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        data = given if isinstance(given, bytes) else b""
        decoded = _decode_runs(data)
        if decoded is None:
            raise DataError(f"{where}: the mask's counts are no run-length encoding: {shown(counts)}.")
        runs = decoded
    if (runs < 0).any() or runs.sum() != width * height:
        raise DataError(f"{where}: the mask's runs cover {int(runs.sum())} pixels, its picture has {width} x {height}.")
    if isinstance(counts, list):
        encoded = coco.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
        return RLE(size=[height, width], counts=encoded["counts"])
    return RLE(size=[height, width], counts=data)


def _decode_runs(data: bytes) -> NDArray[np.int64] | None:
    """The runs of a compressed encoding, or None if it is not one.

    Each run is written in characters of 5 bits, least significant first, from ``0`` on, with bit 5 for "more follows"
    and the last character's bit 4 as sign. From the fourth run on, the difference to the run two before is written.
    """
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _LONGEST_RUN:
        return None
    place = np.arange(len(codes)) - np.repeat(first, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
