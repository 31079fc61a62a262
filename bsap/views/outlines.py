"""Views that draw a line around the region."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bsap.views.resample import Method
from bsap.views.shapes import Figure, edges, pixel_boxes
from bsap.views.view import Colour, Fill, View, check_colour, colour_layer


@dataclass(frozen=True, kw_only=True)
class _Outline(View):
    """Views that draw a line on the picture."""

    colour: Colour = (255, 0, 0)
    thickness: float = 2 / 336

    def __post_init__(self) -> None:
        """Check the colour as well."""
        super().__post_init__()
        check_colour(self.kind, self.colour)

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """The line's colour on the picture."""
        return colour_layer(self.colour, picture), picture

    def _pixels(self, height: int, width: int) -> int:
        return max(1, round(self.thickness * min(height, width)))


@dataclass(frozen=True, kw_only=True)
class RedCircle(_Outline):
    """The whole picture with a red ellipse drawn into the box.

    The authors' code is not public: colour and thickness are those of FGVP's reproduction, which draws pure red,
    2 pixels thick, on a picture whose shorter side is 336.

    Attributes:
        colour: red, green, blue of the line, 0..255.
        thickness: of the line, as a fraction of the picture's shorter side; at least one pixel.
    """

    kind = "red_circle"
    source = "Red Circle, Shtedritski et al., ICCV 2023, as in FGVP, Yang et al., NeurIPS 2023"

    def figure(self, boxes: Tensor, height: int, width: int) -> Figure:
        """The line of the ellipse."""
        return Figure(pixel_boxes(boxes, height, width), ellipse=True, line=self._pixels(height, width))


@dataclass(frozen=True, kw_only=True)
class RedBox(_Outline):
    """The whole picture with the box drawn in red.

    Attributes:
        colour: red, green, blue of the line, 0..255.
        thickness: of the line, as a fraction of the picture's shorter side; at least one pixel.
    """

    kind = "red_box"
    source = "Red Circle, Shtedritski et al., ICCV 2023, as in FGVP, Yang et al., NeurIPS 2023"

    def figure(self, boxes: Tensor, height: int, width: int) -> Figure:
        """The line of the box."""
        return Figure(pixel_boxes(boxes, height, width), line=self._pixels(height, width))


@dataclass(frozen=True, kw_only=True)
class Contour(_Outline):
    """The whole picture with the mask's outline drawn in red.

    Attributes:
        colour: red, green, blue of the line, 0..255.
        thickness: of the line, as a fraction of the picture's shorter side; at least one pixel.
    """

    kind = "contour"
    source = "FGVP, Yang et al., NeurIPS 2023"
    needs_masks = True

    def inside(self, boxes: Tensor, masks: Tensor | None, height: int, width: int) -> Tensor | None:
        """The line along the mask's border."""
        assert masks is not None
        return edges(masks, self._pixels(height, width))
