"""Where resized windows lie on the encoder's square, and small tensors that are sent to a device only once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SUPPORT = {"bicubic": 2, "bilinear": 1}


@functools.lru_cache(maxsize=512)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small tensor that is kept: sending it again would make the host wait for the device. Not to be written to."""
    return torch.tensor(values, dtype=torch.float64).round().to(dtype).to(device)


def place(windows: Tensor, size: tuple[int, int], resize: str) -> Tensor:
    """Where resized windows lie on a result.

    Args:
        windows: ``(N, 4)`` int64, half-open pixel boxes.
        size: ``(h, w)`` of the result.
        resize: ``squash``, ``longest`` or ``shortest``.

    Returns:
        ``(N, 4)`` int64: width and height of the whole resized window, and its left and top on the result, which are
        negative where the window is cut off.
    """
    if resize == "squash":
        return constant((size[1], size[0], 0, 0), torch.int64, windows.device).expand(len(windows), 4)
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
        return torch.cat([extent, (target - extent) // 2], dim=1)
    extent = torch.where(leading, cross // other, target)
    excess = extent - target
    offset = -(excess // 2 + (excess % 4 == 3))  # round(excess / 2), half to even, as torchvision does
    return torch.cat([extent, offset], dim=1)
