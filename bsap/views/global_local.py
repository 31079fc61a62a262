"""Global-Local CLIP: features of a region within its picture, and of the region alone.

Yu, Seo, Son: Zero-shot Referring Image Segmentation with Global-Local Context Features, CVPR 2023
(https://github.com/Seonghoon-Yu/Zero-shot-RIS). The global feature lets a ViT see the whole picture and scales
down the tokens outside the mask in its last blocks; the local feature is the masked crop. Published settings: ViT-B/32,
``block`` 9 of 12, ``v`` 0.85 on RefCOCOg and 0.95 elsewhere, pictures normalised with ImageNet's mean and standard
deviation and resized bilinearly. Its text features are in :mod:`bsap.prompts.phrases`.

The published code draws in an unusual way, which the options ``background`` and ``resampling`` repeat: it resizes the
picture to a shorter side of 800 pixels, normalises it, and resizes it from there without antialiasing to the encoder's
size and back to the picture's; and it fills the background of the masked crop with the mean colour *after* the
normalisation, so that the tower sees 0.485, 0.456, 0.406 there instead of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bsap.datamodules.scene import RLE
from bsap.errors import ConfigError, DataError, ModelError, unknown
from bsap.views.crops import MaskedCrop
from bsap.views.packing import ImageEncoder, default_pack, packs
from bsap.views.tower import check_squash, is_standard, whole_picture
from bsap.views.view import View, decode_masks

Background = Literal["mean", "published"]
Resampling = Literal["direct", "published"]
_SHORTER_SIDE = 800  # to which the published code resizes a picture first
_MASKS_AT_ONCE = 32  # dense masks of one picture in memory, about 40 MB in float32 at 640 x 480


@dataclass(frozen=True)
class GlobalLocal(View):
    """The whole picture with the tokens outside the mask scaled down, together with the masked crop.

    Args:
        v: weight of the global feature, 0 to 1: as published 0.85 on RefCOCOg and 0.95 on RefCOCO and RefCOCO+.
        block: the first transformer block, from 0, whose input is masked.
        background: of the masked crop: ``mean`` is the encoder's mean colour; ``published`` is what the published code
            shows, the mean written into a picture that is normalised already.
        resampling: ``direct`` resizes once, from the picture; ``published`` repeats the steps of the published code.
    """

    kind: ClassVar[str] = "global_local"
    source: ClassVar[str] = "Global-Local CLIP, Yu et al., CVPR 2023"
    needs_masks: ClassVar[bool] = True

    v: float = 0.95
    block: int = 9
    background: Background = "mean"
    resampling: Resampling = "direct"

    def __post_init__(self) -> None:
        """Check the parameters; only :meth:`check` knows how many blocks the encoder has."""
        super().__post_init__()
        if self.v > 1:
            raise ConfigError(f"v of the view 'global_local' must be between 0 and 1, but is {self.v}.")
        if type(self.block) is not int or self.block < 0:
            raise ConfigError(
                f"block of the view 'global_local' must be a whole number of at least 0, but is {self.block!r}."
            )
        for name, known in (("background", Background), ("resampling", Resampling)):
            if getattr(self, name) not in get_args(known):
                raise unknown(f"{name} of the view 'global_local'", getattr(self, name), get_args(known))

    def check(self, encoder: ImageEncoder, *, resize: str) -> None:
        """Refuse another resize than ``squash``, and towers that have no such block or no tokens to fade."""
        check_squash(self.name, resize)
        masked_blocks(encoder, self.block)

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
        """Encode the regions of several scenes, a pack of one scene at a time, by :func:`encode_scene`."""
        features = []
        for picture, regions, known in zip(pictures, boxes, masks, strict=True):
            for [(_, start, stop)] in packs([len(regions)], pack or default_pack(encoder.device)):
                some = None if known is None else known[start:stop]
                options: dict[str, Any] = {"background": self.background, "resampling": self.resampling}
                options |= {"v": self.v, "block": self.block}
                features.append(encode_scene(encoder, picture, regions[start:stop], some, **options))
        return torch.cat(features) if features else torch.zeros(0, encoder.dim, device=encoder.device)


def encode_scene(
    encoder: ImageEncoder,
    picture: Tensor,
    boxes: Tensor,
    masks: Sequence[RLE] | None,
    *,
    v: float = 0.95,
    block: int = 9,
    antialias: bool = False,
    background: Background = "mean",
    resampling: Resampling = "direct",
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
        background: of the masked crop, see :class:`GlobalLocal`.
        resampling: see :class:`GlobalLocal`.

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
    features = v * global_features(encoder, picture, masks, block=block, antialias=antialias, resampling=resampling)
    if v < 1 and len(boxes):
        local = local_features(encoder, picture, boxes, masks, background=background, resampling=resampling)
        features = features + (1 - v) * local
    return F.normalize(features, dim=-1)


@torch.no_grad()
def global_features(
    encoder: ImageEncoder,
    picture: Tensor,
    masks: Sequence[RLE],
    *,
    block: int = 9,
    antialias: bool = False,
    resampling: Resampling = "direct",
) -> Tensor:
    """The token-masked features of one picture: the input of each block from ``block`` on is faded by the mask.

    Args:
        encoder: with one of open_clip's standard vision transformers.
        picture: (3, H, W) uint8, RGB, squashed to the encoder's size.
        masks: R encodings of the picture's size.
        block: the first masked block, counted from 0.
        antialias: see :func:`encode_scene`.
        resampling: see :class:`GlobalLocal`.

    Returns:
        (R, D) float32, not normalised.

    Raises:
        ModelError: see :func:`masked_blocks`.
    """
    blocks = masked_blocks(encoder, block)
    if not masks:
        return torch.empty((0, encoder.dim), device=encoder.device)
    if resampling == "published":
        pixels = F.interpolate(_normalised_800(encoder, picture), encoder.size, mode="bilinear")
    else:
        pixels = whole_picture(encoder, picture)
    visual: Any = encoder.model.visual
    weights = token_weights(masks, visual.grid_size, device=encoder.device, antialias=antialias)
    with _masked(blocks, weights):
        # The tower's forward itself: a compiled tower was compiled without the masks.
        features: Tensor = visual.forward(pixels)
    return features.float()


@torch.no_grad()
def local_features(
    encoder: ImageEncoder,
    picture: Tensor,
    boxes: Tensor,
    masks: Sequence[RLE],
    *,
    background: Background = "mean",
    resampling: Resampling = "direct",
) -> Tensor:
    """The features of the masked crops of one picture.

    Args:
        encoder: with one of open_clip's standard vision transformers.
        picture: (3, H, W) uint8, RGB.
        boxes: (R, 4) float32, xyxy in pixels.
        masks: R encodings of the picture's size.
        background: see :class:`GlobalLocal`.
        resampling: see :class:`GlobalLocal`.

    Returns:
        (R, D) float32, not normalised.
    """
    mean, std = (torch.tensor(values) for values in (encoder.mean, encoder.std))
    if resampling == "direct":
        red, green, blue = (255 * (mean + std * mean if background == "published" else mean)).tolist()
        crops = _render(MaskedCrop(), encoder, picture, boxes, masks, fill=(red, green, blue))
        return encoder.encode_image(crops, normalize=False)
    height, width = picture.shape[-2:]
    restored = F.interpolate(_normalised_800(encoder, picture), (height, width), mode="bilinear")
    outside = (mean if background == "published" else torch.zeros(3)).to(restored)[:, None, None]
    pixels = []
    for (x1, y1, x2, y2), mask in zip(boxes.tolist(), masks, strict=True):
        left, top = min(max(int(x1), 0), width - 1), min(max(int(y1), 0), height - 1)
        right, bottom = max(left + 1, int(x2)), max(top + 1, int(y2))
        masked = torch.where(decode_masks([mask], restored.device), restored, outside)
        pixels.append(F.interpolate(masked[..., top:bottom, left:right], encoder.size, mode="bilinear"))
    features: Tensor = encoder.model.visual.forward(torch.cat(pixels))
    return features.float()


def _normalised_800(encoder: ImageEncoder, picture: Tensor) -> Tensor:
    """(1, 3, h, w) float32: the picture with a shorter side of 800 pixels, normalised."""
    height, width = picture.shape[-2:]
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    columns, rows = (_SHORTER_SIDE * side // min(height, width) for side in (width, height))
    for size in ((columns, height), (columns, rows)):  # one axis at a time, in the order of Pillow before 13
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).to(encoder.device).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values, device=encoder.device)[:, None, None] for values in (encoder.mean, encoder.std))
    return (pixels / 255 - mean) / std


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
    rows = []
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        planes = decode_masks(masks[start : start + _MASKS_AT_ONCE], device).float()
        rows.append(F.interpolate(planes, grid, mode="bilinear", align_corners=False, antialias=antialias).flatten(1))
    return torch.cat(rows)


def _render(
    view: View,
    encoder: ImageEncoder,
    picture: Tensor,
    boxes: Tensor,
    masks: Sequence[RLE] | None = None,
    *,
    fill: tuple[float, float, float],
) -> Tensor:
    options: dict[str, Any] = {"interpolation": encoder.interpolation, "fill": fill}
    return view.render(picture, boxes, encoder.size, masks=masks, **options)


def masked_blocks(encoder: ImageEncoder, block: int) -> Sequence[nn.Module]:
    """The transformer blocks whose input is masked: from ``block``, counted from 0, to the last.

    Raises:
        ModelError: a tower without class token or patch tokens of its own, or without such a block.
    """
    visual: Any = getattr(encoder.model, "visual", None)
    if not is_standard(visual):
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
        raise DataError("Global-Local features need masks, but the proposals are boxes only. Use proposals with masks.")
    if len(masks) != count:
        raise DataError(f"Global-Local features need one mask for each of {count} boxes, but got {len(masks)}.")
    for index, mask in enumerate(masks):
        if tuple(mask["size"]) != size:
            raise DataError(f"Mask {index} is {tuple(mask['size'])} (height, width), the picture {size}.")
    return masks
