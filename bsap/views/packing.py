"""From regions to features in packs: how many regions an encoder sees at once, and what a view needs of an encoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bsap.errors import ConfigError

T = TypeVar("T")
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
_TOO_LARGE: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""The pack that did not fit into memory, for encoders that ran out of it: theirs is half of it."""


def default_pack(device: torch.device) -> int:
    """How many regions are encoded at once by default.

    On a CPU as many as its caches hold: more at once are slower, for ResNets by far (`benchmarks/packs.py`).
    """
    if device.type == "cpu":
        return 16
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((pack for part, pack in _PACKS.items() if part in name), 128)


def pack_size(encoder: ImageEncoder, pack: int | None) -> int:
    """How many regions an encoder sees at once; ``pack`` is the setting, None: :func:`default_pack`."""
    pack = pack or default_pack(encoder.device)
    return min(pack, max(1, _TOO_LARGE.get(encoder, 2 * pack) // 2))


def too_large(encoder: ImageEncoder) -> int | None:
    """The pack with which an encoder ran out of memory, or None if it never did."""
    return _TOO_LARGE.get(encoder)


def segments(counts: Sequence[int], start: int, stop: int) -> list[Segment]:
    """Which regions of which scenes stand from ``start`` to ``stop`` when scenes stand one after the other.

    Example:
        >>> segments([3, 0, 2], 2, 4)
        [(0, 2, 3), (2, 0, 1)]
    """
    bounds = pairwise(accumulate(counts, initial=0))
    return [
        (scene, max(start, begin) - begin, min(stop, end) - begin)
        for scene, (begin, end) in enumerate(bounds)
        if max(start, begin) < min(stop, end)
    ]


def packs(counts: Sequence[int], size: int) -> Iterator[list[Segment]]:
    """Cut the regions of scenes into packs of nearly equal length, at most ``size``, across scene boundaries.

    Packs of equal length leave no short pack at the end, on which encoder time would be wasted.

    Yields:
        Lists of (scene, start, stop): these regions of these scenes make one pack.

    Example:
        >>> list(packs([3, 0, 2], 3))
        [[(0, 0, 2)], [(0, 2, 3), (2, 0, 2)]]
    """
    total = sum(counts)
    number = -(-total // size)
    for low, high in pairwise(total * i // number for i in range(number + 1)) if total else ():
        yield segments(counts, low, high)


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

    def work(size: int) -> Tensor:
        features = [encode_filled(encoder, draw(some), size if encoder.compiled else 1) for some in packs(counts, size)]
        return torch.cat(features) if features else torch.zeros(0, encoder.dim, device=encoder.device)

    return within_memory(encoder, pack, work)


def encode_filled(encoder: ImageEncoder, pixels: Tensor, size: int) -> Tensor:
    """Encode N pictures, filled up with black ones to ``size`` where they are fewer: ``(N, D)``."""
    count = len(pixels)
    if count < size:
        pixels = torch.cat([pixels, pixels.new_zeros(size - count, *pixels.shape[1:])])
    return encoder.encode_image(pixels)[:count]


def within_memory(encoder: ImageEncoder, pack: int | None, work: Callable[[int], T]) -> T:
    """Call ``work`` with the size of a pack, and with half of it where the device runs out of memory.

    The encoder keeps the smaller size from then on.

    Raises:
        ConfigError: half of it does not fit into the device's memory either.
    """
    size = pack_size(encoder, pack)
    try:
        return work(size)
    except torch.cuda.OutOfMemoryError:
        half = max(1, size // 2)
    # Outside of the handler, which keeps the tensors of the failed attempt alive.
    torch.cuda.empty_cache()
    warnings.warn(
        f"The device ran out of memory with packs of {size} regions; packs of {half} are used from here on. Set "
        f"`--model.region_batch {half}` to start with them.",
        stacklevel=3,
    )
    _TOO_LARGE[encoder] = size
    try:
        return work(half)
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"The device ran out of memory with packs of {size} and of {half} regions. Set `--model.region_batch` to "
            f"less than {half}, choose a lower `--trainer.precision` or a smaller model."
        ) from error
