"""Views that cut the region out of the picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bsap.views.resample import Method
from bsap.views.shapes import grow, pixel_boxes
from bsap.views.view import Fill, View, colour_layer


@dataclass(frozen=True, kw_only=True)
class Crop(View):
    """The region cut out of the picture.

    Attributes:
        margin: context around the box, as a fraction of the box's own width and height on each side.
    """

    kind = "crop"
    source = "ReCLIP, Subramanian et al., ACL 2022"

    margin: float = 0.0

    def window(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """The box with its margin."""
        return pixel_boxes(grow(boxes, self.margin), height, width)


@dataclass(frozen=True, kw_only=True)
class MaskedCrop(Crop):
    """The region's mask on the encoder's mean colour, cut out along its box.

    Attributes:
        margin: background around the box, as a fraction of the box's own width and height on each side.
    """

    kind = "masked_crop"
    source = "Global-Local CLIP, Yu et al., CVPR 2023"
    needs_masks = True

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """The picture on the mean colour."""
        return picture, colour_layer(fill, picture)
