"""Resampling windows of pictures as PIL does, on a CPU or on a device.

There is one definition: PIL's ``resize`` with antialiasing, that is a horizontal pass, rounded and clipped to 0..255,
and then a vertical pass. (From Pillow 13 on, PIL takes the cheaper order; where one axis shrinks and the other grows
that differs by up to 31 grey levels at hard edges. The published numbers were made with the order used here.)
Two methods agree with it to two grey levels of 255:

``native``
    torch's own antialiased uint8 ``interpolate``, region by region: the fastest on a CPU.
``matmul``
    all regions at once as two batched products with a weight matrix per region and axis, without a loop over
    regions and without waiting for the device. Pictures, being whole numbers up to 255, are exact in half precision,
    and a product accumulates in float32, so that tensor cores can be used without losing a grey level.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from bsap.views.kernels import SUPPORT, aligned, constant, place, weights
from bsap.views.shapes import rectangles

Method = Literal["auto", "native", "matmul"]

_CHUNK_BYTES = {"cpu": 1 << 26}
_DEVICE_CHUNK_BYTES = 1 << 29
_THIN = (
    16  # `shortest` would scale a window one pixel high to millions of columns before cutting nearly all of them off
)


def chunks(count: int, picture: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Slices over ``count`` regions, each small enough that pictures and weights of its regions take bounded memory."""
    height, width = picture.shape[-2:]
    region = 4 * (3 * height * width + 2 * max(size) * max(height, width))
    step = max(1, _CHUNK_BYTES.get(picture.device.type, _DEVICE_CHUNK_BYTES) // region)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def choose(method: Method, device: torch.device) -> Method:
    """Resolve ``auto``: ``native`` on a CPU, ``matmul`` elsewhere."""
    if method not in ("auto", "native", "matmul"):
        raise ValueError(f"Expected argument `method` to be 'auto', 'native' or 'matmul', but got {method!r}.")
    if method == "auto":
        return "native" if device.type == "cpu" else "matmul"
    return method


def layer(pixels: Tensor, height: int, width: int, *, method: Method = "auto") -> Tensor:
    """A picture ``(3, H, W)`` or a colour ``(3, 1, 1)``, laid out as :func:`compose` and :func:`resample` want it.

    Returns:
        For ``native``, ``(4, H, W)`` uint8 with four bytes to a pixel, the last unused; for ``matmul``,
        ``(3, H, W)`` of the products' type, in whose memory rows are outermost.
    """
    if choose(method, pixels.device) == "native":
        out = pixels.new_zeros(height, width, 4)
        out[..., :3] = pixels.permute(1, 2, 0)
        return out.permute(2, 0, 1)
    rows = _rows(1, height, width, _dtype(pixels.device), pixels.device)[0]
    return rows.copy_(pixels.expand(3, height, width))


def compose(inside: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """One picture per region: ``inner`` inside and ``outer`` outside, both from :func:`layer`.

    Args:
        inside: ``(R, 1, H, W)`` bool.
        inner: ``(C, H, W)``.
        outer: ``(C, H, W)``.

    Returns:
        ``(R, C, H, W)`` of the type of the layers.
    """
    if len(inner) == 4:  # a pixel is one int32: a third of the work, and the layout that interpolate() wants
        a, b = (x.permute(1, 2, 0).view(torch.int32)[..., 0] for x in (inner, outer))
        return torch.where(inside[:, 0], a, b)[..., None].view(torch.uint8).permute(0, 3, 1, 2)
    out = _rows(len(inside), inside.shape[-2], inside.shape[-1], inner.dtype, inside.device)
    return torch.where(inside, inner, outer, out=out)


def resample(
    images: Tensor,
    windows: Tensor | None,
    size: tuple[int, int],
    *,
    resize: str = "squash",
    interpolation: str = "bicubic",
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
    method: Method = "auto",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Cut a window out of each image and bring it to one size.

    Args:
        images: ``(S, C, H, W)`` whole numbers 0..255, of any type; ``C`` = 3, or 4 of which the last is ignored;
            ``S`` = ``R``, or 1 when all regions share one image.
        windows: ``(N, 4)`` int64 half-open pixel boxes, ``N`` = ``R``, or 1 when all images share one window;
            None for the whole image.
        size: ``(h, w)`` of the result.
        resize: ``squash`` to the size whatever the shape; ``longest`` keeps the shape and pads with ``fill``
            around the middle; ``shortest`` keeps the shape and cuts the middle out.
        interpolation: the kernel, widened by the scale when shrinking.
        fill: red, green, blue, 0..255, for the padding.
        method: ``auto`` is ``native`` on a CPU, ``matmul`` elsewhere.
        dtype: of the products of ``matmul``; by default float16 on CUDA and float32 elsewhere.

    Returns:
        ``(R, 3, h, w)`` uint8 on the device of ``images``.

    Example:
        >>> picture = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
        >>> resample(picture, torch.tensor([[1, 1, 3, 3]]), (2, 2))[0, 0]
        tensor([[ 5,  6],
                [ 9, 10]], dtype=torch.uint8)
    """
    if interpolation not in SUPPORT:
        raise ValueError(f"Expected argument `interpolation` to be 'bicubic' or 'bilinear', but got {interpolation!r}.")
    if choose(method, images.device) == "native":
        return _native(images, windows, size, resize, interpolation, fill)
    # An enclosing autocast would run the products in bfloat16, whose 8 bits are one grey level short.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return _matmul(images, windows, size, resize, interpolation, fill, dtype)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _rows(count: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised ``(count, 3, H, W)`` with rows outermost in memory and aligned as tensor cores want them."""
    memory = torch.empty(count, height, 3, aligned(width), dtype=dtype, device=device)
    return memory[..., :width].transpose(1, 2)


def _native(
    images: Tensor,
    windows: Tensor | None,
    size: tuple[int, int],
    resize: str,
    interpolation: str,
    fill: tuple[float, float, float],
) -> Tensor:
    h, w = size
    if windows is None:
        windows = constant((0, 0, images.shape[-1], images.shape[-2]), torch.int64, images.device)[None]
    count = max(len(images), len(windows))
    placement = place(windows, size, resize)
    if placement is None:
        places = [[w, h, 0, 0]] * count
    else:
        places = torch.cat([placement.extent, placement.offset], dim=1).expand(count, 4).tolist()
    out = constant(fill, torch.uint8, images.device)[:, None, None].repeat(count, 1, h, w)
    images, boxes = images.to(torch.uint8).expand(count, -1, -1, -1), windows.expand(count, 4).tolist()
    for image, (x1, y1, x2, y2), (width, height, left, top), result in zip(images, boxes, places, out, strict=True):
        if max(height, width) > _THIN * max(h, w):
            window = constant((x1, y1, x2, y2), torch.int64, image.device)[None]
            result.copy_(_matmul(image[None], window, size, resize, interpolation, fill, None)[0])
            continue
        cut = image[None, :, y1:y2, x1:x2].contiguous(memory_format=torch.channels_last)
        scaled = torch.nn.functional.interpolate(cut, (height, width), mode=interpolation, antialias=True)[0, :3]
        visible = scaled[:, max(0, -top) :, max(0, -left) :][:, :h, :w]
        result[:, max(0, top) :, max(0, left) :][:, : visible.shape[1], : visible.shape[2]] = visible
    return out


def _matmul(
    images: Tensor,
    windows: Tensor | None,
    size: tuple[int, int],
    resize: str,
    interpolation: str,
    fill: tuple[float, float, float],
    dtype: torch.dtype | None,
) -> Tensor:
    dtype = dtype or _dtype(images.device)
    source = images.shape[-2], images.shape[-1]
    if windows is None:
        across, down, padding = _whole(source, size, resize, interpolation, dtype, images.device)
    else:
        across, down, padding = _matrices(windows, source, size, resize, interpolation, dtype)
    # Rows outermost, so that both passes are plain products and neither needs a transposed copy.
    lines = images[:, :3].to(dtype).transpose(1, 2).flatten(1, 2)
    columns = _product(lines, across.mT).round_().clamp_(0, 255)
    out = _product(down, columns.view(len(columns), source[0], -1)).round_().clamp_(0, 255)
    out = out.view(len(out), size[0], 3, size[1]).transpose(1, 2)
    if padding is not None:
        out = torch.where(padding, constant(fill, dtype, images.device)[:, None, None], out)
    return out.to(torch.uint8, memory_format=torch.contiguous_format)


def _matrices(
    windows: Tensor,
    source: tuple[int, int],
    size: tuple[int, int],
    resize: str,
    interpolation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights along rows and columns, and the padding ``(N, 1, h, w)`` where ``resize`` leaves some."""
    placement = place(windows, size, resize)
    across, down = weights(windows, source, size, placement, interpolation, dtype)
    if placement is None or resize != "longest":
        return across, down, None
    covered = torch.cat([placement.offset, placement.offset + placement.extent], dim=1)
    return across, down, ~rectangles(covered, *size)


@functools.lru_cache(maxsize=32)
def _whole(
    source: tuple[int, int],
    size: tuple[int, int],
    resize: str,
    interpolation: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The matrices of a whole picture: the same for all its regions and for the many pictures of a common size."""
    windows = constant((0, 0, source[1], source[0]), torch.int64, device)[None]
    return _matrices(windows, source, size, resize, interpolation, dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for batches of which either may hold one matrix for all."""
    if len(a) == len(b) or len(a) == 1:
        return torch.matmul(a, b)
    return torch.matmul(a.flatten(0, 1), b[0]).view(len(a), a.shape[1], b.shape[2])  # one large product
