"""Ready-made views by name, and views from a configuration."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from bsap.errors import ConfigError, unknown
from bsap.views.crops import Crop, MaskedCrop
from bsap.views.global_local import GlobalLocal
from bsap.views.highlights import Blur, BlurMask, BlurWindow, Dim, Gray, Shade
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
    "cpt": Shade(),
    "masked_crop": MaskedCrop(),
    "blur_mask": BlurMask(),
    "contour": Contour(),
    "global_local": GlobalLocal(),
}
"""Ready-made views by name."""


def make_view(spec: str | Mapping[str, Any] | View) -> View:
    """A view from its name, from ``class_path`` and ``init_args``, or as it is.

    Args:
        spec: a name in :data:`VIEWS`; a dotted path of a class; a mapping with ``class_path``, where a view of this
            module may go by its bare name, and ``init_args``; or a view.

    Raises:
        ConfigError: if the name or the class is unknown, or the parameters are not the class's, or the class has
            parameters that are no fields of a dataclass.

    Example:
        >>> make_view({"class_path": "Blur", "init_args": {"std": 50}}).name
        'blur(std=50)'
    """
    if isinstance(spec, View):
        _check_fields(type(spec))
        return spec
    if isinstance(spec, str) and "." not in spec:
        if spec not in VIEWS:
            raise unknown("view", spec, VIEWS)
        return VIEWS[spec]
    settings: object = {"class_path": spec} if isinstance(spec, str) else spec
    if not isinstance(settings, Mapping) or "class_path" not in settings or set(settings) - {"class_path", "init_args"}:
        raise ConfigError(f"A view is a name, or class_path with or without init_args, but not {spec!r}.")
    view = _view_class(str(settings["class_path"]))
    _check_fields(view)
    try:
        return view(**(settings.get("init_args") or {}))
    except TypeError as error:
        known = ", ".join(f.name for f in dataclasses.fields(view)) or "none"
        raise ConfigError(f"The view {view.__name__} cannot be made: {error}. Its parameters: {known}.") from error


def _check_fields(view: type[View]) -> None:
    """Refuse parameters that the view's name and key do not see: its features would be taken for each other's."""
    unseen = sorted(inspect.signature(view).parameters.keys() - {f.name for f in dataclasses.fields(view)})
    if unseen:
        raise ConfigError(
            f"Parameters of the view {view.__name__} are not part of its name: {', '.join(unseen)}. Make them "
            "fields, such as `pixels: int = 0`, of a class decorated with @dataclass(frozen=True), without an "
            "__init__ of its own."
        )


def _view_class(path: str) -> type[View]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "bsap.views"), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"Cannot find the view class {path!r}: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, View) and hasattr(found, "kind")):
        raise ConfigError(f"{path!r} is not a subclass of bsap.views.View with a kind.")
    return found
