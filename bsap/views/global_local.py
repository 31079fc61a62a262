"""Global-Local CLIP: a region seen within its picture and by itself.

Yu, Seo, Son: Zero-shot Referring Image Segmentation with Global-Local Context Features, CVPR 2023
(https://github.com/Seonghoon-Yu/Zero-shot-RIS). The global feature lets a ViT see the whole picture and fades the
tokens outside the mask in its last blocks; the local feature is the masked crop. Published settings: ViT-B/32,
``block`` 9 of 12, ``v`` 0.85 on RefCOCOg and 0.95 elsewhere, pictures normalised with ImageNet's mean and standard
deviation and resized bilinearly. The sentences' side is in :mod:`bsap.prompts.phrases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsap.datamodules.scene import RLE
from bsap.errors import DataError, ModelError
from bsap.models.encoder import Encoder
from bsap.views import make_view

_MASKS_AT_ONCE = 32  # dense masks of one picture in memory, about 40 MB in float32 at 640 x 480


def encode_scene(
    encoder: Encoder,
    picture: Tensor,
    boxes: Tensor,
    masks: Sequence[RLE] | None,
    *,
    v: float = 0.95,
    block: int = 9,
    antialias: bool = False,
) -> Tensor:
    """Global-Local features of the regions of one picture.

    Args:
        encoder: with one of open_clip's standard vision transformers.
        picture: (3, H, W) uint8, RGB.
        boxes: (R, 4) float32, xyxy in pixels, the crops of the local features.
        masks: R encodings of the picture's size.
        v: weight of the global feature; 1 leaves the local one out.
        block: the first transformer block, counted from 0, whose input is masked. Earlier blocks run once per picture.
        antialias: average each token's share of the mask instead of sampling it as the published code does.

    Returns:
        (R, D) float32 unit vectors of v * global + (1 - v) * local, which are summed with their own lengths.

    Raises:
        DataError: no masks, or not one of the picture's size for each box.
        ModelError: a tower without class token or patch tokens of its own, or without such a block.
        ValueError: ``v`` out of range.
    """
    if not 0 <= v <= 1:
        raise ValueError(f"Expected argument `v` to be in [0, 1], but got {v}.")
    masks = _check_masks(masks, len(boxes), (picture.shape[1], picture.shape[2]))
    features = v * global_features(encoder, picture, masks, block=block, antialias=antialias)
    if v < 1 and len(boxes):
        crops = _render("masked_crop", encoder, picture, boxes, masks)
        features = features + (1 - v) * encoder.encode_image(crops, normalize=False)
    return F.normalize(features, dim=-1)


@torch.no_grad()
def global_features(
    encoder: Encoder,
    picture: Tensor,
    masks: Sequence[RLE],
    *,
    block: int = 9,
    antialias: bool = False,
) -> Tensor:
    """The token-masked features of one picture: the input of each block from ``block`` on is faded by the mask.

    Args:
        encoder: with one of open_clip's standard vision transformers.
        picture: (3, H, W) uint8, RGB, squashed to the encoder's size.
        masks: R encodings of the picture's size.
        block: the first masked block, counted from 0.
        antialias: see :func:`encode_scene`.

    Returns:
        (R, D) float32, not normalised.

    Raises:
        ModelError: see :func:`masked_blocks`.
    """
    blocks = masked_blocks(encoder, block)
    if not masks:
        return torch.empty((0, encoder.dim), device=encoder.device)
    whole = torch.tensor([[0.0, 0.0, picture.shape[2], picture.shape[1]]], device=picture.device)
    pixels = _render("crop", encoder, picture, whole)
    visual: Any = encoder.model.visual
    weights = token_weights(masks, visual.grid_size, device=encoder.device, antialias=antialias)
    with _masked(blocks, weights):
        # The tower's forward itself: a compiled tower was compiled without the masks.
        features: Tensor = visual.forward(encoder.standardize(pixels))
    return features.float()


def token_weights(
    masks: Sequence[RLE], grid: tuple[int, int], *, device: torch.device | str = "cpu", antialias: bool = False
) -> Tensor:
    """How much each token of a ViT's grid lies in each mask.

    Args:
        masks: R encodings of one size.
        grid: rows and columns of tokens.
        device: where to compute.
        antialias: average over the token; otherwise interpolate between the four pixels at its centre.

    Returns:
        (R, rows * columns) float32 in 0..1.

    Example:
        >>> from pycocotools import mask
        >>> left = torch.zeros(4, 4, dtype=torch.uint8)
        >>> left[:, :2] = 1
        >>> token_weights([mask.encode(left.numpy().copy(order="F"))], (2, 2))
        tensor([[1., 0., 1., 0.]])
    """
    from pycocotools import mask

    rows = []
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        dense = torch.from_numpy(mask.decode(list(masks[start : start + _MASKS_AT_ONCE])))
        planes = dense.to(device).permute(2, 0, 1)[:, None].float()
        rows.append(F.interpolate(planes, grid, mode="bilinear", align_corners=False, antialias=antialias).flatten(1))
    return torch.cat(rows)


def _render(view: str, encoder: Encoder, picture: Tensor, boxes: Tensor, masks: Sequence[RLE] | None = None) -> Tensor:
    options: dict[str, Any] = {"interpolation": encoder.interpolation, "fill": encoder.fill}
    return make_view(view).render(picture, boxes, encoder.size, masks=masks, resize="squash", **options)


def masked_blocks(encoder: Encoder, block: int) -> Sequence[nn.Module]:
    """The transformer blocks whose input is masked: from ``block``, counted from 0, to the last.

    Raises:
        ModelError: a tower without class token or patch tokens of its own, or without such a block.
    """
    from open_clip.transformer import VisionTransformer

    visual: Any = encoder.model.visual
    standard = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"
    if not standard or visual.output_tokens:
        raise ModelError(
            f"Global-Local features need one of open_clip's own vision transformers with a class token, such as "
            f"ViT-B-32-quickgelu; model {encoder.label!r} has a {type(visual).__name__} of another kind."
        )
    blocks: Sequence[nn.Module] = visual.transformer.resblocks
    if not 0 <= block < len(blocks):
        raise ModelError(
            f"Model {encoder.label!r} has the blocks 0 to {len(blocks) - 1}, but `block` of the view 'global_local' is "
            f"{block}."
        )
    return blocks[block:]


@contextmanager
def _masked(blocks: Sequence[nn.Module], weights: Tensor) -> Iterator[None]:
    """Within the context, each block's input tokens are multiplied by the weights; one picture becomes R."""
    factors = torch.cat([weights.new_ones(len(weights), 1), weights], dim=1)[:, :, None]  # the class token stays

    def fade(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * factors.to(inputs[0].dtype), *inputs[1:])

    hooks = [block.register_forward_pre_hook(fade) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_masks(masks: Sequence[RLE] | None, count: int, size: tuple[int, int]) -> Sequence[RLE]:
    if masks is None:
        raise DataError("Global-Local features need masks, but the proposals are boxes only; use proposals with masks.")
    if len(masks) != count:
        raise DataError(f"Global-Local features need one mask for each of {count} boxes, but got {len(masks)}.")
    for index, mask in enumerate(masks):
        if tuple(mask["size"]) != size:
            raise DataError(f"Mask {index} is {tuple(mask['size'])} (height, width), the picture {size}.")
    return masks
