"""PIL's Gaussian blur of a whole picture, by PIL on a CPU and by running sums on a device.

``ImageFilter.GaussianBlur`` is three box blurs per axis whose width may be fractional and which repeat the picture's
edge pixels (Gwosdek et al., SSVM 2011, "Theoretical foundations of Gaussian convolution by extended box filtering").
PIL computes each of the six passes in fixed point and rounds it to whole grey levels; the sums do the same, so that
both give the same pixels. (As one matrix product per axis the blur differs by two levels, and what is drawn from a few
pixels of it by three.)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from bsap.views.resample import Method, choose

_PASSES = 3
_LARGEST = 2048  # pixels of a side; the sums of larger pictures take a gigabyte on the device
_BITS = 24  # of the fixed point


def gaussian_blur(picture: Tensor, std: float, *, method: Method = "auto") -> Tensor:
    """Blur a picture as ``PIL.ImageFilter.GaussianBlur(std)`` does.

    Args:
        picture: ``(3, H, W)`` uint8.
        std: standard deviation in pixels; 0 leaves the picture as it is.
        method: ``native`` uses PIL, ``matmul`` the sums, ``auto`` the former on a CPU and the latter elsewhere.

    Returns:
        ``(3, H, W)`` uint8 on the picture's device.

    Example:
        >>> picture = torch.zeros(3, 7, 7, dtype=torch.uint8)
        >>> picture[:, 3, 3] = 255
        >>> gaussian_blur(picture, 1.0)[0, 3]
        tensor([ 1,  6, 24, 42, 24,  6,  1], dtype=torch.uint8)
    """
    if std == 0:
        return picture
    height, width = picture.shape[-2:]
    if choose(method, picture.device) == "native" or max(height, width) > _LARGEST:
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
        pixels = np.array(image.filter(ImageFilter.GaussianBlur(std)))
        return torch.from_numpy(pixels).permute(2, 0, 1).to(picture.device)
    radius = _box_radius(std)
    lines = picture.long()
    for _axis in ("rows", "columns"):
        for _ in range(_PASSES):
            lines = _box_blur(lines, radius)
        lines = lines.transpose(-1, -2).contiguous()
    return lines.to(torch.uint8)


def _box_blur(lines: Tensor, radius: float) -> Tensor:
    """One box blur along the last axis of ``(..., n)`` int64: a sum of whole pixels, and a share of the two beyond."""
    n, whole = lines.shape[-1], int(radius)
    each = int(np.float32(1 << _BITS) / np.float32(2 * radius + 1))  # PIL computes in single precision here
    share = ((1 << _BITS) - (2 * whole + 1) * each) // 2
    places = torch.arange(-whole - 1, n + whole + 1, device=lines.device).clamp(0, n - 1)
    padded = lines[..., places]
    sums = padded.cumsum(-1)
    inside = sums[..., 2 * whole + 1 : 2 * whole + 1 + n] - sums[..., :n]
    beyond = padded[..., :n] + padded[..., 2 * whole + 2 :]
    return (inside * each + beyond * share + (1 << (_BITS - 1))) >> _BITS


def _box_radius(std: float) -> float:
    """Radius of the extended box filter that, three times applied, has the given standard deviation."""
    variance = std * std / _PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part
