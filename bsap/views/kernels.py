"""PIL's antialiased resampling as matrices: one row of weights for each pixel of the result, for many windows at once.

Nothing here asks the device for a value, and the number of kernels is kept small: for pictures of everyday size their
launches, not their work, are the cost.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

SUPPORT = {"bicubic": 2, "bilinear": 1}


@functools.lru_cache(maxsize=512)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small tensor that is kept: sending it again would make the host wait for the device. Not to be written to."""
    return torch.tensor(values, dtype=torch.float64).round().to(dtype).to(device)


@dataclass(frozen=True)
class Placement:
    """Where resized windows lie on the result.

    Attributes:
        extent: ``(N, 2)`` int64, width and height of the whole resized window.
        offset: ``(N, 2)`` int64, its left and top on the result; negative where the window is cut off.
    """

    extent: Tensor
    offset: Tensor


def place(windows: Tensor, size: tuple[int, int], resize: str) -> Placement | None:
    """Where ``longest`` and ``shortest`` put windows on a result of ``size``; None for ``squash``, which fills it.

    Args:
        windows: ``(N, 4)`` int64, half-open pixel boxes.
        size: ``(h, w)``.
        resize: how.
    """
    if resize == "squash":
        return None
    if resize not in ("longest", "shortest"):
        raise ValueError(f"Expected argument `resize` to be 'squash', 'longest' or 'shortest', but got {resize!r}.")
    target = constant((size[1], size[0]), torch.int64, windows.device)
    sides = windows[:, 2:] - windows[:, :2]
    # In whole numbers, so that the side that meets the result does so exactly.
    cross, other = sides * target.flip(0), sides.flip(1)
    tall = cross[:, 1:] > cross[:, :1]
    leading = torch.cat([~tall, tall], dim=1)  # the side that is longer than the result's shape allows
    if resize == "longest":
        extent = torch.where(leading, target, ((2 * cross + other) // (2 * other)).clamp(min=1))
        return Placement(extent, (target - extent) // 2)
    extent = torch.where(leading, cross // other, target)
    excess = extent - target
    return Placement(extent, -(excess // 2 + (excess % 4 == 3)))  # round(excess / 2), half to even, as torchvision does


def weights(
    windows: Tensor,
    source: tuple[int, int],
    size: tuple[int, int],
    placement: Placement | None,
    interpolation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The matrices that resample windows of a picture along its rows and along its columns.

    Args:
        windows: ``(N, 4)`` int64, half-open pixel boxes.
        source: ``(H, W)`` of the picture.
        size: ``(h, w)`` of the result.
        placement: from :func:`place`.
        interpolation: the kernel, widened by the scale when shrinking.
        dtype: of the result.

    Returns:
        ``(N, w, W)`` and ``(N, h, H)``, zero outside of the windows and on padding; rows sum to 1.
    """
    device, canvas, extent = windows.device, max(size), max(source)
    # Placed windows keep their shape but for rounding: a side of 1.49 pixels becomes 1.
    shrink = max(source[0] / size[0], source[1] / size[1]) if placement is None else 1.5 * extent / min(size)
    taps = min(extent, 2 * math.ceil(SUPPORT[interpolation] * max(1.0, shrink)) + 1)
    start = windows[:, :2, None, None]
    length = windows[:, 2:, None, None] - start
    pixel, tap = _steps(canvas, device)[:, None], _steps(taps, device)
    if placement is None:
        scale = length / constant((size[1], size[0]), torch.float32, device)[:, None, None]
    else:
        pixel = pixel - placement.offset[:, :, None, None]
        scale = length / placement.extent[:, :, None, None]
    wide = scale.clamp(min=1.0)
    # Relative to the middles of the source's pixels: PIL's `centre` less a half.
    centre = torch.add(-0.5, scale * (pixel + 0.5))
    first = torch.sub(centre, wide, alpha=SUPPORT[interpolation]).add_(1.0).floor_().clamp_(min=0)
    first = first.minimum(length)
    position = first + tap
    x = (position - centre).div_(wide).abs_()
    weight = (_bicubic(x) if interpolation == "bicubic" else (1 - x).clamp_(min=0)).mul_(position < length)
    weight = weight / weight.sum(-1, keepdim=True)
    if placement is not None:
        weight = torch.where((pixel >= 0) & (pixel < placement.extent[:, :, None, None]), weight, 0.0)
    # Taps past the end have weight zero; they land in columns that are cut off, so that no two taps share a column.
    dense = torch.zeros(len(windows), 2, canvas, aligned(extent + taps), dtype=dtype, device=device)
    dense.scatter_(3, (position + start).long(), weight.to(dtype))
    return dense[:, 0, : size[1], : source[1]], dense[:, 1, : size[0], : source[0]]


def aligned(length: int) -> int:
    """The next multiple of 8: the row length that tensor cores want."""
    return -(-length // 8) * 8


@functools.lru_cache(maxsize=64)
def _steps(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device, dtype=torch.float32)


def _bicubic(x: Tensor) -> Tensor:
    """Keys's cubic kernel with a = -0.5, for x >= 0: a piece up to 1, where it is 0, and a piece from 1 to 2."""
    near, far = x.clamp(max=1.0), x.clamp(1.0, 2.0)
    return ((1.5 * near - 2.5) * near * near + 1) - 0.5 * (far - 1) * (far - 2) ** 2
