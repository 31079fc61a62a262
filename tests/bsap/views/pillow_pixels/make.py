"""Make ``before_13.npz``: windows of a picture resized by a Pillow before 13, rows first.

pip install --target /tmp/pillow "pillow<13"
PYTHONPATH=/tmp/pillow python tests/bsap/views/pillow_pixels/make.py
"""

import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

SIZE = (24, 32)
WINDOWS = [
    (0, 0, 90, 60),
    (3, 5, 13, 58),  # wider, and less high
    (3, 5, 88, 9),  # less wide, and higher
    (40, 20, 41, 21),
    (40, 0, 47, 60),
    (0, 33, 90, 34),
    (17, 11, 63, 44),
]


def main() -> None:
    if int(PIL.__version__.split(".")[0]) >= 13:
        sys.exit(f"Pillow {PIL.__version__} resizes in another order; use one before 13.")
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 2, (12, 18, 3)).repeat(5, 0).repeat(5, 1) * 255
    picture = np.where(rng.random((60, 90, 1)) < 0.7, blocks, rng.integers(0, 256, (60, 90, 3))).astype(np.uint8)
    image = Image.fromarray(picture)
    found = {"picture": picture, "windows": np.array(WINDOWS), "pillow": np.array(PIL.__version__)}
    for name in ("bicubic", "bilinear"):
        method = Image.Resampling[name.upper()]
        found[name] = np.stack([np.array(image.crop(w).resize((SIZE[1], SIZE[0]), method)) for w in WINDOWS])
    np.savez_compressed(Path(__file__).with_name("before_13.npz"), **found)


if __name__ == "__main__":
    main()
