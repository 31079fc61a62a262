"""Exact overlaps of run-length encoded masks, without ever decoding a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

RLE = Mapping[str, Any]
"""A COCO run-length encoding: ``size`` is [height, width], ``counts`` the compressed runs."""

_MAX_PIXELS = 2**32  # pycocotools counts in uint32


def _check_masks(name: str, masks: Sequence[RLE]) -> None:
    for mask in masks:
        if not isinstance(mask["counts"], bytes | str):
            raise ValueError(
                f"Expected argument `{name}` to be compressed run-length encodings, "
                f"but got counts of type {type(mask['counts']).__name__}."
            )
        height, width = mask["size"]
        if int(height) * int(width) >= _MAX_PIXELS:
            raise ValueError(f"Expected argument `{name}` to have less than 2^32 pixels, but got {height} x {width}.")


def _check_same_size(pred: RLE, target: RLE) -> None:
    """Refuse two pictures: pycocotools would answer -1 or 0 and raise nothing."""
    if tuple(pred["size"]) != tuple(target["size"]):
        raise ValueError(
            f"Expected argument `pred` to be a mask of the target's size, height x width {_size(target)}, "
            f"but got {_size(pred)}."
        )


def _size(mask: RLE) -> str:
    height, width = mask["size"]
    return f"{height} x {width}"


def _area(mask: RLE) -> int:
    return int(coco.area(mask))  # a uint32, which would wrap when subtracted


def mask_overlap(pred: RLE | None, target: RLE) -> tuple[int, int]:
    """Pixels in both masks and pixels in either.

    Args:
        pred: the chosen mask, or None where there is nothing to choose from.
        target: the referent's mask, of the same picture.

    Returns:
        Intersection and union, exact for pictures of less than 2^32 pixels. Without ``pred``: 0 and the target's area.

    Raises:
        ValueError: if the masks are of different sizes, or not compressed encodings.

    Example:
        >>> left = {"size": [2, 4], "counts": b"044"}
        >>> middle = {"size": [2, 4], "counts": b"242"}
        >>> mask_overlap(left, middle)
        (2, 6)
        >>> mask_overlap(None, middle)
        (0, 4)
    """
    _check_masks("target", [target])
    if pred is None:
        return 0, _area(target)
    _check_masks("pred", [pred])
    _check_same_size(pred, target)
    intersection = _area(coco.merge([pred, target], intersect=True))
    return intersection, _area(pred) + _area(target) - intersection


def mask_union(masks: Sequence[RLE]) -> dict[str, Any]:
    """The pixels of any of several masks of one picture.

    Args:
        masks: at least one mask.

    Raises:
        ValueError: if there is no mask, or the sizes differ.

    Example:
        >>> left = {"size": [2, 4], "counts": b"044"}
        >>> middle = {"size": [2, 4], "counts": b"242"}
        >>> int(coco.area(mask_union([left, middle])))
        6
    """
    if not masks:
        raise ValueError("Expected argument `masks` to be at least one mask, but got none.")
    _check_masks("masks", masks)
    for mask in masks:
        if tuple(mask["size"]) != tuple(masks[0]["size"]):
            raise ValueError(
                f"Expected argument `masks` to be of one size, height x width {_size(masks[0])}, but got {_size(mask)}."
            )
    merged: dict[str, Any] = coco.merge(list(masks))
    return merged


def best_overlap(pred: RLE | None, targets: Sequence[RLE]) -> tuple[int, int]:
    """The overlap with that of several target masks that fits best, for referents with several annotations.

    Args:
        pred: the chosen mask, or None where there is nothing to choose from.
        targets: at least one mask.

    Returns:
        Intersection and union of the pair with the highest quotient, compared exactly; ties go to the first.

    Raises:
        ValueError: if there is no target, or the sizes differ.

    Example:
        >>> left = {"size": [2, 4], "counts": b"044"}
        >>> middle = {"size": [2, 4], "counts": b"242"}
        >>> best_overlap(left, [middle, left])
        (4, 4)
    """
    if not targets:
        raise ValueError("Expected argument `targets` to be at least one mask, but got none.")
    best, *others = (mask_overlap(pred, target) for target in targets)
    for intersection, union in others:
        if intersection * best[1] > best[0] * union:
            best = intersection, union
    return best


def mask_overlap_matrix(preds: Sequence[RLE], targets: Sequence[RLE]) -> tuple[Tensor, Tensor]:
    """Overlaps of every region of a picture with every target, about four times faster than pair by pair.

    Args:
        preds: R masks.
        targets: T masks of the same picture.

    Returns:
        Intersections and unions, each ``(R, T)`` int64, the integers that :func:`mask_overlap` counts.

    Raises:
        ValueError: if the sizes differ, or a mask is not a compressed encoding.

    Example:
        >>> left = {"size": [2, 4], "counts": b"044"}
        >>> middle = {"size": [2, 4], "counts": b"242"}
        >>> mask_overlap_matrix([left], [left, middle])
        (tensor([[4, 2]]), tensor([[4, 6]]))
    """
    _check_masks("preds", preds)
    _check_masks("targets", targets)
    if not preds or not targets:
        empty = torch.zeros(len(preds), len(targets), dtype=torch.int64)
        return empty, empty.clone()
    for mask in (*preds, *targets):
        _check_same_size(mask, targets[0])
    iou = np.asarray(coco.iou(list(preds), list(targets), [0] * len(targets)), dtype=np.float64)
    areas = coco.area(list(preds)).astype(np.int64)[:, None] + coco.area(list(targets)).astype(np.int64)
    # I = iou (|a| + |b|) / (1 + iou) in real numbers. Rounding spoils a few of 53 bits, I has at most 32: the nearest
    # integer is the count.
    intersection = np.rint(iou * areas / (1 + iou)).astype(np.int64)
    return torch.from_numpy(intersection), torch.from_numpy(areas - intersection)
