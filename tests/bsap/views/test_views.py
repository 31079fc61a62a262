import dataclasses
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from pycocotools import mask as coco

import bsap.views.view
from bsap.errors import DataError
from bsap.views import CPT, VIEWS, Blur, Contour, Crop, Dim, RedCircle, View, make_view
from bsap.views.resample import chunks
from bsap.views.shapes import Figure, edges, ellipses, grow, pixel_boxes

DRAWN = {name: view for name, view in VIEWS.items() if view.draws}
GOLDEN = Path(__file__).parent / "golden_views"
FILL = (123.4, 117.0, 103.6)
SIZE = (48, 64)
WIDTH, HEIGHT = 150, 97
BOXES = [
    (20.3, 30.7, 90.5, 60.5),
    (0.0, 0.0, 150.0, 97.0),
    (-12.0, 50.2, 40.0, 120.0),  # over two borders
    (140.6, 3.0, 150.0, 97.0),
    (75.0, 40.0, 76.0, 41.0),  # one pixel
    (10.2, 8.4, 130.0, 12.1),
]


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def pictures():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / 17 + y / 29), np.cos(y / 13), np.sin(x / 41)]
    smooth = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    squares = np.random.default_rng(0).integers(0, 2, (20, 30, 3)).repeat(5, 0).repeat(5, 1)[:HEIGHT, :WIDTH] * 255
    return Image.fromarray(smooth), Image.fromarray(squares.astype(np.uint8))


