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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bsap.datamodules.scene import RLE
from bsap.errors import ConfigError, ModelError, unknown
from bsap.views.crops import MaskedCrop
from bsap.views.packing import ImageEncoder
from bsap.views.tower import FromBlock, Tower, is_standard, whole_picture
from bsap.views.view import decode_masks

Background = Literal["mean", "published"]
Resampling = Literal["direct", "published"]
_SHORTER_SIDE = 800  # to which the published code resizes a picture first
_MASKS_AT_ONCE = 32  # dense masks of one picture in memory, about 40 MB in float32 at 640 x 480


@dataclass(frozen=True)
class GlobalLocal(FromBlock):
    """The whole picture with the tokens outside the mask scaled down, together with the masked crop.

    The feature is v * global + (1 - v) * local, which are summed with their own lengths.

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
        """Check ``v``, ``background`` and ``resampling`` as well."""
        super().__post_init__()
        if self.v > 1:
            raise ConfigError(f"v of the view 'global_local' must be between 0 and 1, but is {self.v}.")
        for name, known in (("background", Background), ("resampling", Resampling)):
            if getattr(self, name) not in get_args(known):
                raise unknown(f"{name} of the view 'global_local'", getattr(self, name), get_args(known))

    def tower(self, encoder: ImageEncoder) -> Tower:
        """The inside of an encoder that has tokens to fade."""
        visual = getattr(encoder.model, "visual", None)
        if not is_standard(visual):
            raise ModelError(
                "Global-Local features need one of open_clip's own vision transformers with a class token, such as "
                f"ViT-B-32-quickgelu; model {encoder.label!r} has a {type(visual).__name__} of another kind."
            )
        return super().tower(encoder)

    def encode(
        self, encoder: ImageEncoder, tower: Tower, picture: Tensor, boxes: Tensor, masks: Sequence[RLE] | None
    ) -> Tensor:
        """The weighted sum of both features."""
        known = self.checked_masks(masks, len(boxes), picture.shape[1], picture.shape[2])
        large = _normalised_800(encoder, picture) if self.resampling == "published" else None
        if large is None:
            whole = whole_picture(encoder, picture)
        else:
            whole = F.interpolate(large, encoder.size, mode="bilinear")
        features = self.v * self._global(tower, whole, known)
        if self.v < 1:
            features = features + (1 - self.v) * self._local(encoder, tower, picture, large, boxes, known)
        return F.normalize(features, dim=-1)

    def _global(self, tower: Tower, whole: Tensor, masks: Sequence[RLE]) -> Tensor:
        """The input of each block from ``block`` on is faded by the masks: (R, D) float32, not normalised."""
        weights = token_weights(masks, tower.grid, device=whole.device)
        factors = torch.cat([weights.new_ones(len(weights), 1), weights], dim=1)[:, :, None]  # the class token stays

        def fade(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return (args[0] * factors.to(args[0].dtype), *args[1:]), kwargs

        with tower.before(self.block, fade):
            return tower.run(whole).float()

    def _local(
        self,
        encoder: ImageEncoder,
        tower: Tower,
        picture: Tensor,
        large: Tensor | None,
        boxes: Tensor,
        masks: Sequence[RLE],
    ) -> Tensor:
        """The masked crops, (R, D) float32, not normalised; ``large`` is the picture as the published code has it."""
        mean, std = (torch.tensor(values) for values in (encoder.mean, encoder.std))
        if large is None:
            red, green, blue = (255 * (mean + std * mean if self.background == "published" else mean)).tolist()
            options: dict[str, Any] = {"interpolation": encoder.interpolation, "fill": (red, green, blue)}
            crops = MaskedCrop().render(picture, boxes, encoder.size, masks=masks, **options)
            return encoder.encode_image(crops, normalize=False)
        height, width = picture.shape[-2:]
        restored = F.interpolate(large, (height, width), mode="bilinear")
        outside = (mean if self.background == "published" else torch.zeros(3)).to(restored)[:, None, None]
        pixels = []
        for (x1, y1, x2, y2), mask in zip(boxes.tolist(), masks, strict=True):
            left, top = min(max(int(x1), 0), width - 1), min(max(int(y1), 0), height - 1)
            right, bottom = max(left + 1, int(x2)), max(top + 1, int(y2))
            masked = torch.where(decode_masks([mask], restored.device), restored, outside)
            pixels.append(F.interpolate(masked[..., top:bottom, left:right], encoder.size, mode="bilinear"))
        return tower.run(torch.cat(pixels)).float()


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
