"""The ways to show a region of a picture to an image encoder, each with its source."""

from bsap.views.crops import Crop, MaskedCrop
from bsap.views.global_local import GlobalLocal
from bsap.views.highlights import CPT, Blur, BlurMask, BlurWindow, Dim, Gray, GrayMask
from bsap.views.inside import FALIP, Dense, DenseMask
from bsap.views.outlines import Contour, RedBox, RedCircle
from bsap.views.registry import VIEWS, make_view
from bsap.views.view import View

__all__ = [
    "CPT",
    "FALIP",
    "VIEWS",
    "Blur",
    "BlurMask",
    "BlurWindow",
    "Contour",
    "Crop",
    "Dense",
    "DenseMask",
    "Dim",
    "GlobalLocal",
    "Gray",
    "GrayMask",
    "MaskedCrop",
    "RedBox",
    "RedCircle",
    "View",
    "make_view",
]