def masks():
    """One mask per box: random blobs, one of a single pixel."""
    rng = np.random.default_rng(7)
    dense = (
        rng.random((len(BOXES), HEIGHT // 8 + 1, WIDTH // 8 + 1)).repeat(8, 1).repeat(8, 2)[:, :HEIGHT, :WIDTH] < 0.4
    )
    dense[4] = False
    dense[4, 40, 75] = True
    return dense


def encode(dense):
    return [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in dense]


def pil_mask(mask):
    return Image.fromarray((mask * 255).astype(np.uint8))


def clipped(box):
    return max(box[0], 0), max(box[1], 0), min(box[2], WIDTH), min(box[3], HEIGHT)


def box_mask(box):
    """ReCLIP's way: a rectangle drawn on a mask."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    x1, y1, x2, y2 = clipped(box)
    ImageDraw.Draw(mask).rectangle([(x1, y1), (x2, y2)], fill=255)
    return mask


def paste(below, above, mask):
    result = below.copy()
    result.paste(above, mask=mask)
    return result


def blurred(image, std=100):
    return image.filter(ImageFilter.GaussianBlur(std))


def shaded(image):
    overlay = Image.new("RGBA", image.size, (240, 0, 30, 127))
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def window(box, margin):
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * margin, (y2 - y1) * margin
    return clipped((x1 - dx, y1 - dy, x2 + dx, y2 + dy))


def ellipse(box):
    """Pixel by pixel on the pixels of the crop, apart from the code under test."""
    x1, y1, x2, y2 = (round(c) for c in clipped(box))
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for y in range(y1, y2):
        for x in range(x1, x2):
            across, up = (x + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2), (y + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)
            inside[y, x] = across**2 + up**2 <= 1
    return pil_mask(inside)


def gray(image):
    return image.convert("L").convert("RGB")


def red_box(image, box, mask):
    x1, y1, x2, y2 = (round(c) for c in clipped(box))
    result = image.copy()
    ImageDraw.Draw(result).rectangle((x1, y1, x2 - 1, y2 - 1), outline=(255, 0, 0), width=1)
    return result if (x2 - x1, y2 - y1) != (1, 1) else paste(image, red(image), box_mask((x1, y1, x2 - 1, y2 - 1)))


def red(image):
    return Image.new("RGB", image.size, (255, 0, 0))


def dense_lines(image, lines):
    return paste(image, red(image), pil_mask(lines.numpy()))


REFERENCE = {
    "crop": lambda image, box, mask: image.crop(clipped(box)),
    "crop_margin": lambda image, box, mask: image.crop(window(box, 0.2)),
    "masked_crop": lambda image, box, mask: paste(
        Image.new("RGB", image.size, (123, 117, 104)), image, pil_mask(mask)
    ).crop(clipped(box)),
    "blur": lambda image, box, mask: paste(blurred(image), image, box_mask(box)),
    "blur_circle": lambda image, box, mask: paste(blurred(image), image, ellipse(box)),
    "blur_window": lambda image, box, mask: paste(blurred(image), image, box_mask(box)).crop(window(box, 0.6)),
    "blur_mask": lambda image, box, mask: paste(blurred(image), image, pil_mask(mask)),
    "gray_mask": lambda image, box, mask: paste(gray(image), image, pil_mask(mask)),
    "gray": lambda image, box, mask: paste(gray(image), image, box_mask(box)),
    "gray_circle": lambda image, box, mask: paste(gray(image), image, ellipse(box)),
    "dim": lambda image, box, mask: paste(ImageEnhance.Brightness(image).enhance(0.5), image, box_mask(box)),
    "cpt": lambda image, box, mask: paste(image, shaded(image), box_mask(box)),
    "red_box": red_box,
    # Which pixels the lines take is tested pixel by pixel with the shapes.
    "red_circle": lambda image, box, mask: dense_lines(
        image, Figure(pixel_boxes(torch.tensor([box]), HEIGHT, WIDTH), ellipse=True, line=1).pixels(HEIGHT, WIDTH)[0, 0]
    ),
    "contour": lambda image, box, mask: dense_lines(image, edges(torch.from_numpy(mask)[None, None], 1)[0, 0]),
}


def test_every_ready_made_view_has_a_reference():
    assert set(REFERENCE) == set(DRAWN)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_views_are_what_pil_makes_the_plain_way(name):
    kernel = Image.Resampling.BICUBIC  # two passes: from Pillow 13 on, a single call picks the order of its passes
    for image in pictures():
        ours = VIEWS[name].render(
            tensor(image), torch.tensor(BOXES), SIZE, masks=encode(masks()), fill=FILL, method="native"
        )
        assert ours.shape == (len(BOXES), 3, *SIZE)
        assert ours.dtype == torch.uint8
        for result, box, mask in zip(ours, BOXES, masks(), strict=True):
            shown = REFERENCE[name](image, box, mask)
            expected = shown.resize((SIZE[1], shown.height), kernel).resize((SIZE[1], SIZE[0]), kernel)
            assert (result.int() - tensor(expected).int()).abs().max() <= 2


@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"crop", "crop_margin", "masked_crop", "blur_window"}))
def test_at_the_pictures_own_size_only_the_composition_is_left(name):
    for image in pictures():
        ours = VIEWS[name].render(tensor(image), torch.tensor(BOXES), (HEIGHT, WIDTH), masks=encode(masks()))
        for result, box, mask in zip(ours, BOXES, masks(), strict=True):
            expected = tensor(REFERENCE[name](image, box, mask))
            assert torch.equal(result, expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_every_grey_level_is_mixed_as_pil_mixes_it(share):
    image = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    _, dark = Dim(brightness=share).paint(tensor(image), FILL, "native")
    assert torch.equal(dark, tensor(ImageEnhance.Brightness(image).enhance(share)))
    shade, _ = CPT(opacity=share).paint(tensor(image), FILL, "native")
    overlay = Image.new("RGBA", image.size, (240, 0, 30, round(255 * share)))
    assert torch.equal(shade, tensor(Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")))


def test_real_pictures(real_data):
    paths = sorted((real_data / "refer" / "images" / "train2014").glob("*.jpg"))
    assert paths
    for path in paths[:3]:
        image = Image.open(path).convert("RGB")
        box = (0.21 * image.width, 0.33 * image.height, 0.72 * image.width, 0.88 * image.height)
        boxes = torch.tensor([box])
        box = boxes[0].tolist()
        whole = Image.new("L", image.size)
        ImageDraw.Draw(whole).rectangle(box, fill=255)
        shown = {"crop": image.crop(box), "blur": paste(blurred(image), image, whole)}
        for name, plain in shown.items():
            kernel = Image.Resampling.BICUBIC
            expected = tensor(plain.resize((224, plain.height), kernel).resize((224, 224), kernel))
            ours = VIEWS[name].render(tensor(image), boxes, (224, 224))[0]
            assert (ours.int() - expected.int()).abs().max() <= 2


def test_golden_pictures():
    """views.png was looked at; make.py beside it draws it."""
    picture, mask = Image.open(GOLDEN / "scene.png").convert("RGB"), Image.open(GOLDEN / "mask.png")
    golden = tensor(Image.open(GOLDEN / "views.png"))
    rle = encode(np.array(mask)[None])
    for index, name in enumerate(sorted(DRAWN)):
        box = torch.tensor([(34.4, 15.3, 68.6, 52.7)])
        ours = VIEWS[name].render(tensor(picture), box, (64, 64), masks=rle, fill=(123, 117, 104))[0]
        expected = golden[:, :, index * 64 : index * 64 + 64]
        assert (ours.int() - expected.int()).abs().max() <= 2, name


@pytest.mark.parametrize("name", sorted(DRAWN))
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (20, 700), (700, 20)])
def test_extreme_pictures_and_boxes(name, shape):
    height, width = shape
    picture = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(
        [[0, 0, width, height], [width - 1, height - 1, width, height], [0.4, 0.4, 0.45, 0.45], [-9, -9, -8, -8]]
    )
    full = np.ones((4, height, width), bool)
    for resize in ("squash", "longest", "shortest"):
        drawn = VIEWS[name].render(picture, boxes, (16, 16), masks=encode(full), resize=resize, fill=FILL)
        assert drawn.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_no_regions(name):
    picture = torch.zeros(3, 9, 9, dtype=torch.uint8)
    assert VIEWS[name].render(picture, torch.zeros(0, 4), SIZE, masks=[]).shape == (0, 3, *SIZE)


def test_many_regions_are_done_in_parts(monkeypatch):
    image = pictures()[0]
    boxes = torch.tensor(BOXES).repeat(5, 1)
    rles = encode(masks()) * 5
    for name in DRAWN:
        whole = VIEWS[name].render(tensor(image), boxes, (8, 8), masks=rles, fill=FILL)
        monkeypatch.setattr("bsap.views.resample._CHUNK_BYTES", {"cpu": 2_000_000})
        assert 1 < len(list(chunks(len(boxes), tensor(image), (8, 8)))) < len(boxes)
        assert torch.equal(VIEWS[name].render(tensor(image), boxes, (8, 8), masks=rles, fill=FILL), whole)
        monkeypatch.undo()


def test_the_picture_is_left_alone():
    picture = tensor(pictures()[1])
    before = picture.clone()
    for view in DRAWN.values():
        view.render(picture, torch.tensor(BOXES), (8, 8), masks=encode(masks()), fill=FILL)
    assert torch.equal(picture, before)


@pytest.mark.parametrize("name", [name for name, view in DRAWN.items() if view.needs_masks])
def test_views_of_masks_say_what_is_missing(name):
    picture, boxes = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), torch.tensor(BOXES)
    with pytest.raises(DataError, match=f"'{name}' needs a mask for every proposal.*boxes only.*crop or blur"):
        VIEWS[name].render(picture, boxes, SIZE)
    with pytest.raises(DataError, match="5 masks for 6 proposals"):
        VIEWS[name].render(picture, boxes, SIZE, masks=encode(masks())[:5])
    with pytest.raises(DataError, match="proposal 0 is 97 x 150 pixels, but its picture is 150 x 97"):
        VIEWS[name].render(picture, boxes, SIZE, masks=encode(masks().transpose(0, 2, 1)))


def test_views_of_boxes_do_not_look_at_masks():
    image, boxes = tensor(pictures()[0]), torch.tensor(BOXES)
    for view in DRAWN.values():
        if not view.needs_masks:
            assert torch.equal(view.render(image, boxes, (8, 8), masks=["no mask"]), view.render(image, boxes, (8, 8)))


@dataclass(frozen=True, kw_only=True)
class Inverted(View):
    """The colours outside an ellipse are inverted."""

    kind = "inverted"

    strength: float = 1.0

    def inside(self, boxes, masks, height, width):
        return ellipses(pixel_boxes(grow(boxes, 0.1), height, width), height, width)

    def paint(self, picture, fill, method):
        return picture, 255 - picture


def test_a_view_of_ones_own(monkeypatch):
    package = types.ModuleType("my_package")
    package.Inverted = Inverted
    monkeypatch.setitem(sys.modules, "my_package", package)
    view = make_view({"class_path": "my_package.Inverted", "init_args": {"strength": 2}})
    assert view.name == "inverted(strength=2)"
    image = tensor(pictures()[0])
    native = view.render(image, torch.tensor(BOXES), (16, 16))
    corner = Crop().render(255 - image, torch.tensor([[0.0, 0.0, WIDTH, HEIGHT]]), (16, 16))
    assert torch.equal(native[0, :, 0, 0], corner[0, :, 0, 0])


def test_lines_grow_with_the_picture_and_never_vanish():
    for view in (RedCircle(), Contour()):
        assert [view._pixels(n, 2 * n) for n in (1, 100, 336, 672)] == [1, 1, 2, 4]


def test_views_are_values():
    assert len({Blur(), Blur(std=100), Blur(std=5)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Blur().std = 3


def test_masks_are_decoded_only_when_needed(monkeypatch):
    monkeypatch.setattr(bsap.views.view, "decode_masks", lambda *_: pytest.fail("decoded"))
    image = tensor(pictures()[0])
    CPT().render(image, torch.tensor(BOXES), (8, 8), masks=encode(masks()))


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(DRAWN))
def test_the_device_agrees_with_the_cpu(name):
    for image in pictures():
        arguments = {"masks": encode(masks()), "fill": FILL}
        expected = VIEWS[name].render(tensor(image), torch.tensor(BOXES), (224, 224), **arguments)
        ours = VIEWS[name].render(tensor(image).cuda(), torch.tensor(BOXES).cuda(), (224, 224), **arguments)
        assert (ours.cpu().int() - expected.int()).abs().max() <= 2
