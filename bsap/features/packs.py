"""Packs across everything: the regions of any scene, view and batch that one model looks at are encoded together.

Every pack of a run has the same shape, the last one filled up, because kernels round by shape: a region's feature has
the same bits whatever else is in its pack, on any number of processes, in any order of scenes and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bsap.views.packing import ImageEncoder, Segment, encode_filled, pack_size, segments, within_memory


class Promise:
    """The features of some regions, known once all packs with them are encoded.

    Attributes:
        missing: how many are not encoded yet, at first the ``count`` of all.
        size: of the packs; 0 where not all had the same.
        places: for each of the features its place among the encoded regions, where some of them are the same.
    """

    def __init__(self, count: int, size: int) -> None:
        self.missing, self.size = count, size
        self.places: list[int] | None = None
        self._parts: list[Tensor] = []

    def add(self, features: Tensor, size: int) -> None:
        """Take the features of the next regions, and the size of the pack that encoded them."""
        self.missing -= len(features)
        self._parts.append(features)
        self.size = size if self.size == size else 0

    def features(self) -> Tensor:
        """(count, D) float32 unit vectors, or one for each of ``places``."""
        return repeated(self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts), self.places)


def repeated(features: Tensor, places: list[int] | None) -> Tensor:
    """The features at ``places``, in their order; None: all as they are."""
    return features if places is None else features[torch.tensor(places, device=features.device)]


class PackQueue:
    """Draws regions as they come, and encodes each pack as soon as it is full.

    At most one pack of drawn regions waits; pictures need not be kept.

    Args:
        encoder: the model.
        pack: regions in a pack; None: by the device.
    """

    def __init__(self, encoder: ImageEncoder, pack: int | None = None) -> None:
        self.encoder, self._pack = encoder, pack
        self._drawn: list[tuple[Tensor, Promise]] = []

    @property
    def size(self) -> int:
        """Regions in a pack; half as many once the device has run out of memory."""
        return pack_size(self.encoder, self._pack)

    def add(self, counts: Sequence[int], draw: Callable[[Sequence[Segment]], Tensor]) -> Promise:
        """Draw the regions of scenes; encode the packs that are full.

        Args:
            counts: how many regions each scene has.
            draw: from segments to ``(N, 3, h, w)`` uint8 pixels of the encoder's size. It is called in the order of
                scenes.

        Raises:
            ConfigError: packs of half the size do not fit into the device's memory either.
        """
        start, total = 0, sum(counts)
        promise = Promise(total, self.size)
        if not total:
            promise.add(torch.zeros(0, self.encoder.dim, device=self.encoder.device), self.size)
        while start < total:
            stop = min(total, start + self.size - self._waiting)

            def work(size: int, start: int = start, stop: int = stop) -> Tensor:
                bounds = [*range(start, stop, size), stop]
                return torch.cat([draw(segments(counts, a, b)) for a, b in pairwise(bounds)])

            self._drawn.append((within_memory(self.encoder, self._pack, work), promise))
            if self._waiting >= self.size:
                self.finish()
            start = stop
        return promise

    def finish(self, *, fill: bool = True) -> None:
        """Encode the regions that wait.

        Args:
            fill: fill their pack up, so that it has the shape of all others.
        """
        if not self._drawn:
            return
        pixels = torch.cat([drawn for drawn, _ in self._drawn])

        fill = fill or self.encoder.compiled

        def work(size: int) -> Tensor:
            return torch.cat([encode_filled(self.encoder, part, size if fill else 1) for part in pixels.split(size)])

        features = within_memory(self.encoder, self._pack, work)
        waiting, self._drawn = self._drawn, []
        for part, (_, promise) in zip(features.split([len(d) for d, _ in waiting]), waiting, strict=True):
            promise.add(part, self.size if fill else 0)

    @property
    def _waiting(self) -> int:
        return sum(len(drawn) for drawn, _ in self._drawn)
