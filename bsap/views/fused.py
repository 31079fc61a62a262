"""Drawing on a CUDA device: two Triton kernels resample all regions of many pictures, straight from flat uint8 pixels.

As in PIL, rows are resampled first and rounded to whole grey levels, then columns. Each program computes its weights as
it goes, and decides pixel by pixel which of the two layers a region shows, so that no picture is ever composed. A CPU
runs the same kernels with ``TRITON_INTERPRET=1``, set before this module is imported; that is how they are tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bsap.views.placement import SUPPORT, place
from bsap.views.resample import Drawing
from bsap.views.shapes import Figure

BLOCK = 256
"""Pixels of one program; the interpreter is far faster with large blocks."""

_EVERYWHERE, _BOX, _ELLIPSE, _MASK = range(4)
_FIELDS = 25  # of the table that both kernels read, one row for each region; see `_table`


@triton.jit
def _weight(x: tl.tensor, support: tl.constexpr) -> tl.tensor:
    """PIL's kernels: bicubic (Keys's cubic with a = -0.5) where the support is 2, bilinear where it is 1."""
    x = tl.abs(x)
    if support == 2:
        near = (1.5 * x - 2.5) * x * x + 1
        far = -0.5 * (((x - 5) * x + 8) * x - 4)
        return tl.where(x < 1, near, tl.where(x < 2, far, 0.0))
    return tl.where(x < 1, 1 - x, 0.0)


@triton.jit
def _within(
    kind: tl.tensor, m: tl.tensor, masks: tl.tensor, x: tl.tensor, y: tl.tensor, known: tl.tensor, inset: tl.tensor
) -> tl.tensor:
    """Whether pixels lie in a region's box, ellipse or mask, whose sides or radii are ``inset`` pixels shorter."""
    x1, y1 = tl.load(m + 9) + inset, tl.load(m + 10) + inset
    x2, y2 = tl.load(m + 11) - inset, tl.load(m + 12) - inset
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    if kind == 2:
        # In single precision and without fused products: the CPU's decision for every pixel on the border.
        rx, ry = (x2 - x1).to(tl.float32) / 2, (y2 - y1).to(tl.float32) / 2
        across = tl.div_rn(x.to(tl.float32) + 0.5 - (x1 + x2).to(tl.float32) / 2, tl.maximum(rx, 0.001))
        down = tl.div_rn(y.to(tl.float32) + 0.5 - (y1 + y2).to(tl.float32) / 2, tl.maximum(ry, 0.001))
        inside = down * down + across * across <= tl.where(tl.minimum(rx, ry) > 0, 1.0, -1.0)
    if kind == 3:
        at = tl.load(m + 14) + y * tl.load(m + 15) + x
        inside = tl.load(masks + at, mask=known, other=0) != 0
    return inside


