"""Boxes and masks on the grid of a picture's pixels: which pixels belong to a region and to its outline.

Boxes are continuous, pixels are not. :func:`pixel_boxes` and :func:`drawn_boxes` are the two ways of rounding found in
published code; both leave at least one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bsap.views.placement import constant


@dataclass(frozen=True, eq=False)
class Figure:
    """Boxes or ellipses, filled or outlined: what kernels draw without a mask of pixels.

    Attributes:
        boxes: ``(R, 4)`` int64, half-open pixel boxes.
        ellipse: the ellipses inscribed in the boxes instead of the boxes.
        line: thickness in pixels of an outline drawn inwards; 0 fills the figure.
    """

    boxes: Tensor
    ellipse: bool = False
    line: int = 0

    def pixels(self, height: int, width: int) -> Tensor:
        """The figure's pixels in a picture of the given size: bool ``(R, 1, H, W)``."""
        filled = ellipses if self.ellipse else rectangles
        whole = filled(self.boxes, height, width)
        return whole & ~filled(self.boxes, height, width, inset=self.line) if self.line else whole


def pixel_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels that PIL's ``crop`` takes for continuous boxes, clipped to the picture, never empty.

    Args:
        boxes: ``(R, 4)``, xyxy in pixels.
        height: ``H`` of the picture.
        width: ``W`` of the picture.

    Returns:
        ``(R, 4)`` int64, half open: columns ``x1 <= x < x2`` and rows ``y1 <= y < y2``. Coordinates are rounded half to
        even, as PIL rounds them; a box narrower than a pixel becomes one pixel wide.

    Example:
        >>> pixel_boxes(torch.tensor([[0.6, 1.5, 3.4, 1.6], [-5.0, 2.0, 50.0, 9.0]]), height=6, width=8)
        tensor([[1, 2, 3, 3],
                [0, 2, 8, 6]])
    """
    return _clip(boxes.round(), height, width)


def drawn_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels that PIL's ``ImageDraw.rectangle`` fills for continuous boxes: right and bottom pixels included.

    ReCLIP draws its rectangles this way, so they reach up to one pixel further than its crops.

    Args:
        boxes: ``(R, 4)``, xyxy in pixels.
        height: ``H`` of the picture.
        width: ``W`` of the picture.

    Returns:
        ``(R, 4)`` int64, half open like those of :func:`pixel_boxes`.

    Example:
        >>> drawn_boxes(torch.tensor([[0.6, 1.5, 3.4, 1.6], [2.0, 2.0, 8.0, 6.0]]), height=6, width=8)
        tensor([[0, 1, 4, 2],
                [2, 2, 8, 6]])
    """
    return _clip(boxes.floor() + constant((0, 0, 1, 1), torch.float32, boxes.device), height, width)


def grow(boxes: Tensor, margin: float) -> Tensor:
    """Boxes with ``margin`` times their own width added left and right, and of their height above and below.

    Example:
        >>> grow(torch.tensor([[10.0, 10.0, 20.0, 30.0]]), 0.5)
        tensor([[ 5.,  0., 25., 40.]])
    """
    if margin == 0:
        return boxes
    extra = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - extra, boxes[:, 2:] + extra], dim=1)


def rectangles(boxes: Tensor, height: int, width: int, *, inset: int = 0) -> Tensor:
    """Filled rectangles, ``inset`` pixels inside half-open pixel boxes ``(R, 4)``: bool ``(R, 1, H, W)``."""
    x1, y1 = (boxes[:, :2, None] + inset).unbind(1)
    x2, y2 = (boxes[:, 2:, None] - inset).unbind(1)
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    columns, rows = ((x >= x1) & (x < x2)).byte(), ((y >= y1) & (y < y2)).byte()
    return (rows[:, None, :, None] * columns[:, None, None, :]).view(torch.bool)  # bytes multiply faster than bools


def ellipses(boxes: Tensor, height: int, width: int, *, inset: int = 0) -> Tensor:
    """Filled ellipses inscribed in pixel boxes ``(R, 4)``: bool ``(R, 1, H, W)``.

    A pixel belongs to an ellipse when its centre does. ``inset`` shortens both radii by as many pixels; an ellipse
    without a radius is empty.
    """
    low, high = boxes[:, :2].float(), boxes[:, 2:].float()
    centre, radius = (low + high) / 2, (high - low) / 2 - inset
    # A radius of a thousandth of a pixel holds no other pixel's centre than its own.
    empty = (radius <= 0).any(1)
    cx, cy, rx, ry = (v[:, None] for v in torch.cat([centre, radius.clamp(min=1e-3)], dim=1).unbind(1))
    x = (torch.arange(width, device=boxes.device) + 0.5 - cx) / rx
    y = (torch.arange(height, device=boxes.device) + 0.5 - cy) / ry
    limit = torch.where(empty, -1.0, 1.0)[:, None, None]
    return ((y * y)[:, :, None] + (x * x)[:, None, :] <= limit)[:, None]


def edges(masks: Tensor, thickness: int) -> Tensor:
    """Outlines of masks ``(R, 1, H, W)``, ``thickness`` pixels wide, centred on the border.

    What lies outside the picture is background: a mask that reaches the picture's border is outlined there too.
    """
    outer = _spread(masks, thickness // 2, beyond=False)
    inner = ~_spread(~masks, thickness - thickness // 2, beyond=True)
    return outer & ~inner


def _clip(boxes: Tensor, height: int, width: int) -> Tensor:
    last = constant((width - 1, height - 1, width, height), torch.float32, boxes.device)
    low, high = torch.minimum(boxes.clamp(min=0), last).split_with_sizes([2, 2], dim=1)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1).long()


def _spread(masks: Tensor, reach: int, *, beyond: bool) -> Tensor:
    """Dilate by a square of ``2 * reach + 1`` pixels, the picture being surrounded by ``beyond``."""
    for axis in (-1, -2):
        size = masks.shape[axis]
        padding = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
        padded = torch.nn.functional.pad(masks, padding, value=beyond)
        masks = padded.narrow(axis, 0, size)
        for shift in range(1, 2 * reach + 1):
            masks = masks | padded.narrow(axis, shift, size)
    return masks
