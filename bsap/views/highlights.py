"""Views that show the whole picture with the region highlighted: the rest blurred, gray or dark, the region shaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bsap.errors import ConfigError
from bsap.views.blur import gaussian_blur, gaussian_blurs
from bsap.views.placement import constant
from bsap.views.resample import Method
from bsap.views.shapes import Figure, drawn_boxes, grow, pixel_boxes
from bsap.views.view import Colour, Fill, View, check_colour


@dataclass(frozen=True, kw_only=True)
class _Highlight(View):
    """Views that show the picture inside a box, as ReCLIP draws it, or an ellipse, and something else outside."""

    shape: Literal["box", "ellipse"] = "box"

    def __post_init__(self) -> None:
        """Check the shape as well."""
        super().__post_init__()
        if self.shape not in ("box", "ellipse"):
            raise ConfigError(f"shape of the view {self.kind!r} must be box or ellipse, but is {self.shape!r}.")

    def figure(self, boxes: Tensor, height: int, width: int) -> Figure:
        """The box or the ellipse."""
        if self.shape == "ellipse":
            return Figure(pixel_boxes(boxes, height, width), ellipse=True)
        return Figure(drawn_boxes(boxes, height, width))


@dataclass(frozen=True, kw_only=True)
class _Blurred(View):
    """Views that show the picture blurred outside the shape."""

    std: float = 100.0

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """The picture on the blurred picture."""
        return picture, gaussian_blur(picture, self.std, method=method)

    def paint_all(self, pictures: Sequence[Tensor], fill: Fill, method: Method) -> list[tuple[Tensor, Tensor]]:
        """The pictures on the blurred pictures."""
        return list(zip(pictures, gaussian_blurs(pictures, self.std, method=method), strict=True))


@dataclass(frozen=True, kw_only=True)
class _Colourless(View):
    """Views that show the picture without colour outside the shape."""

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """The picture on its luma, as PIL's ``convert("L")`` computes it."""
        weights = constant((19595, 38470, 7471), torch.int32, picture.device)[:, None, None]
        luma = ((picture.int() * weights).sum(0, dtype=torch.int32) + 0x8000) >> 16
        return picture, luma.to(torch.uint8).expand_as(picture)


@dataclass(frozen=True, kw_only=True)
class Blur(_Blurred, _Highlight):
    """The whole picture, blurred outside the box.

    Attributes:
        shape: ``box``, its right and bottom pixels included, or the ``ellipse`` inscribed in it (Red Circle's ensemble
            as FGVP reproduces it).
        std: standard deviation of the blur in pixels of the picture.
    """

    kind = "blur"
    source = "ReCLIP, Subramanian et al., ACL 2022"


@dataclass(frozen=True, kw_only=True)
class BlurWindow(Blur):
    """A window around the box, blurred outside the box: for small objects and small encoders.

    The picture is blurred as a whole, so the window's background does not depend on the window.

    Attributes:
        shape: ``box``, its right and bottom pixels included, or the ``ellipse`` inscribed in it.
        std: standard deviation of the blur in pixels of the picture.
        margin: context around the box, as a fraction of the box's own width and height on each side.
    """

    kind = "blur_window"
    source = "bsap"

    margin: float = 0.6

    def window(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """The box with its margin."""
        return pixel_boxes(grow(boxes, self.margin), height, width)


@dataclass(frozen=True, kw_only=True)
class Gray(_Colourless, _Highlight):
    """The whole picture, without colour outside the box.

    Attributes:
        shape: ``box``, its right and bottom pixels included, or the ``ellipse`` inscribed in it (Red Circle's ensemble
            as FGVP reproduces it).
    """

    kind = "gray"
    source = "FGVP, Yang et al., NeurIPS 2023 (grayscale box and circle mask)"


@dataclass(frozen=True, kw_only=True)
class Dim(_Highlight):
    """The whole picture, darkened outside the box.

    Attributes:
        shape: ``box``, its right and bottom pixels included, or the ``ellipse`` inscribed in it.
        brightness: share of the light that is left outside, 0 to 1.
    """

    kind = "dim"
    source = "bsap; FGVP's reverse box mask with black"

    brightness: float = 0.5

    def __post_init__(self) -> None:
        """Check the brightness as well."""
        super().__post_init__()
        if self.brightness > 1:
            raise ConfigError(f"brightness of the view 'dim' must be between 0 and 1, but is {self.brightness}.")

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """The picture on the darkened picture, as PIL's ``ImageEnhance.Brightness`` computes it."""
        return picture, (picture.float() * self.brightness).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class CPT(_Highlight):
    """The whole picture with the box shaded red, and a text template that names the colour.

    CPT colours proposals and asks for the colour. The colour, its opacity and the template are those of ReCLIP's
    comparison, which applies CPT to CLIP.

    Attributes:
        shape: ``box``, its right and bottom pixels included, or the ``ellipse`` inscribed in it.
        colour: red, green, blue of the shade, 0..255.
        opacity: of the shade, 0 to 1, rounded to steps of 1/255.
    """

    kind = "cpt"
    source = "CPT, Yao et al., AI Open 2024, as in ReCLIP, Subramanian et al., ACL 2022"
    template = "{} is in red color."

    colour: Colour = (240, 0, 30)
    opacity: float = 127 / 255

    def __post_init__(self) -> None:
        """Check colour and opacity as well."""
        super().__post_init__()
        check_colour(self.kind, self.colour)
        if self.opacity > 1:
            raise ConfigError(f"opacity of the view 'cpt' must be between 0 and 1, but is {self.opacity}.")

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """The shaded picture on the picture, as PIL's ``alpha_composite`` computes it."""
        over = constant(self.colour, torch.int32, picture.device)[:, None, None]
        alpha = round(255 * self.opacity)
        mixed = (over * alpha + picture.int() * (255 - alpha)) * 128 + 0x4000  # 7 bits more than the grey levels' 8
        return (((mixed >> 8) + mixed) >> 15).to(torch.uint8), picture


@dataclass(frozen=True, kw_only=True)
class BlurMask(_Blurred):
    """The whole picture, blurred outside the mask (blur reverse mask).

    Attributes:
        std: standard deviation of the blur in pixels of the picture. FGVP blurs the picture after it has resized its
            shorter side to the encoder's size; at 100 both leave little more than the picture's colours.
    """

    kind = "blur_mask"
    source = "FGVP, Yang et al., NeurIPS 2023"
    needs_masks = True


@dataclass(frozen=True, kw_only=True)
class GrayMask(_Colourless):
    """The whole picture, without colour outside the mask (grayscale reverse mask)."""

    kind = "gray_mask"
    source = "FGVP, Yang et al., NeurIPS 2023"
    needs_masks = True
