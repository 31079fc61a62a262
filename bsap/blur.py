"""PIL's Gaussian blur of a whole picture, by PIL on a CPU and as two matrix products on a device.

``ImageFilter.GaussianBlur`` is three box blurs per axis whose width may be fractional and which repeat the picture's
edge pixels (Gwosdek et al., SSVM 2011, "Theoretical foundations of Gaussian convolution by extended box filtering").
That is a linear operator per axis, so one matrix per axis does all three passes at once. PIL rounds to whole grey
levels after each of the six passes, the products after each axis: the two agree to two levels of 255.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from bsap.regions import Method, choose

_PASSES = 3
_LARGEST = 2048  # the operator of a longer side takes more memory and time than PIL and two transfers


def gaussian_blur(picture: Tensor, std: float, *, method: Method = "auto") -> Tensor:
    """Blur a picture as ``PIL.ImageFilter.GaussianBlur(std)`` does.

    Args:
        picture: ``(3, H, W)`` uint8.
        std: standard deviation in pixels; 0 leaves the picture as it is.
        method: ``native`` uses PIL, ``matmul`` the operators, ``auto`` the former on a CPU and the latter elsewhere.

    Returns:
        ``(3, H, W)`` uint8 on the picture's device.

    Example:
        >>> picture = torch.zeros(3, 7, 7, dtype=torch.uint8)
        >>> picture[:, 3, 3] = 255
        >>> gaussian_blur(picture, 1.0)[0, 3]
        tensor([ 1,  6, 24, 42, 24,  6,  1], dtype=torch.uint8)
    """
    if std == 0:
        return picture
    height, width = picture.shape[-2:]
    if choose(method, picture.device) == "native" or max(height, width) > _LARGEST:
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
        pixels = np.array(image.filter(ImageFilter.GaussianBlur(std)))
        return torch.from_numpy(pixels).permute(2, 0, 1).to(picture.device)
    dtype = torch.float16 if picture.device.type == "cuda" else torch.float32
    across, down = (_operator(n, std, picture.device, dtype) for n in (width, height))
    with torch.no_grad(), torch.autocast(picture.device.type, enabled=False):
        lines = torch.matmul(picture.to(dtype), across.mT).round_()
        return torch.matmul(down, lines).round_().to(torch.uint8)


@functools.lru_cache(maxsize=128)
def _operator(n: int, std: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The three box blurs of an axis of ``n`` pixels as one ``(n, n)`` matrix."""
    whole, part = divmod(_box_radius(std), 1.0)
    reach = int(whole) + 1
    weights = torch.ones(2 * reach + 1, dtype=torch.float64, device=device)
    weights[0] = weights[-1] = part
    pixels = torch.arange(n, device=device)
    index = (pixels[:, None] + torch.arange(-reach, reach + 1, device=device)).clamp(0, n - 1)
    box = torch.zeros(n, n, dtype=torch.float64, device=device)
    box.scatter_add_(1, index, (weights / weights.sum()).expand(n, -1))
    operator: Tensor = torch.linalg.matrix_power(box, _PASSES)
    return operator.to(dtype)


def _box_radius(std: float) -> float:
    """Radius of the extended box filter that, three times applied, has the given standard deviation."""
    variance = std * std / _PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part
