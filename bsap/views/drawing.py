"""From drawings of several pictures to pixels, by the method that the device allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from bsap.views.resample import Drawing, Method, compose, resample

LINES = 1 << 29
"""Bytes of resampled rows that are on a device at once; pictures of 640 x 480 take a third of them in a pack of 512."""


def draw_all(
    drawings: Iterable[Drawing],
    size: tuple[int, int],
    *,
    method: Method,
    resize: str,
    interpolation: str,
    fill: tuple[float, float, float],
) -> Tensor:
    """Draw regions of several pictures: ``(sum of R, 3, h, w)`` uint8, see :meth:`bsap.views.View.render`."""
    if method == "fused" and (jobs := list(drawings)):
        from bsap.views import fused

        drawn = [
            fused.draw(part, size, resize=resize, interpolation=interpolation, fill=fill)
            for part in _together(jobs, size[1])
        ]
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)
    out = []
    for drawing in drawings:
        if drawing.inside is None:
            images = drawing.inner[None]
            if len(drawing.windows) == 1:
                images = images.expand(drawing.count, -1, -1, -1)
        else:
            assert isinstance(drawing.inside, Tensor)
            images = compose(drawing.inside, drawing.inner, drawing.outer)
        out.append(resample(images, drawing.windows, size, resize=resize, interpolation=interpolation, fill=fill))
    return torch.cat(out) if out else torch.empty(0, 3, *size, dtype=torch.uint8)


def _together(jobs: Sequence[Drawing], width: int) -> Iterator[list[Drawing]]:
    """Parts whose rows, resampled to ``width``, take bounded memory; a drawing alone does."""
    part: list[Drawing] = []
    used = 0
    for job in jobs:
        needed = 3 * width * int((job.windows[:, 3] - job.windows[:, 1]).expand(job.count).sum())
        if part and used + needed > LINES:
            yield part
            part, used = [], 0
        part.append(job)
        used += needed
    yield part