@triton.jit
def resample_rows(
    flat: tl.tensor,
    masks: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    fields: tl.constexpr,
    support: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Every row of a region's window to ``width`` columns: ``(3, rows, width)`` uint8 for each region."""
    m = table + tl.program_id(1) * fields
    x0, y0, length, rows = tl.load(m + 16), tl.load(m + 17), tl.load(m + 18), tl.load(m + 19)
    count = rows * width
    begin = tl.program_id(0) * block
    if begin >= count:
        return
    index = begin + tl.arange(0, block)
    y, column = index // width + y0, index % width - tl.load(m + 22)
    shown = (index < count) & (column >= 0) & (column < tl.load(m + 20))
    scale = length.to(tl.float32) / tl.load(m + 20).to(tl.float32)
    wide = tl.maximum(scale, 1.0)
    centre = (column.to(tl.float32) + 0.5) * scale
    first = tl.maximum(tl.floor(centre - support * wide + 0.5), 0.0).to(tl.int64)
    last = tl.minimum(tl.floor(centre + support * wide + 0.5), length.to(tl.float32)).to(tl.int64)
    kind, line = tl.load(m + 8), tl.load(m + 13)
    red = tl.zeros((block,), tl.float32)
    green, blue, total = red, red, red
    for tap in range(0, (2 * support * wide + 2).to(tl.int32)):
        position = first + tap
        used = shown & (position < last)
        weight = tl.where(used, _weight((position.to(tl.float32) - centre + 0.5) / wide, support), 0.0)
        x = position + x0
        inner = used
        if kind > 0:
            inner = _within(kind, m, masks, x, y, used, 0)
            if line > 0:
                inner = inner & (_within(kind, m, masks, x, y, used, line) == 0)
        a = tl.load(m) + y * tl.load(m + 2) + x * tl.load(m + 3)
        b = tl.load(m + 4) + y * tl.load(m + 6) + x * tl.load(m + 7)
        at, plane = tl.where(inner, a, b), tl.where(inner, tl.load(m + 1), tl.load(m + 5))
        red += weight * tl.load(flat + at, mask=used, other=0).to(tl.float32)
        green += weight * tl.load(flat + at + plane, mask=used, other=0).to(tl.float32)
        blue += weight * tl.load(flat + at + 2 * plane, mask=used, other=0).to(tl.float32)
        total += weight
    total = tl.where(shown, total, 1.0)
    to, stored = out + tl.load(m + 24) + index, index < count
    tl.store(to, _level(red / total), mask=stored)
    tl.store(to + count, _level(green / total), mask=stored)
    tl.store(to + 2 * count, _level(blue / total), mask=stored)


@triton.jit
def resample_columns(
    lines: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    red: tl.tensor,
    green: tl.tensor,
    blue: tl.tensor,
    fields: tl.constexpr,
    support: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """The rows from :func:`resample_rows` to ``height`` rows: ``(3, height, width)`` uint8 each, padding filled."""
    region = tl.program_id(1).to(tl.int64)
    m = table + region * fields
    length = tl.load(m + 19)
    index = tl.program_id(0) * block + tl.arange(0, block)
    stored = index < height * width
    column = index % width
    row, across = index // width - tl.load(m + 23), column - tl.load(m + 22)
    shown = stored & (row >= 0) & (row < tl.load(m + 21)) & (across >= 0) & (across < tl.load(m + 20))
    scale = length.to(tl.float32) / tl.load(m + 21).to(tl.float32)
    wide = tl.maximum(scale, 1.0)
    centre = (row.to(tl.float32) + 0.5) * scale
    first = tl.maximum(tl.floor(centre - support * wide + 0.5), 0.0).to(tl.int64)
    last = tl.minimum(tl.floor(centre + support * wide + 0.5), length.to(tl.float32)).to(tl.int64)
    base, plane = lines + tl.load(m + 24), length * width
    r = tl.zeros((block,), tl.float32)
    g, b, total = r, r, r
    for tap in range(0, (2 * support * wide + 2).to(tl.int32)):
        position = first + tap
        used = shown & (position < last)
        weight = tl.where(used, _weight((position.to(tl.float32) - centre + 0.5) / wide, support), 0.0)
        at = base + position * width + column
        r += weight * tl.load(at, mask=used, other=0).to(tl.float32)
        g += weight * tl.load(at + plane, mask=used, other=0).to(tl.float32)
        b += weight * tl.load(at + 2 * plane, mask=used, other=0).to(tl.float32)
        total += weight
    total = tl.where(shown, total, 1.0)
    pixels = height * width
    to = out + region * 3 * pixels + index
    tl.store(to, tl.where(shown, _level(r / total), red), mask=stored)
    tl.store(to + pixels, tl.where(shown, _level(g / total), green), mask=stored)
    tl.store(to + 2 * pixels, tl.where(shown, _level(b / total), blue), mask=stored)


@triton.jit
def _level(x: tl.tensor) -> tl.tensor:
    """A whole grey level, rounded half up as PIL rounds."""
    return tl.floor(tl.minimum(tl.maximum(x + 0.5, 0.0), 255.0)).to(tl.uint8)


def draw(
    drawings: Sequence[Drawing],
    size: tuple[int, int],
    *,
    resize: str,
    interpolation: str,
    fill: tuple[float, float, float],
    block: int | None = None,
) -> Tensor:
    """Draw regions of many pictures at once; the options are those of :func:`bsap.views.resample.resample`.

    Returns:
        ``(sum of R, 3, h, w)`` uint8 on the layers' device, drawing after drawing.
    """
    height, width = size
    device = drawings[0].inner.device
    block, support = block or BLOCK, SUPPORT[interpolation]
    flat, layers = _join([layer for drawing in drawings for layer in (drawing.inner, drawing.outer)])
    dense = [drawing.inside for drawing in drawings if isinstance(drawing.inside, Tensor)]
    masks, planes = _join([part.to(device).view(torch.uint8) for part in dense])
    table = _table(drawings, layers, planes, size, resize)
    rows = table[:, 19] * width
    table[:, 24] = torch.cat([rows.new_zeros(1), (3 * rows).cumsum(0)[:-1]])
    count, most = len(table), int(rows.max())
    table = table.to(device, non_blocking=True)
    lines = torch.empty(3 * int(rows.sum()), dtype=torch.uint8, device=device)
    out = torch.empty(count, 3, height, width, dtype=torch.uint8, device=device)
    options: dict[str, Any] = {"fields": _FIELDS, "support": support, "block": block, "enable_fp_fusion": False}
    resample_rows[(triton.cdiv(most, block), count)](flat, masks, table, lines, width, **options)
    colour = (int(level + 0.5) for level in fill)
    resample_columns[(triton.cdiv(height * width, block), count)](lines, table, out, height, width, *colour, **options)
    return out


def _join(parts: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Tensors end to end, each different one once, and where each of them begins."""
    begins: dict[int, int] = {}
    distinct = list({id(part): part for part in parts}.values())
    for part, end in zip(distinct, accumulate(part.numel() for part in distinct), strict=True):
        begins[id(part)] = end - part.numel()
    flat = torch.cat([part.reshape(-1) for part in distinct]) if distinct else torch.empty(1, dtype=torch.uint8)
    return flat, [begins[id(part)] for part in parts]


def _table(
    drawings: Sequence[Drawing], layers: Sequence[int], planes: Sequence[int], size: tuple[int, int], resize: str
) -> Tensor:
    """The numbers of each region, int64 on the CPU: ``(sum of R, _FIELDS)``; the last field is set by :func:`draw`.

    Inner and outer layer (beginning and strides of plane, row and column, each) 0 to 7; kind of figure 8, its box 9 to
    12, its line 13; beginning and row length of the mask 14, 15; window (x, y, width, height) 16 to 19; extent and
    offset of the resized window 20 to 23; beginning of the resampled rows 24.
    """
    rows, dense = [], iter(planes)
    for index, drawing in enumerate(drawings):
        table = torch.zeros(drawing.count, _FIELDS, dtype=torch.int64)
        for column, layer, begin in ((0, drawing.inner, layers[2 * index]), (4, drawing.outer, layers[2 * index + 1])):
            colour = layer.shape[-1] == layer.shape[-2] == 1
            strides = (1, 0, 0) if colour else (drawing.height * drawing.width, drawing.width, 1)
            table[:, column : column + 4] = torch.tensor([begin, *strides])
        if isinstance(drawing.inside, Figure):
            table[:, 8] = _ELLIPSE if drawing.inside.ellipse else _BOX
            table[:, 9:13], table[:, 13] = drawing.inside.boxes, drawing.inside.line
        elif drawing.inside is not None:
            pixels = drawing.height * drawing.width
            table[:, 8], table[:, 15] = _MASK, drawing.width
            table[:, 14] = next(dense) + pixels * torch.arange(len(table))
        windows = drawing.windows.expand(drawing.count, 4)
        table[:, 16:18], table[:, 18:20] = windows[:, :2], windows[:, 2:] - windows[:, :2]
        table[:, 20:24] = place(windows, size, resize)
        rows.append(table)
    return torch.cat(rows)
