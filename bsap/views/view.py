"""What a view is: a way to show a region of a picture to an image encoder, and how it is drawn.

Every view shows one thing *inside* a shape and another outside it, and then cuts out a window. A view defines these
three parts; rendering, resizing, batching and devices come from :class:`View`. A view of your own::

    @dataclass(frozen=True, kw_only=True)
    class Inverted(View):
        "The colours outside the box are inverted."

        kind = "inverted"

        def inside(self, boxes, masks, height, width):
            return rectangles(pixel_boxes(boxes, height, width), height, width)

        def paint(self, picture, fill, method):
            return picture, 255 - picture

In a configuration it is ``class_path: my_package.Inverted``. A view's parameters are fields of its dataclass, so that
its name and the key of its stored features contain all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bsap.datamodules.scene import RLE
from bsap.errors import ConfigError, DataError
from bsap.registry import first_line
from bsap.views.drawing import draw_all
from bsap.views.packing import ImageEncoder, Segment, encode_packs
from bsap.views.placement import constant
from bsap.views.resample import Drawing, Method, choose, chunks, layer
from bsap.views.shapes import Figure

Colour = tuple[int, int, int]
"""Red, green, blue, each 0..255."""
Fill = tuple[float, float, float]
"""An encoder's mean colour: red, green, blue, each 0..255."""


@dataclass(frozen=True, eq=False)
class Layers:
    """A picture, and what is shown inside and outside of shapes, from :func:`bsap.views.resample.layer`."""

    picture: Tensor
    inner: Tensor
    outer: Tensor
    method: Method


