"""Masks as files write them, checked and turned into COCO run-length encodings.

pycocotools does not check its input: a run-length encoding that is cut short, or whose runs do not add up to the
picture, makes it read or write outside its memory. So every encoding is checked here first.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from bsap.datamodules.boxes import NORMALISED, ROUNDING, UNIT, look_normalised, read_xywh, to_xyxy
from bsap.datamodules.fields import shown, whole
from bsap.datamodules.records import RegionRecord
from bsap.datamodules.scene import RLE, Boxes
from bsap.errors import DataError

_NUMBERS = {int, float}
_FEWEST = 6  # numbers of a polygon; shorter lists may be corners
_LONGEST_RUN = 7  # characters of 5 bits: enough for 32-bit runs


def encode_mask(segmentation: object, width: int, height: int, where: str) -> RLE | None:
    """A mask as a compressed run-length encoding of the picture's size.

    Args:
        segmentation: a polygon, a run-length encoding, or a list of them whose union is the mask. A polygon is
            ``[x1, y1, x2, y2, ...]`` or ``[[x1, y1], [x2, y2], ...]``. A run-length encoding is
            ``{"size": [H, W], "counts": ...}``, compressed (text or bytes) or not (a list). None and [] mean no mask.
        width: W of the picture in pixels.
        height: H of the picture in pixels.
        where: the place, for errors.

    Returns:
        The encoding, or None where there is no mask.

    Raises:
        DataError: if it is none of these, of another size than the picture, or normalised to 0..1.

    Example:
        >>> square = encode_mask([[1, 1, 3, 1, 3, 3, 1, 3]], 5, 4, "annotation 1")
        >>> square["size"], int(coco.area(square))
        ([4, 5], 4)
        >>> encode_mask([[1, 1], [3, 1], [3, 3], [1, 3]], 5, 4, "annotation 1") == square
        True
        >>> encode_mask([square, square], 5, 4, "annotation 1") == square
        True
    """
    return encode_masks([segmentation], width, height, [where])[0]


def encode_masks(segmentations: Sequence[object], width: int, height: int, where: Sequence[str]) -> list[RLE | None]:
    """N masks of one picture, as :func:`encode_mask` gives each: all polygons are checked and drawn together."""
    parts: list[list[RLE]] = [[] for _ in segmentations]
    polygons: list[NDArray[np.float64]] = []
    owners: list[int] = []  # of each polygon, the mask
    for n, (segmentation, place) in enumerate(zip(segmentations, where, strict=True)):
        for part in _parts(segmentation, place):
            if isinstance(part, dict):
                parts[n].append(_run_lengths(part, width, height, place))
            else:
                polygons.append(_polygon(part, place))
                owners.append(n)
    if polygons:
        _check_corners(polygons, owners, width, height, where)
        _check_scale(polygons, [n if not parts[n] else None for n in owners], width, height, where)
        for n, drawn in zip(owners, coco.frPyObjects(polygons, height, width), strict=True):
            parts[n].append(drawn)
    return [_union(encoded, width, height) if encoded else None for encoded in parts]


class PictureMasks:
    """The masks of one picture's annotated objects and proposals, each encoded once."""

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
    """Polygons in a quarter of the memory, for files with millions of corners; anything else unchanged."""
    if type(segmentation) is not list or not segmentation:
        return segmentation
    if any(
        type(part) is not list or len(part) < _FEWEST or not set(map(type, part)) <= _NUMBERS for part in segmentation
    ):
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


def given_boxes(regions: Sequence[RegionRecord], masks: Mapping[RegionRecord, RLE]) -> NDArray[np.float64]:
    """Boxes as their file gives them, or else those of the masks: (N, 4) float64, ``[x, y, width, height]``."""
    rows = [boxes_of_masks([masks[r]])[0].tolist() if r.bbox is None else r.bbox for r in regions]
    return read_xywh(rows, [r.where for r in regions])


def in_picture(
    xywh: NDArray[np.float64], regions: Sequence[RegionRecord], picture: PictureMasks, *, fix: str = ""
) -> Boxes:
    """The boxes of a picture's regions as :func:`~bsap.datamodules.boxes.to_xyxy` gives them, unless normalised."""
    if look_normalised(xywh.tolist()) and min(picture.width, picture.height) > 2 * UNIT:
        raise DataError(f"{regions[0].where}: the box is {shown(xywh[0].tolist())}. {NORMALISED} {fix}".rstrip())
    return to_xyxy(xywh, picture.width, picture.height, [r.where for r in regions], fix=fix)


