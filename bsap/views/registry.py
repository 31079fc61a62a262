"""Ready-made views by name, and views from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bsap.registry import Registry
from bsap.views.crops import Crop, MaskedCrop
from bsap.views.global_local import GlobalLocal
from bsap.views.highlights import CPT, Blur, BlurMask, BlurWindow, Dim, Gray, GrayMask
from bsap.views.inside import FALIP, Dense, DenseMask
from bsap.views.outlines import Contour, RedBox, RedCircle
from bsap.views.view import View

VIEWS: dict[str, View] = {
    "crop": Crop(),
    "crop_margin": Crop(margin=0.2),
    "blur": Blur(),
    "blur_window": BlurWindow(),
    "blur_circle": Blur(shape="ellipse"),
    "gray": Gray(),
    "gray_circle": Gray(shape="ellipse"),
    "dim": Dim(),
    "red_box": RedBox(),
    "red_circle": RedCircle(),
    "cpt": CPT(),
    "masked_crop": MaskedCrop(),
    "blur_mask": BlurMask(),
    "gray_mask": GrayMask(),
    "contour": Contour(),
    "global_local": GlobalLocal(),
    "falip": FALIP(),
    "dense": Dense(),
    "dense_mask": DenseMask(),
}
"""Ready-made views by name."""

_REGISTRY = Registry("view", View, VIEWS, classes={type(view) for view in VIEWS.values()}, needs="kind")


def make_view(spec: str | Mapping[str, Any] | View) -> View:
    """The view that a configuration means.

    Args:
        spec: a ready-made name; the import path of a class; ``{"class_path": ..., "init_args": {...}}`` with the name
            of a class of :mod:`bsap.views` or an import path; or a view, which is returned as it is.

    Raises:
        ConfigError: unknown name, class or argument, an argument's value out of range, or a class with parameters
            that are no fields of a dataclass.

    Example:
        >>> make_view({"class_path": "Blur", "init_args": {"std": 50}}).name
        'blur(std=50)'
    """
    return _REGISTRY.make(spec)
