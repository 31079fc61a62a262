"""Resampling windows of pictures as PIL does.

There is one definition: PIL's ``resize`` with antialiasing, that is a pass over rows, rounded and clipped to 0..255,
and then a pass over columns. (From version 13 on, Pillow takes the cheaper order; where one axis shrinks and the other
grows that differs by up to 31 grey levels at hard edges. The published numbers were made with the order used here.)
Two methods agree with it to two grey levels of 255:

``native``
    torch's own antialiased uint8 ``interpolate``, region by region: the fastest on a CPU.
``fused``
    Triton kernels for all regions of many pictures at once, on a CUDA device: :mod:`bsap.views.fused`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bsap.views.placement import SUPPORT, constant, place
from bsap.views.shapes import Figure

Method = Literal["auto", "native", "fused"]

_CHUNK_BYTES = {"cpu": 1 << 26}
_DEVICE_CHUNK_BYTES = 1 << 29
# `shortest` would scale a window one pixel high to millions of columns before cutting nearly all of them off.
_THIN = 16


@dataclass(frozen=True, eq=False)
class Drawing:
    """Some regions of one picture, ready to be drawn.

    Attributes:
        inner: what is shown inside the figure, from :func:`layer`.
        outer: what is shown outside.
        inside: the figure of each region, as a :class:`~bsap.views.shapes.Figure` or ``(R, 1, H, W)`` bool; None where
            all of ``inner`` is shown.
        windows: ``(R, 4)`` int64 half-open pixel boxes on the CPU, or ``(1, 4)`` for all regions.
        count: R.
        height: H of the picture.
        width: W of the picture.
    """

    inner: Tensor
    outer: Tensor
    inside: Figure | Tensor | None
    windows: Tensor
    count: int
    height: int
    width: int


def chunks(count: int, picture: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Slices over ``count`` regions, each small enough that the pictures of its regions take bounded memory."""
    height, width = picture.shape[-2:]
    region = 4 * 3 * height * max(width, size[1])
    step = max(1, _CHUNK_BYTES.get(picture.device.type, _DEVICE_CHUNK_BYTES) // region)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def choose(method: Method, device: torch.device) -> Method:
    """Resolve ``auto``: ``fused`` on a CUDA device where Triton is installed, ``native`` elsewhere."""
    if method not in ("auto", "native", "fused"):
        raise ValueError(f"Expected argument `method` to be 'auto', 'native' or 'fused', but got {method!r}.")
    if method == "auto":
        return "fused" if device.type == "cuda" and importlib.util.find_spec("triton") else "native"
    return method


def layer(pixels: Tensor, height: int, width: int, *, method: Method = "auto") -> Tensor:
    """A picture ``(3, H, W)`` or a colour ``(3, 1, 1)``, laid out as drawing needs it.

    Returns:
        For ``native``, ``(4, H, W)`` uint8 with four bytes to a pixel, the last unused; for ``fused``, the pixels.
    """
    if choose(method, pixels.device) == "fused":
        return pixels
    out = pixels.new_zeros(height, width, 4)
    out[..., :3] = pixels.permute(1, 2, 0)
    return out.permute(2, 0, 1)


def compose(inside: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """``(R, 4, H, W)`` uint8: ``inner`` where ``inside`` ``(R, 1, H, W)``, else ``outer``, both from :func:`layer`."""
    # A pixel is one int32: a third of the work, and the layout that interpolate() wants.
    a, b = (x.permute(1, 2, 0).view(torch.int32)[..., 0] for x in (inner, outer))
    return torch.where(inside[:, 0], a, b)[..., None].view(torch.uint8).permute(0, 3, 1, 2)


def resample(
    images: Tensor,
    windows: Tensor,
    size: tuple[int, int],
    *,
    resize: str = "squash",
    interpolation: str = "bicubic",
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Cut a window out of each image and bring it to one size, by the method ``native``.

    Args:
        images: ``(S, C, H, W)`` whole numbers 0..255, of any type, on the CPU; ``C`` = 3, or 4 of which the last is
            ignored; ``S`` = ``R``, or 1 when all regions share one image.
        windows: ``(N, 4)`` int64 half-open pixel boxes, ``N`` = ``R``, or 1 when all images share one window.
        size: ``(h, w)`` of the result.
        resize: ``squash`` to the size whatever the shape; ``longest`` keeps the shape and pads with ``fill``
            around the middle; ``shortest`` keeps the shape and cuts the middle out.
        interpolation: the kernel, ``bicubic`` or ``bilinear``, widened by the scale when shrinking.
        fill: red, green, blue, 0..255, for the padding.

    Returns:
        ``(R, 3, h, w)`` uint8.

    Example:
        >>> picture = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
        >>> resample(picture, torch.tensor([[1, 1, 3, 3]]), (2, 2))[0, 0]
        tensor([[ 5,  6],
                [ 9, 10]], dtype=torch.uint8)
    """
    if interpolation not in SUPPORT:
        raise ValueError(f"Expected argument `interpolation` to be 'bicubic' or 'bilinear', but got {interpolation!r}.")
    h, w = size
    count = max(len(images), len(windows))
    places = place(windows, size, resize).expand(count, 4).tolist()
    out = constant(fill, torch.uint8, images.device)[:, None, None].repeat(count, 1, h, w)
    images, boxes = images.to(torch.uint8).expand(count, -1, -1, -1), windows.expand(count, 4).tolist()
    for image, (x1, y1, x2, y2), (width, height, left, top), result in zip(images, boxes, places, out, strict=True):
        cut = image[None, :, y1:y2, x1:x2]
        if max(height, width) > _THIN * max(h, w):
            result.copy_(_cut_middle(cut[0, :3], (width, height), (left, top), size, interpolation))
            continue
        cut = cut.contiguous(memory_format=torch.channels_last)
        scaled = torch.nn.functional.interpolate(cut, (height, width), mode=interpolation, antialias=True)[0, :3]
        visible = scaled[:, max(0, -top) :, max(0, -left) :][:, :h, :w]
        result[:, max(0, top) :, max(0, left) :][:, : visible.shape[1], : visible.shape[2]] = visible
    return out


def _cut_middle(
    cut: Tensor, extent: tuple[int, int], offset: tuple[int, int], size: tuple[int, int], interpolation: str
) -> Tensor:
    """The visible part of a very thin window that ``shortest`` enlarges, by PIL: ``(3, h, w)`` uint8."""
    image = Image.fromarray(cut.permute(1, 2, 0).contiguous().numpy())
    method = Image.Resampling[interpolation.upper()]
    left, right = (x * image.width / extent[0] for x in (-offset[0], size[1] - offset[0]))
    top, bottom = (y * image.height / extent[1] for y in (-offset[1], size[0] - offset[1]))
    image = image.resize((size[1], image.height), method, box=(left, 0, right, image.height))
    image = image.resize((size[1], size[0]), method, box=(0, top, size[1], bottom))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
