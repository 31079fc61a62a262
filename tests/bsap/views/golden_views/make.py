"""Draw the scene, render every ready-made view of it and write both as PNG files beside this script.

Run it when a view is meant to change, then look at views.png.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from bsap.views import VIEWS

HERE = Path(__file__).parent
BOX = (34.4, 15.3, 68.6, 52.7)
FILL = (123.0, 117.0, 104.0)
SIZE = 64


def draw() -> tuple[Image.Image, Image.Image]:
    """A 120 x 80 picture, and the mask of the flower in its middle."""
    y, x = np.mgrid[0:80, 0:120]
    sky = np.stack([90 + x * 0.9, 140 + y * 0.7, 220 - y * 1.6], axis=-1).clip(0, 255).astype(np.uint8)
    picture, mask = Image.fromarray(sky), Image.new("L", (120, 80))
    draw, shape = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    for left in range(0, 120, 8):
        draw.rectangle((left, 66, left + 3, 79), fill=(20, 90, 20))
    draw.rectangle((6, 24, 24, 62), fill=(250, 250, 250), outline=(0, 0, 0))
    draw.polygon([(86, 62), (116, 62), (101, 30)], fill=(60, 20, 140))
    for centre in [(44, 25), (59, 25), (44, 43), (59, 43)]:
        petal = (centre[0] - 9, centre[1] - 9, centre[0] + 9, centre[1] + 9)
        draw.ellipse(petal, fill=(240, 200, 30))
        shape.ellipse(petal, fill=255)
    draw.ellipse((45, 27, 58, 41), fill=(120, 60, 20))
    shape.ellipse((45, 27, 58, 41), fill=255)
    return picture, mask


def render(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """All views that draw, side by side, in the order of their names."""
    names = sorted(name for name, view in VIEWS.items() if view.draws)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    rle = coco.encode(np.asfortranarray(np.array(mask) > 0).astype(np.uint8))
    strip = Image.new("RGB", (SIZE * len(names), SIZE))
    for index, name in enumerate(names):
        view = VIEWS[name].render(pixels, torch.tensor([BOX]), (SIZE, SIZE), masks=[rle], fill=FILL)[0]
        strip.paste(Image.fromarray(view.permute(1, 2, 0).numpy()), (index * SIZE, 0))
    return strip


if __name__ == "__main__":
    picture, mask = draw()
    picture.save(HERE / "scene.png", optimize=True)
    mask.convert("1").save(HERE / "mask.png", optimize=True)
    render(picture, mask).save(HERE / "views.png", optimize=True)
