"""From a batch of scenes to image features: every distinct region of a scene is shown to the encoder once per view."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import RLE, Proposals
from bsap.features.packs import PackQueue, Promise, repeated
from bsap.views import View
from bsap.views.packing import ImageEncoder, within_memory


def distinct_regions(proposals: Proposals, *, with_masks: bool) -> tuple[list[int], list[int]]:
    """Which regions to encode, and which of those each proposal is; ``with_masks``, two masks in one box differ.

    Returns:
        The indices of the U distinct regions, and for each of the R proposals its place among them.

    Example:
        >>> import numpy as np
        >>> boxes = np.array([[0, 0, 4, 4], [1, 1, 3, 3], [0, 0, 4, 4]], np.float32)
        >>> distinct_regions(Proposals(boxes), with_masks=False)
        ([0, 1], [0, 1, 0])
    """
    place: dict[tuple[bytes, bytes], int] = {}
    first: list[int] = []
    inverse: list[int] = []
    for index in range(len(proposals)):
        mask = proposals.masks[index]["counts"] if with_masks and proposals.masks is not None else b""
        key = (proposals.boxes[index].tobytes(), mask)
        if key not in place:
            place[key] = len(first)
            first.append(index)
        inverse.append(place[key])
    return first, inverse


def region_features(
    batch: SceneBatch, encoder: ImageEncoder, view: View, *, resize: str = "squash", pack: int | None = None
) -> Tensor:
    """The features of all regions of a batch: (sum of R, D) float32 unit vectors, scene after scene.

    For ``resize`` and ``pack`` see :meth:`bsap.views.View.features`.
    """
    boxes, masks, places = _distinct(batch, view)
    return repeated(view.features(encoder, batch.pictures, boxes, masks, resize=resize, pack=pack), places)


def promised_features(batch: SceneBatch, queue: PackQueue, view: View, *, resize: str) -> Promise:
    """As :func:`region_features`, in packs with the regions of other batches and views.

    A view that looks into the model encodes at once, beside the packs.
    """
    boxes, masks, places = _distinct(batch, view)
    counts = [len(regions) for regions in boxes]
    if view.draws:
        promise = queue.add(counts, view.drawer(queue.encoder, batch.pictures, boxes, masks, resize=resize))
    else:
        encode = partial(view.features, queue.encoder, batch.pictures, boxes, masks, resize=resize)
        promise = Promise(sum(counts), queue.size)
        promise.add(within_memory(queue.encoder, queue.size, lambda size: encode(pack=size)), queue.size)
    promise.places = places
    return promise


def _distinct(batch: SceneBatch, view: View) -> tuple[list[Tensor], list[list[RLE] | None], list[int] | None]:
    """Boxes and masks of each scene's distinct regions, and which of them each proposal is; None: each its own."""
    distinct = [distinct_regions(scene.proposals, with_masks=view.needs_masks) for scene in batch.scenes]
    boxes: list[Tensor] = []
    masks: list[list[RLE] | None] = []
    places, base = [], 0
    for scene, (first, inverse) in zip(batch.scenes, distinct, strict=True):
        # From the CPU, where views make their windows: nothing waits for the device.
        boxes.append(torch.from_numpy(scene.proposals.boxes[first]))
        known = scene.proposals.masks
        masks.append(None if known is None else [known[i] for i in first])
        places += [base + i for i in inverse]
        base += len(first)
    return boxes, masks, None if base == len(places) else places


def pad(flat: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Stack ragged rows into one tensor.

    Args:
        flat: (sum of counts, D), group after group.
        counts: length of each of the B groups.

    Returns:
        (B, max of counts, D) with zeros in the padding, and a (B, max of counts) mask of what is real.

    Example:
        >>> rows, real = pad(torch.arange(3.0)[:, None], [1, 2])
        >>> rows[..., 0].tolist(), real.tolist()
        ([[0.0, 0.0], [1.0, 2.0]], [[True, False], [True, True]])
    """
    # Gathered, not assigned through the mask: a boolean index would make the host wait for the device.
    lengths = torch.tensor(counts)
    steps = torch.arange(max(counts, default=0))
    real = (steps[None] < lengths[:, None]).to(flat.device)
    if not len(flat):
        return flat.new_zeros(*real.shape, flat.shape[-1]), real
    rows = ((lengths.cumsum(0) - lengths)[:, None] + steps[None]).clamp(max=len(flat) - 1).to(flat.device)
    return flat[rows] * real[..., None], real