@dataclass(frozen=True, kw_only=True)
class View:
    """A way to show a region to an image encoder. The fields of a subclass are its parameters."""

    kind: ClassVar[str]
    """The first part of the name."""
    source: ClassVar[str] = ""
    """Where the view was published."""
    needs_masks: ClassVar[bool] = False
    """Whether the view needs masks; otherwise boxes are enough."""
    template: ClassVar[str | None] = None
    """A text template that belongs to the view and replaces the configured ones, or None."""

    def __post_init__(self) -> None:
        """Check the parameters, and give equal ones one form: 50 becomes 50.0, and a list from YAML becomes a tuple."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float):
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                    raise ConfigError(
                        f"{field.name} of the view {self.kind!r} must be a number of at least 0, but is {value!r}."
                    )
                object.__setattr__(self, field.name, float(value))
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @property
    def name(self) -> str:
        """Unique for the view and its parameters: the kind, and every parameter that differs from its default."""
        values = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        changed = [
            f"{name}={value:.10g}" if isinstance(value, float) else f"{name}={value}"
            for name, value, default in values
            if value != default
        ]
        return self.kind + (f"({', '.join(changed)})" if changed else "")

    @property
    def key(self) -> str:
        """Canonical JSON of the class path and all parameters, for keys of caches."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return json.dumps({"class_path": path, "init_args": dataclasses.asdict(self)}, sort_keys=True)

    @property
    def summary(self) -> str:
        """One line for a list of views: the first line of the class's docstring, and what differs from the defaults."""
        first = first_line(self)
        changed = self.name.removeprefix(self.kind)
        return f"{first.removesuffix('.')} {changed}." if changed else first

    def check(self, encoder: ImageEncoder, *, resize: str) -> None:
        """Refuse, before anything is encoded, an encoder or a resize that the view cannot work with.

        A view that draws pictures works with all of them.

        Args:
            encoder: what is to look through the view.
            resize: how a region is to become the encoder's square.

        Raises:
            ConfigError: the view cannot work with ``resize``.
            ModelError: the view cannot work with the encoder.
        """

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
        """Encode the regions of several scenes.

        By default the regions are drawn and the encoder sees pictures; a view that looks into the encoder overrides
        this method.

        Args:
            encoder: what looks through the view.
            pictures: ``(3, H, W)`` uint8, RGB, one for each scene.
            boxes: ``(R, 4)`` float32 on the CPU, xyxy in pixels, for each scene.
            masks: R encodings of the picture's size for each scene, or None where it has boxes only.
            resize: see :func:`bsap.views.resample.resample`.
            pack: the most regions that are drawn and encoded at once, which bounds the memory; None:
                :func:`bsap.views.packing.default_pack`.

        Returns:
            ``(sum of R, D)`` float32 unit vectors, scene after scene.

        Raises:
            DataError: see :meth:`render`.
        """
        draw = self.drawer(encoder, pictures, boxes, masks, resize=resize)
        return encode_packs(encoder, [len(regions) for regions in boxes], draw, pack)

    @property
    def draws(self) -> bool:
        """Whether the encoder sees drawn pictures, so that regions of any scenes and views can be encoded together."""
        return type(self).features is View.features

    def drawer(
        self,
        encoder: ImageEncoder,
        pictures: Sequence[Tensor],
        boxes: Sequence[Tensor],
        masks: Sequence[Sequence[RLE] | None],
        *,
        resize: str = "squash",
    ) -> Callable[[Sequence[Segment]], Tensor]:
        """What draws some regions of several scenes; arguments and errors are those of :meth:`features`.

        Returns:
            From segments, in the order of scenes, to ``(N, 3, h, w)`` uint8 pixels of the encoder's size.
        """
        method = choose("auto", encoder.device)
        layers: Callable[[int], Layers]
        if method == "fused":
            both = self.paint_all(pictures, encoder.fill, method)
            layers = [_layers(*parts, method) for parts in zip(pictures, both, strict=True)].__getitem__
        else:  # a scene that spans several packs is painted once; without Triton a GPU's regions are drawn on the CPU

            @functools.lru_cache(maxsize=1)
            def layers(scene: int) -> Layers:
                return self.layers(pictures[scene].cpu(), fill=encoder.fill, method=method)

        def draw(segments: Sequence[Segment]) -> Tensor:
            drawings: list[Drawing] = []
            for scene, start, stop in segments:
                known = masks[scene]
                part = None if known is None else known[start:stop]
                drawings += self.drawings(layers(scene), boxes[scene][start:stop], encoder.size, masks=part)
            options: dict[str, Any] = {"interpolation": encoder.interpolation, "fill": encoder.fill}
            return draw_all(drawings, encoder.size, method=method, resize=resize, **options)

        return draw

    def figure(self, boxes: Tensor, height: int, width: int) -> Figure | None:
        """The shape of each region where it is a box or an ellipse, which a GPU draws without a mask of pixels.

        Args:
            boxes: ``(R, 4)`` float32, xyxy.
            height: ``H`` of the picture.
            width: ``W`` of the picture.

        Returns:
            The figures, or None where :meth:`inside` gives the shape.
        """
        return None

    def inside(self, boxes: Tensor, masks: Tensor | None, height: int, width: int) -> Tensor | None:
        """The shape of each region; by default that of :meth:`figure`, or else the mask.

        Args:
            boxes: ``(R, 4)`` float32, xyxy.
            masks: ``(R, 1, H, W)`` bool where :attr:`needs_masks`, else None.
            height: ``H`` of the picture.
            width: ``W`` of the picture.

        Returns:
            ``(R, 1, H, W)`` bool, or None when the whole picture is shown as it is.
        """
        figure = self.figure(boxes, height, width)
        return masks if figure is None else figure.pixels(height, width)

    def paint(self, picture: Tensor, fill: Fill, method: Method) -> tuple[Tensor, Tensor]:
        """What to show inside and outside the shape; called once for all regions of a picture.

        Args:
            picture: ``(3, H, W)`` uint8.
            fill: the mean colour, 0..255.
            method: how to compute it.

        Returns:
            Two of ``(3, H, W)`` uint8, or of a colour ``(3, 1, 1)`` uint8.
        """
        return picture, picture

    def paint_all(self, pictures: Sequence[Tensor], fill: Fill, method: Method) -> list[tuple[Tensor, Tensor]]:
        """:meth:`paint` for several pictures, which a view may do faster together."""
        return [self.paint(picture, fill, method) for picture in pictures]

    def window(self, boxes: Tensor, height: int, width: int) -> Tensor | None:
        """The part of the picture to show, by default all of it.

        Returns:
            ``(R, 4)`` half-open pixel boxes, int64, or None for the whole picture.
        """
        return None

    def render(
        self,
        picture: Tensor,
        boxes: Tensor,
        size: tuple[int, int],
        *,
        masks: Sequence[RLE] | None = None,
        resize: str = "squash",
        interpolation: str = "bicubic",
        fill: Fill = (0.0, 0.0, 0.0),
        method: Method = "auto",
    ) -> Tensor:
        """Show each of some regions of a picture.

        Args:
            picture: ``(3, H, W)`` uint8, RGB.
            boxes: ``(R, 4)`` float32, xyxy in pixels, on the picture's device. Parts outside the picture are cut off;
                a box without a pixel shows the nearest one.
            size: ``(h, w)`` of the encoder's input.
            masks: R encodings of the picture's size; needed where :attr:`needs_masks`, otherwise ignored.
            resize: see :func:`bsap.views.resample.resample`.
            interpolation: see :func:`bsap.views.resample.resample`.
            fill: the mean colour, 0..255, for padding and for the background of masks.
            method: see :func:`bsap.views.resample.resample`.

        Returns:
            ``(R, 3, h, w)`` uint8 on the picture's device.

        Raises:
            DataError: if the view needs masks and there are none, or their number or size does not fit the regions.
        """
        layers = self.layers(picture, fill=fill, method=method)
        drawings = self.drawings(layers, boxes, size, masks=masks)
        options: dict[str, Any] = {"resize": resize, "interpolation": interpolation, "fill": fill}
        drawn = draw_all(drawings, size, method=layers.method, **options)
        return drawn if len(drawn) else picture.new_empty(0, 3, *size)

    def layers(self, picture: Tensor, *, fill: Fill, method: Method) -> Layers:
        """What all regions of a picture have in common; arguments are those of :meth:`render`."""
        method = choose(method, picture.device)
        return _layers(picture, self.paint(picture, fill, method), method)

    def drawings(
        self, layers: Layers, boxes: Tensor, size: tuple[int, int], *, masks: Sequence[RLE] | None = None
    ) -> Iterator[Drawing]:
        """The regions in parts of bounded memory; arguments and errors are those of :meth:`render`."""
        picture = layers.picture
        height, width = picture.shape[-2:]
        encodings = self.checked_masks(masks, len(boxes), height, width) if self.needs_masks else None
        fused = layers.method == "fused"
        boxes = boxes.cpu() if fused else boxes
        for part in chunks(len(boxes), picture, size):
            inside: Figure | Tensor | None = self.figure(boxes[part], height, width) if fused else None
            if inside is None:
                dense = None if encodings is None else decode_masks(encodings[part], picture.device)
                inside = self.inside(boxes[part].to(picture.device), dense, height, width)
            windows = self.window(boxes[part], height, width)
            if windows is None:
                windows = constant((0, 0, width, height), torch.int64, boxes.device)[None]
            yield Drawing(layers.inner, layers.outer, inside, windows, len(boxes[part]), height, width)

    def checked_masks(self, masks: Sequence[RLE] | None, count: int, height: int, width: int) -> Sequence[RLE]:
        """Raise a DataError unless there are ``count`` masks of the picture's size."""
        if masks is None:
            raise DataError(
                f"The view {self.name!r} needs a mask for every proposal, but these proposals have boxes only. "
                "Use proposals with masks, or choose views that work with boxes, such as crop or blur."
            )
        if len(masks) != count:
            raise DataError(f"The view {self.name!r} got {len(masks)} masks for {count} proposals.")
        for index, mask in enumerate(masks):
            if list(mask["size"]) != [height, width]:
                raise DataError(
                    f"The mask of proposal {index} is {mask['size'][1]} x {mask['size'][0]} pixels, but its picture is "
                    f"{width} x {height}. Make the masks at the resolution of the annotated pictures."
                )
        return masks


def _layers(picture: Tensor, painted: tuple[Tensor, Tensor], method: Method) -> Layers:
    height, width = picture.shape[-2:]
    inner, outer = (layer(pixels, height, width, method=method) for pixels in painted)
    return Layers(picture, inner, outer, method)


def check_colour(kind: str, colour: object) -> None:
    """Raise a ConfigError unless ``colour`` is three whole numbers of 0..255."""
    if not (isinstance(colour, tuple) and len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour)):
        raise ConfigError(f"colour of the view {kind!r} must be three whole numbers from 0 to 255, but is {colour!r}.")


def colour_layer(colour: Sequence[float], picture: Tensor) -> Tensor:
    """A colour of 0..255 as ``(3, 1, 1)`` uint8 on the picture's device."""
    return constant(tuple(colour), torch.uint8, picture.device)[:, None, None]


def decode_masks(masks: Sequence[RLE], device: torch.device | str) -> Tensor:
    """Run-length encodings as ``(R, 1, H, W)`` bool."""
    from pycocotools import mask as coco

    dense = torch.from_numpy(coco.decode(list(masks)))  # (H, W, R), each mask column by column
    return dense.permute(2, 0, 1).to(device)[:, None].contiguous().view(torch.bool)
