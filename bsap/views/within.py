"""Views that look into the encoder instead of drawing pictures for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from bsap.datamodules.scene import RLE
from bsap.errors import ConfigError
from bsap.views.view import View

if TYPE_CHECKING:
    from bsap.models.encoder import Encoder


@dataclass(frozen=True)
class GlobalLocal(View):
    """The whole picture with the tokens outside the mask faded, together with the masked crop.

    Args:
        v: weight of the global feature, 0 to 1: as published 0.85 on RefCOCOg and 0.95 on RefCOCO and RefCOCO+.
        block: the first transformer block, from 0, whose input is masked.
    """

    kind: ClassVar[str] = "global_local"
    source: ClassVar[str] = "Global-Local CLIP, Yu et al., CVPR 2023"
    needs_masks: ClassVar[bool] = True
    encodes: ClassVar[bool] = True

    v: float = 0.95
    block: int = 9

    def __post_init__(self) -> None:
        """Check the parameters; how many blocks there are, the encoder says."""
        super().__post_init__()
        if self.v > 1:
            raise ConfigError(f"v of the view 'global_local' lies between 0 and 1, but is {self.v}.")
        if type(self.block) is not int or self.block < 0:
            raise ConfigError(
                f"block of the view 'global_local' is a whole number of at least 0, but is {self.block!r}."
            )

    def check(self, encoder: Encoder, *, resize: str) -> None:
        """Refuse towers that have no such block, or no tokens to fade."""
        from bsap.views.global_local import masked_blocks

        super().check(encoder, resize=resize)
        masked_blocks(encoder, self.block)

    def encode(self, encoder: Encoder, picture: Tensor, boxes: Tensor, masks: Sequence[RLE] | None) -> Tensor:
        """(R, D) float32 unit features of one picture's regions, by :func:`bsap.views.global_local.encode_scene`."""
        from bsap.views.global_local import encode_scene

        return encode_scene(encoder, picture, boxes, masks, v=self.v, block=self.block)
