"""From regions to features in packs: how many regions an encoder sees at once, and what a view needs of an encoder."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bsap.errors import ConfigError

Segment = tuple[int, int, int]
"""A scene's index, the first of its regions and the one after the last."""


class ImageEncoder(Protocol):
    """What a view needs of an encoder, such as :class:`bsap.models.interface.DualEncoder`."""

    model: Any
    """The open_clip model, for views that look into it."""
    label: str
    """Name for messages."""
    size: tuple[int, int]
    """``(h, w)`` pixels of its input."""
    fill: tuple[float, float, float]
    """Its mean colour, 0..255."""
    mean: tuple[float, ...]
    """Pixel mean of its preprocessing, 0..1."""
    std: tuple[float, ...]
    """Pixel standard deviation of its preprocessing."""
    interpolation: str
    """``bicubic`` or ``bilinear``."""
    dim: int
    """D."""

    @property
    def device(self) -> torch.device:
        """Where features are made."""

    @property
    def compiled(self) -> bool:
        """Whether each new pack size costs a compilation."""

    def standardize(self, pixels: Tensor) -> Tensor:
        """``(N, 3, h, w)`` uint8 to the image tower's float32 input."""

    def encode_image(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """``(N, 3, h, w)`` uint8 to ``(N, D)`` float32, unit vectors unless ``normalize`` is false."""


_PACKS = {"H100": 512, "H200": 512}
"""Regions at once by a part of the device's name: on an H100, ViT-B-32 in bfloat16 gains little beyond 512."""
_SMALLER: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""The pack that fitted into memory, for encoders that ran out of it."""


def default_pack(device: torch.device) -> int:
    """How many regions are encoded at once by default.

    On a CPU as many as its caches hold: more at once are slower, for ResNets by far (`benchmarks/packs.py`).
    """
    if device.type == "cpu":
        return 16
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((pack for part, pack in _PACKS.items() if part in name), 128)


def packs(counts: Sequence[int], size: int) -> Iterator[list[Segment]]:
    """Cut the regions of scenes into packs of nearly equal length, at most ``size``, across scene boundaries.

    Packs of equal length leave no short pack at the end, on which encoder time would be wasted.

    Args:
        counts: how many regions each scene has.
        size: the most regions of a pack.

    Yields:
        Lists of (scene, start, stop): these regions of these scenes make one pack.

    Example:
        >>> list(packs([3, 0, 2], 3))
        [[(0, 0, 2)], [(0, 2, 3), (2, 0, 2)]]
    """
    total = sum(counts)
    if not total:
        return
    number = -(-total // size)
    bounds = [total * i // number for i in range(number + 1)]
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    for low, high in pairwise(bounds):
        yield [
            (scene, max(low, begin) - begin, min(high, end) - begin)
            for scene, (begin, end) in enumerate(pairwise(starts))
            if max(low, begin) < min(high, end)
        ]


def padded_size(count: int, pack: int) -> int:
    """To how many regions a compiled tower's pack is filled up: the next power of two, at least 16, at most a pack.

    A tower is compiled again for each new shape, so there should be few, and little should be encoded for nothing.

    Example:
        >>> [padded_size(count, 128) for count in (3, 16, 17, 40, 100, 128)], padded_size(5, 12)
        ([16, 16, 32, 64, 128, 128], 12)
    """
    return min(pack, max(16, 1 << (count - 1).bit_length()))


def encode_packs(
    encoder: ImageEncoder, counts: Sequence[int], draw: Callable[[Sequence[Segment]], Tensor], pack: int | None = None
) -> Tensor:
    """Draw the regions of scenes and encode them, pack by pack.

    Args:
        encoder: what encodes them.
        counts: how many regions each scene has.
        draw: from the segments of a pack to ``(N, 3, h, w)`` uint8 pixels of the encoder's size. It is called in the
            order of scenes.
        pack: the most regions that are drawn and encoded at once, which bounds the memory; None:
            :func:`default_pack`.

    Returns:
        ``(sum of counts, D)`` float32 unit vectors, scene after scene.

    Raises:
        ConfigError: packs of half the size do not fit into the device's memory either.
    """
    pack = min(pack or default_pack(encoder.device), _SMALLER.get(encoder, sys.maxsize))
    try:
        return _encode(encoder, counts, draw, pack)
    except torch.cuda.OutOfMemoryError:
        half = max(1, pack // 2)
    # Outside of the handler, which keeps the tensors of the failed attempt alive.
    torch.cuda.empty_cache()
    warnings.warn(
        f"The device ran out of memory with packs of {pack} regions; packs of {half} are used from here on. Set "
        f"`--model.region_batch {half}` to start with them.",
        stacklevel=2,
    )
    _SMALLER[encoder] = half
    try:
        return _encode(encoder, counts, draw, half)
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"The device ran out of memory with packs of {pack} and of {half} regions. Set `--model.region_batch` to "
            f"less than {half}, choose a lower `--trainer.precision` or a smaller model."
        ) from error


def _encode(
    encoder: ImageEncoder, counts: Sequence[int], draw: Callable[[Sequence[Segment]], Tensor], pack: int
) -> Tensor:
    features = []
    for segments in packs(counts, pack):
        drawn = draw(segments)
        count = len(drawn)
        if encoder.compiled and count < (size := padded_size(count, pack)):
            drawn = torch.cat([drawn, drawn.new_zeros(size - count, *drawn.shape[1:])])
        features.append(encoder.encode_image(drawn)[:count])
    return torch.cat(features) if features else torch.zeros(0, encoder.dim, device=encoder.device)
