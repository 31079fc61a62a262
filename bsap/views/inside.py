"""Views inside a vision transformer: the picture stays as it is, and the region changes what the encoder attends to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bsap.datamodules.scene import RLE
from bsap.errors import ConfigError
from bsap.views.global_local import token_weights
from bsap.views.packing import ImageEncoder, default_pack
from bsap.views.tower import FromBlock, InsideView, Tower, whole_picture


@dataclass(frozen=True, kw_only=True)
class FALIP(FromBlock):
    """The whole picture, with a Gaussian over the region added to the class token's attention.

    Attention becomes softmax(q k' / sqrt(d) + M); M is 0 but in the class token's row, where the tokens of the region
    get strength (g - min g) / (max g - min g), g = exp(-d^2 / (2 sigma^2)) of their distance d, in tokens, from the
    middle of the region. As in the released code (pumpkin805/FALIP) the box is rounded out to whole tokens. Blocks
    before ``block`` are left alone and run once for all regions of a picture.

    Args:
        strength: the largest bias; 0.2 is released.
        sigma: of the Gaussian, in tokens; 100 is released, so that it falls nearly as a parabola.
        block: the first changed block, from 0; 8 of 12 is released, for ViT-B/16.
    """

    kind: ClassVar[str] = "falip"
    source: ClassVar[str] = "FALIP, ECCV 2024, arXiv 2407.05578"

    strength: float = 0.2
    sigma: float = 100.0
    block: int = 8

    def __post_init__(self) -> None:
        """Check ``sigma`` as well."""
        super().__post_init__()
        if self.sigma <= 0:
            raise ConfigError("sigma of the view 'falip' must be greater than 0, but is 0.")

    def encode(
        self, encoder: ImageEncoder, tower: Tower, picture: Tensor, boxes: Tensor, masks: Sequence[RLE] | None
    ) -> Tensor:
        """The class token's features, biased towards each region."""
        height, width = picture.shape[-2:]
        row = foveal_bias(boxes, (height, width), tower.grid, strength=self.strength, sigma=self.sigma)
        bias = row.new_zeros(len(row), row.shape[1] + 1, row.shape[1] + 1)
        bias[:, 0, 1:] = row
        with tower.biased(self.block, bias.to(encoder.device)):
            features = tower.run(whole_picture(encoder, picture))
        return F.normalize(features.expand(len(boxes), -1).float(), dim=-1)


def foveal_bias(
    boxes: Tensor, size: tuple[int, int], grid: tuple[int, int], *, strength: float = 0.2, sigma: float = 100.0
) -> Tensor:
    """FALIP's bias on the attention of the class token to each patch.

    Args:
        boxes: (R, 4) float32 on the CPU, xyxy in pixels.
        size: height and width of the picture.
        grid: rows and columns of patches.
        strength: see :class:`FALIP`.
        sigma: see :class:`FALIP`.

    Returns:
        (R, rows * columns) float32, 0 outside the region.

    Example:
        >>> foveal_bias(torch.tensor([[0.0, 0.0, 3.0, 1.0]]), (2, 4), (2, 4)).view(2, 4).tolist()[1]
        [0.0, 0.0, 0.0, 0.0]
    """
    found = torch.zeros(len(boxes), *grid, dtype=torch.float64)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        # From the token in which the box begins to that in which it ends; a border on a token's edge counts to both.
        spans = []
        for low, high, pixels, tokens in ((y1, y2, size[0], grid[0]), (x1, x2, size[1], grid[1])):
            first, last = (
                max(math.ceil(min(max(edge, 0.0), pixels) * tokens / pixels), 1) for edge in (low, max(low, high))
            )
            spans.append(slice(first - 1, last))
        rows, columns = (
            torch.arange(span.stop - span.start, dtype=torch.float64) - (span.stop - span.start - 1) / 2
            for span in spans
        )
        gauss = (-0.5 * (rows[:, None] ** 2 + columns**2) / sigma**2).exp()
        low, high = gauss.min(), gauss.max()
        found[index, spans[0], spans[1]] = (gauss - low + 1e-6) / (high - low + 1e-6) * strength
    return found.flatten(1).float()


@dataclass(frozen=True, kw_only=True)
class Dense(InsideView):
    """One pass for a picture: patch features of MaskCLIP's last layer, pooled over the box.

    In the last block each token attends to itself only, as in the released code; then a patch's feature is made as the
    class token's is. x_r = norm(sum_p w_rp x_p), x_p the unit features of patches and w_rp the share of patch p inside
    the region. MaskCLIP compares single patches with texts; pooling them over regions is ours. The picture is squashed
    to the encoder's size: a region smaller than a patch has the feature of that patch.
    """

    kind: ClassVar[str] = "dense"
    source: ClassVar[str] = "MaskCLIP, ECCV 2022, arXiv 2112.01071"

    def weights(
        self, boxes: Tensor, masks: Sequence[RLE] | None, size: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """(R, rows * columns) shares of patches inside the regions of a picture of ``size`` (height, width)."""
        return box_shares(boxes, size, grid)

    @torch.no_grad()
    def features(
        self,
        encoder: ImageEncoder,
        pictures: Sequence[Tensor],
        boxes: Sequence[Tensor],
        masks: Sequence[Sequence[RLE] | None],
        *,
        resize: str = "squash",
        pack: int | None = None,
    ) -> Tensor:
        """Encode the pictures of several scenes, a pack of pictures at a time, and pool their patches."""
        tower = self.tower(encoder)
        length = 1 + tower.grid[0] * tower.grid[1]
        alone = torch.full((length, length), -math.inf, device=encoder.device).fill_diagonal_(0.0)[None]
        some = [index for index, regions in enumerate(boxes) if len(regions)]
        found = [torch.zeros(0, encoder.dim, device=encoder.device)]
        size = pack or default_pack(encoder.device)
        for start in range(0, len(some), size):
            chosen = some[start : start + size]
            pixels = torch.cat([whole_picture(encoder, pictures[index]) for index in chosen])
            with tower.biased(len(tower.blocks) - 1, alone), tower.patches():
                patches = F.normalize(tower.run(pixels).float(), dim=-1).view(len(chosen), length - 1, -1)
            for index, rows in zip(chosen, patches, strict=True):
                height, width = pictures[index].shape[-2:]
                weights = self.weights(boxes[index], masks[index], (height, width), tower.grid).to(rows)
                found.append(F.normalize(weights @ rows, dim=-1))
        return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class DenseMask(Dense):
    """One pass for a picture: patch features of MaskCLIP's last layer, pooled over the mask.

    As :class:`Dense`, with the share of each patch inside the mask.
    """

    kind: ClassVar[str] = "dense_mask"
    needs_masks: ClassVar[bool] = True

    def weights(
        self, boxes: Tensor, masks: Sequence[RLE] | None, size: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """The shares of patches inside the masks; inside the box where a mask has no pixel."""
        shares = token_weights(self.checked_masks(masks, len(boxes), *size), grid, antialias=True)
        return torch.where(shares.sum(1, keepdim=True) > 0, shares, box_shares(boxes, size, grid))


def box_shares(boxes: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """How much of each patch lies in each box.

    Args:
        boxes: (R, 4) float32 on the CPU, xyxy in pixels. Parts outside the picture are cut off; a box without an area
            counts as the pixel at its corner.
        size: height and width of the picture.
        grid: rows and columns of patches.

    Returns:
        (R, rows * columns) float32 in 0..1.

    Example:
        >>> box_shares(torch.tensor([[0.0, 0.0, 3.0, 2.0]]), (2, 4), (1, 2))
        tensor([[1.0000, 0.5000]])
    """
    shares = []
    for low, high, pixels, tokens in (
        (boxes[:, 1], boxes[:, 3], size[0], grid[0]),
        (boxes[:, 0], boxes[:, 2], size[1], grid[1]),
    ):
        start = low.double().clamp(0, pixels - 1)
        stop = high.double().clamp(max=pixels)
        stop = torch.where(stop > start, stop, start + 1)
        edges = torch.arange(tokens + 1, dtype=torch.float64) * pixels / tokens
        inside = torch.minimum(stop[:, None], edges[1:]) - torch.maximum(start[:, None], edges[:-1])
        shares.append(inside.clamp(min=0) * tokens / pixels)
    return (shares[0][:, :, None] * shares[1][:, None, :]).flatten(1).float()
