"""The ways to show a region of a picture to CLIP, each with its source."""

from bsap.views.crops import Crop, MaskedCrop
from bsap.views.global_local import GlobalLocal
from bsap.views.highlights import Blur, BlurMask, BlurWindow, Dim, Gray, Shade
from bsap.views.outlines import Contour, RedBox, RedCircle
from bsap.views.registry import VIEWS, make_view
from bsap.views.view import View

__all__ = [
    "VIEWS",
    "Blur",
    "BlurMask",
    "BlurWindow",
    "Contour",
    "Crop",
    "Dim",
    "GlobalLocal",
    "Gray",
    "MaskedCrop",
    "RedBox",
    "RedCircle",
    "Shade",
    "View",
    "make_view",
]
