"""PIL's Gaussian blur of whole pictures, by PIL on a CPU and by running sums on a device.

``ImageFilter.GaussianBlur`` is three box blurs per axis whose width may be fractional and which repeat the picture's
edge pixels (Gwosdek et al., SSVM 2011, "Theoretical foundations of Gaussian convolution by extended box filtering").
PIL computes each of the six passes in fixed point and rounds it to whole grey levels; the sums do the same, so that
both give the same pixels. (As one matrix product per axis the blur differs by two levels, and what is drawn from a few
pixels of it by three.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from bsap.views.resample import Method, choose

_PASSES = 3
_LARGEST = 2048  # pixels of a side; the sums of larger pictures take a gigabyte on the device
_TOGETHER = 1 << 23  # pixels, padding included, that are summed at once: about half a gigabyte
_BITS = 24  # of the fixed point


def gaussian_blur(picture: Tensor, std: float, *, method: Method = "auto") -> Tensor:
    """One picture by :func:`gaussian_blurs`.

    Example:
        >>> picture = torch.zeros(3, 7, 7, dtype=torch.uint8)
        >>> picture[:, 3, 3] = 255
        >>> gaussian_blur(picture, 1.0)[0, 3]
        tensor([ 1,  6, 24, 42, 24,  6,  1], dtype=torch.uint8)
    """
    return gaussian_blurs([picture], std, method=method)[0]


def gaussian_blurs(pictures: Sequence[Tensor], std: float, *, method: Method = "auto") -> list[Tensor]:
    """Blur pictures as ``PIL.ImageFilter.GaussianBlur(std)`` does.

    Args:
        pictures: each ``(3, H, W)`` uint8, all on one device.
        std: standard deviation in pixels; 0 leaves pictures as they are.
        method: ``native`` uses PIL, ``fused`` the sums, many pictures at once; ``auto`` the former on a CPU.

    Returns:
        For each picture ``(3, H, W)`` uint8 on its device.
    """
    if std == 0 or not pictures:
        return list(pictures)
    found: dict[int, Tensor] = {}
    groups: list[list[int]] = [[]]
    native = choose(method, pictures[0].device) == "native"
    for index in sorted(range(len(pictures)), key=lambda i: tuple(pictures[i].shape)):
        if native or max(pictures[index].shape[-2:]) > _LARGEST:
            found[index] = _by_pil(pictures[index], std)
            continue
        height, width = (max(pictures[i].shape[axis] for i in [*groups[-1], index]) for axis in (-2, -1))
        if groups[-1] and 3 * height * width * (len(groups[-1]) + 1) > _TOGETHER:
            groups.append([])
        groups[-1].append(index)
    for group in filter(None, groups):
        found |= zip(group, _by_sums([pictures[i] for i in group], std), strict=True)
    return [found[index] for index in range(len(pictures))]


def _by_pil(picture: Tensor, std: float) -> Tensor:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    pixels = np.array(image.filter(ImageFilter.GaussianBlur(std)))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(picture.device)


def _by_sums(pictures: Sequence[Tensor], std: float) -> list[Tensor]:
    """Pictures of any sizes, padded to the largest: about 60 launches for all of them."""
    radius, device = _box_radius(std), pictures[0].device
    sizes = [picture.shape[-2:] for picture in pictures]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    lines = torch.zeros(len(pictures), 3, height, width, dtype=torch.int32, device=device)
    for plane, picture in zip(lines, pictures, strict=True):
        plane[:, : picture.shape[1], : picture.shape[2]] = picture
    for axis in (1, 0):  # along rows, then along columns
        lengths = torch.tensor([size[axis] for size in sizes]).to(device, non_blocking=True)
        for _ in range(_PASSES):
            lines = _box_blur(lines, lengths, radius)
        lines = lines.transpose(-1, -2).contiguous()
    blurred = lines.to(torch.uint8)
    return [plane[:, :rows, :columns] for plane, (rows, columns) in zip(blurred, sizes, strict=True)]


def _box_blur(lines: Tensor, lengths: Tensor, radius: float) -> Tensor:
    """One box blur along the last axis of ``(B, 3, L, n)`` int32, of which ``lengths`` ``(B,)`` pixels are a picture's.

    A sum of whole pixels, and a share of the two beyond.
    """
    n, whole = lines.shape[-1], int(radius)
    each = int(np.float32(1 << _BITS) / np.float32(2 * radius + 1))  # PIL computes in single precision here
    share = ((1 << _BITS) - (2 * whole + 1) * each) // 2
    places = torch.arange(-whole - 1, n + whole + 1, device=lines.device).clamp(min=0)
    places = places.minimum(lengths[:, None] - 1)[:, None, None]
    padded = lines.gather(-1, places.expand(*lines.shape[:-1], -1))
    sums = padded.cumsum(-1, dtype=torch.int32)
    inside = sums[..., 2 * whole + 1 : 2 * whole + 1 + n] - sums[..., :n]
    beyond = padded[..., :n] + padded[..., 2 * whole + 2 :]
    return ((inside.long() * each + beyond.long() * share + (1 << (_BITS - 1))) >> _BITS).int()


def _box_radius(std: float) -> float:
    """Radius of the extended box filter that, three times applied, has the given standard deviation."""
    # PIL computes in single precision here, too; NumPy 1 would leave it for a number of Python's.
    one, two, three, six = np.array([1, 2, 3, 6], np.float32)
    variance = np.float32(std) * np.float32(std) / np.float32(_PASSES)
    whole = np.float32(math.floor((np.float32(math.sqrt(12.0 * float(variance) + 1.0)) - one) / two))
    part = (two * whole + one) * (whole * (whole + one) - three * variance)
    return float(whole + part / (six * (variance - (whole + one) * (whole + one))))
