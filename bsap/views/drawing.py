"""From drawings of several pictures to pixels, by the method that the device allows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bsap.views.resample import Drawing, Method, compose, resample


def draw_all(
    drawings: Iterable[Drawing],
    size: tuple[int, int],
    *,
    method: Method,
    resize: str,
    interpolation: str,
    fill: tuple[float, float, float],
) -> Tensor:
    """Draw regions of several pictures: ``(sum of R, 3, h, w)`` uint8, see :meth:`bsap.views.View.draw`."""
    if method == "fused" and (jobs := list(drawings)):
        from bsap.views import fused

        return fused.draw(jobs, size, resize=resize, interpolation=interpolation, fill=fill)
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