def is_empty(mask: RLE) -> bool:
    """Whether a mask has no pixel, as very thin polygons have none."""
    return int(coco.area(mask)) == 0


def whole_mask(width: int, height: int) -> RLE:
    """The encoding that covers a whole picture."""
    counts = coco.frPyObjects({"size": [height, width], "counts": [0, height * width]}, height, width)["counts"]
    return RLE(size=[height, width], counts=counts)


def _parts(segmentation: object, where: str) -> Sequence[object]:
    """The polygons and run-length encodings of a mask, none where there is no mask."""
    if segmentation is None:
        return ()
    if isinstance(segmentation, dict):
        return (segmentation,)
    if isinstance(segmentation, (list, tuple)):
        single = segmentation and (type(segmentation[0]) in _NUMBERS or _are_pairs(segmentation))
        return (segmentation,) if single else segmentation
    raise DataError(f"{where}: a mask must be polygons or a run-length encoding, but got {shown(segmentation)}.")


def _are_pairs(values: Sequence[Any]) -> bool:
    return all(type(v) in (list, tuple) and len(v) == 2 and set(map(type, v)) <= _NUMBERS for v in values)


def _polygon(part: Any, where: str) -> NDArray[np.float64]:
    """One polygon as flat corners."""
    if isinstance(part, (list, tuple)) and part and _are_pairs(part):
        part = [value for pair in part for value in pair]
    plain = isinstance(part, array) or (isinstance(part, (list, tuple)) and set(map(type, part)) <= _NUMBERS)
    if not plain or len(part) < _FEWEST or len(part) % 2:
        raise DataError(
            f"{where}: a polygon must be a list of at least three x, y pairs, and a run-length encoding must have "
            f"'size' and 'counts', but got {shown(part)}."
        )
    try:
        return np.asarray(part, dtype=np.float64)
    except OverflowError:  # an integer that no float holds
        return np.full(len(part), np.inf)


def _check_corners(
    polygons: list[NDArray[np.float64]], owners: list[int], width: int, height: int, where: Sequence[str]
) -> None:
    if not _inside(np.concatenate(polygons), width, height):
        n = next(n for n, polygon in enumerate(polygons) if not _inside(polygon, width, height))
        raise DataError(
            f"{where[owners[n]]}: a polygon reaches beyond its picture of {width} x {height} pixels: "
            f"{shown(polygons[n].tolist())}. Give polygons in pixels of the original picture."
        )


def _check_scale(
    polygons: list[NDArray[np.float64]], owners: list[int | None], width: int, height: int, where: Sequence[str]
) -> None:
    """Raise for a mask of polygons alone, none of which reaches beyond the first pixel or so."""
    starts = np.cumsum([0, *map(len, polygons[:-1])])
    small = np.maximum.reduceat(np.concatenate(polygons), starts) < UNIT
    if not small.any() or min(width, height) <= 2 * UNIT:
        return
    large = {owner for owner, tiny in zip(owners, small.tolist(), strict=True) if not tiny}
    for polygon, owner in zip(polygons, owners, strict=True):
        if owner is not None and owner not in large:
            raise DataError(f"{where[owner]}: the mask is {shown(polygon.tolist())}. {NORMALISED}")


def _inside(corners: NDArray[np.float64], width: int, height: int) -> bool:
    pairs = corners.reshape(-1, 2)
    limit = np.array([width, height]) + ROUNDING
    return bool((pairs >= -ROUNDING).all() and (pairs <= limit).all())  # NaN fails, too


def _union(parts: list[RLE], width: int, height: int) -> RLE:
    merged = coco.merge(parts) if len(parts) > 1 else parts[0]
    return RLE(size=[height, width], counts=merged["counts"])


def _run_lengths(segmentation: dict[Any, Any], width: int, height: int, where: str) -> RLE:
    if not {"size", "counts"} <= segmentation.keys():
        raise DataError(f"{where}: a mask must be polygons or a run-length encoding, but got {shown(segmentation)}.")
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
        data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        decoded = _decode_runs(data) if isinstance(data, bytes) else None
        if decoded is None:
            raise DataError(f"{where}: the mask's 'counts' are not a run-length encoding: {shown(counts)}.")
        runs = decoded
    if (runs < 0).any() or runs.sum() != width * height:
        raise DataError(f"{where}: the mask's runs cover {int(runs.sum())} pixels, its picture has {width} x {height}.")
    if isinstance(counts, list):
        data = coco.frPyObjects({"size": [height, width], "counts": lengths}, height, width)["counts"]
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
