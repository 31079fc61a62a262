"""Pictures, boxes and masks in the forms that Python users have them in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor

from bsap.datamodules.boxes import UNIT, look_normalised
from bsap.datamodules.files import what_is
from bsap.datamodules.picture_files import load_picture, picture_size
from bsap.datamodules.scene import RLE, Proposals
from bsap.errors import DataError

_ROUNDING = 1.0  # pixels by which a box may reach beyond its picture


def to_pixels(picture: Any) -> Tensor:
    """A picture as pixels.

    Args:
        picture: a file, a PIL picture, a NumPy array (H, W, 3) or (H, W), or a tensor (3, H, W), uint8.

    Returns:
        (3, H, W) uint8, RGB, on the CPU.

    Raises:
        DataError: a file that is missing or cannot be decoded.
        ValueError: another type, shape or number type.
    """
    if isinstance(picture, (str, os.PathLike)):
        path = Path(picture).expanduser()
        if not path.is_file():
            raise DataError(f"{path} {what_is(path)}. Pass the path of a picture file.")
        return load_picture(path, *picture_size(path))
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
    if isinstance(picture, Tensor):
        pixels, wanted = picture.detach().cpu(), "(3, H, W)"
        fits = pixels.ndim == 3 and pixels.shape[0] == 3
    elif isinstance(picture, np.ndarray):
        rows = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
        fits, wanted = rows.ndim == 3 and rows.shape[2] == 3, "(H, W, 3) or (H, W)"
        pixels = torch.from_numpy(np.array(rows))
        pixels = pixels.permute(2, 0, 1).contiguous() if fits else pixels
    else:
        raise ValueError(
            f"Expected argument `picture` to be a path, a PIL picture, an array or a tensor, but got "
            f"{type(picture).__name__}."
        )
    if not fits or pixels.numel() == 0 or pixels.dtype != torch.uint8:
        raise ValueError(
            f"Expected argument `picture` to be uint8 of shape {wanted}, RGB, but got {picture.dtype} of shape "
            f"{tuple(picture.shape)}."
        )
    return pixels


def to_proposals(regions: Any, height: int, width: int) -> Proposals:
    """Candidate regions of a picture.

    Args:
        regions: R boxes as corners ``[x1, y1, x2, y2]`` in pixels (a list, an array or a tensor (R, 4)); torchvision's
            ``BoundingBoxes`` in any of their formats; an object with ``xyxy`` and perhaps ``mask``, as supervision's
            ``Detections``; or masks (R, H, W).
        height: H of the picture.
        width: W of the picture.

    Raises:
        ValueError: another shape, or a region that is empty or reaches beyond the picture.
    """
    masks = None
    if hasattr(regions, "xyxy"):
        masks = getattr(regions, "mask", None)
        regions = regions.xyxy
    kind = getattr(getattr(regions, "format", None), "value", None)
    rows = _array(regions)
    if rows.ndim == 3:
        return _of_masks(rows, height, width)
    if isinstance(kind, str) and kind.lower() != "xyxy":
        from torchvision.ops import box_convert

        rows = box_convert(torch.from_numpy(rows.astype(np.float32)), kind.lower(), "xyxy").numpy()
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise ValueError(
            f"Expected argument `regions` to be boxes of shape (R, 4) or masks of shape (R, {height}, {width}), R at "
            f"least 1, but got shape {rows.shape}."
        )
    boxes = rows.astype(np.float32)
    low, high = boxes[:, :2], boxes[:, 2:]
    inside = (low >= -_ROUNDING).all(1) & (high <= np.array([width, height]) + _ROUNDING).all(1)
    good = np.isfinite(boxes).all(1) & (low < high).all(1) & inside
    if not good.all():
        n = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"Expected argument `regions` to hold boxes [x1, y1, x2, y2] with x1 < x2 and y1 < y2 in the picture of "
            f"{width} x {height} pixels, but box {n} is {boxes[n].tolist()}."
        )
    if look_normalised(boxes.tolist()) and min(width, height) > 2 * UNIT:
        raise ValueError(
            "Expected argument `regions` to hold boxes in pixels, but these look normalised to 0..1. "
            f"Multiply x by {width} and y by {height}."
        )
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    if masks is None:
        return Proposals(boxes)
    found = _of_masks(_array(masks), height, width)
    if len(found) != len(boxes):
        raise ValueError(f"Expected argument `regions` to have {len(boxes)} masks, but got {len(found)}.")
    return Proposals(boxes, found.masks)


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    try:
        rows = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"Expected argument `regions` to be R boxes of four numbers, but {error}.") from error
    if rows.dtype.kind not in "fiub":
        raise ValueError(f"Expected argument `regions` to hold numbers, but got {rows.dtype}.")
    return rows


def _of_masks(masks: np.ndarray[Any, Any], height: int, width: int) -> Proposals:
    if masks.shape[1:] != (height, width) or not len(masks):
        raise ValueError(
            f"Expected masks in argument `regions` to be of shape (R, {height}, {width}), the picture's, but got "
            f"{masks.shape}."
        )
    if masks.dtype.kind == "f" and not np.isin(masks, (0, 1)).all():
        raise ValueError(
            f"Expected masks in argument `regions` to be 0 or 1, but got numbers from {masks.min():.4g} to "
            f"{masks.max():.4g}. Use `masks > 0` for logits and `masks > 0.5` for probabilities."
        )
    planes = masks != 0
    empty = ~planes.any((1, 2))
    if empty.any():
        raise ValueError(f"Expected masks in argument `regions` to have pixels, but mask {empty.argmax()} has none.")
    found = coco.encode(np.asfortranarray(planes.transpose(1, 2, 0).astype(np.uint8)))
    encoded = tuple(RLE(size=list(mask["size"]), counts=mask["counts"]) for mask in found)
    xywh = np.asarray(coco.toBbox(list(found)))
    return Proposals(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1).astype(np.float32), encoded)
