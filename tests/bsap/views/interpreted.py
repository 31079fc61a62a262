"""The Triton kernels against PIL, in Triton's interpreter on the CPU; ``test_fused.py`` runs this file."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from bsap.errors import DataError
from bsap.views import CPT, VIEWS, Blur, Crop, View, fused
from bsap.views.drawing import draw_all
from bsap.views.resample import Drawing
from bsap.views.shapes import Figure, ellipses, grow, pixel_boxes

BLOCK = 1 << 12
DRAWN = sorted(name for name, view in VIEWS.items() if view.draws)
FILL = (123.4, 117.0, 103.6)
BOXES = torch.tensor(
    [
        (10.3, 15.7, 30.5, 25.5),
        (0.0, 0.0, 38.0, 29.0),
        (-6.0, 15.2, 20.0, 40.0),  # over two borders
        (35.6, 1.0, 38.0, 29.0),
        (17.0, 10.0, 18.0, 11.0),  # one pixel
        (2.2, 4.4, 32.0, 6.1),
    ]
)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch):
    """The interpreter's time is per program."""
    monkeypatch.setattr(fused, "BLOCK", BLOCK)


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def picture(kind, height, width, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "smooth":
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x / 17 + y / 29), np.cos(y / 13), np.sin(x / 41)]
        return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    cell = 5 if kind == "edges" else 1
    squares = rng.integers(0, 2, (-(-height // cell), -(-width // cell), 3)) * 255
    return squares.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.uint8)


def encode(dense):
    return [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in dense]


def pil(pixels, window, size, interpolation="bicubic"):
    """PIL's crop and resize, rows first whatever the release of Pillow prefers."""
    method, image = Image.Resampling[interpolation.upper()], Image.fromarray(pixels).crop(window)
    return tensor(image.resize((size[1], image.height), method).resize((size[1], size[0]), method))


def worst(ours, expected):
    return int((ours.int() - expected.int()).abs().max())


def drawing(pixels, windows, inside=None, outer=None):
    inner = tensor(pixels)
    outer = inner if outer is None else outer
    return Drawing(inner, outer, inside, torch.tensor(windows), len(windows), *pixels.shape[:2])


def draw(drawings, size, resize="squash", interpolation="bicubic", fill=FILL, **options):
    return fused.draw(drawings, size, resize=resize, interpolation=interpolation, fill=fill, **options)


@pytest.mark.parametrize("kind", ["edges", "pixels"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(16, 16), (24, 40), (90, 70)])
def test_squash_is_pils_crop_and_resize(kind, interpolation, size):
    windows = [(0, 0, 75, 58), (3, 5, 73, 9), (70, 0, 75, 58), (35, 20, 36, 21), (5, 20, 6, 58)]
    pixels = picture(kind, 58, 75)
    expected = torch.stack([pil(pixels, window, size, interpolation) for window in windows])
    ours = draw([drawing(pixels, windows)], size, interpolation=interpolation)
    assert ours.dtype == torch.uint8
    assert worst(ours, expected) <= 1


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_the_cpu_draws_the_same_everywhere(data):
    """Any window of any picture, by any way of resizing, many in one launch."""
    resize = data.draw(st.sampled_from(["squash", "longest", "shortest"]))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    drawings, expected = [], []
    for seed in range(data.draw(st.integers(1, 3))):
        height, width = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
        pixels = picture(data.draw(st.sampled_from(["smooth", "pixels"])), height, width, seed)
        windows = []
        for _ in range(data.draw(st.integers(1, 3))):
            x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
            windows.append((x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))))
        drawings.append(drawing(pixels, windows))
        options = {"resize": resize, "interpolation": "bicubic", "fill": FILL, "method": "native"}
        expected.append(draw_all([drawing(pixels, windows)], size, **options))
    assert worst(draw(drawings, size, resize), torch.cat(expected)) <= 2


@pytest.mark.parametrize(
    ("shape", "size", "resizes"),
    [
        ((20, 300), (16, 16), ("squash", "longest", "shortest")),
        ((300, 20), (16, 16), ("longest", "shortest")),
        ((1, 200), (16, 16), ("longest", "shortest")),
        ((1, 1), (16, 16), ("squash", "longest", "shortest")),
        ((20, 20_000), (16, 1000), ("squash",)),  # the time is per tap, of which there are few in a wide result
        pytest.param((20_000, 20), (1000, 6), ("squash",), marks=pytest.mark.slow),
    ],
)
def test_extreme_pictures(shape, size, resizes):
    pixels = picture("smooth", *shape)
    job, options = [drawing(pixels, [(0, 0, shape[1], shape[0])])], {"interpolation": "bicubic", "fill": FILL}
    for resize in resizes:
        native = draw_all(job, size, resize=resize, method="native", **options)
        assert worst(draw(job, size, resize), native) <= 2


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_many_regions(count):
    rng = np.random.default_rng(count)
    corners = np.sort(rng.integers(0, 12, (count, 2, 2)), axis=1)
    corners[:, 1] += 1
    job = [drawing(picture("pixels", 13, 13), corners.reshape(count, 4).tolist())]
    native = draw_all(job, (3, 4), resize="squash", interpolation="bilinear", fill=FILL, method="native")
    assert worst(draw(job, (3, 4), interpolation="bilinear", block=64), native) <= 2


def test_launches_of_bounded_memory(monkeypatch):
    """Tall pictures are drawn a few at a time."""
    jobs = [drawing(picture("pixels", 9 + n, 8, n), [(0, 0, 8, 9 + n)] * 2) for n in range(3)]
    whole, launches = draw(jobs, (4, 4)), []
    alone = fused.draw
    monkeypatch.setattr(fused, "draw", lambda part, *a, **o: (launches.append(len(part)), alone(part, *a, **o))[1])
    monkeypatch.setattr("bsap.views.drawing.LINES", 3 * 4 * 2 * 20)
    options = {"resize": "squash", "interpolation": "bicubic", "fill": FILL, "method": "fused"}
    assert torch.equal(draw_all(jobs, (4, 4), **options), whole)
    assert launches == [2, 1]


def test_masks_of_another_size_are_refused_as_on_the_cpu():
    image, masks = torch.zeros(3, 9, 9, dtype=torch.uint8), encode(np.ones((1, 8, 9)))
    for method in ("native", "fused"):
        with pytest.raises(DataError, match="The mask of proposal 0 is 9 x 8 pixels, but its picture is 9 x 9"):
            VIEWS["masked_crop"].render(image, torch.ones(1, 4), (8, 8), masks=masks, method=method)


@pytest.mark.parametrize("name", DRAWN)
def test_views_are_those_of_the_cpu(name):
    rng = np.random.default_rng(7)
    dense = rng.random((len(BOXES), 8, 10)).repeat(4, 1).repeat(4, 2)[:, :29, :38] < 0.4
    dense[0], dense[1], dense[3] = False, True, False
    dense[3, 28, 37] = True
    image = tensor(picture("edges", 29, 38))
    resize = ("squash", "longest", "shortest")[DRAWN.index(name) % 3]
    options = {"masks": encode(dense), "fill": FILL, "resize": resize}
    cpu = VIEWS[name].render(image, BOXES, (16, 20), method="native", **options)
    ours = VIEWS[name].render(image, BOXES, (16, 20), method="fused", **options)
    assert ours.shape == cpu.shape
    assert worst(ours, cpu) <= 2


@pytest.mark.parametrize("ellipse", [False, True])
@pytest.mark.parametrize("line", [0, 3, 40])
def test_figures_hold_the_same_pixels(ellipse, line):
    """At the picture's own size nothing is resampled, so that each pixel shows one layer or the other."""
    windows = [(0, 0, 41, 37)] * 10
    corners = torch.randint(0, 41, (10, 2, 2), generator=torch.Generator().manual_seed(line)).sort(1).values
    boxes = pixel_boxes(corners.flatten(1).float(), 37, 41)
    figure = Figure(boxes, ellipse=ellipse, line=line)
    white, black = np.full((37, 41, 3), 255, np.uint8), torch.zeros(3, 1, 1, dtype=torch.uint8)
    ours = draw([drawing(white, windows, figure, black)], (37, 41), interpolation="bilinear")
    assert torch.equal(ours[:, :1] == 255, figure.pixels(37, 41))


def test_many_pictures_in_one_launch_are_each_alone():
    views, jobs, alone = [Crop(), Blur(std=3), CPT(shape="ellipse"), VIEWS["red_circle"], Inverted()], [], []
    for index, view in enumerate(views):
        image = tensor(picture("edges", 20 + 5 * index, 36 - 4 * index, index))
        layers = view.layers(image, fill=FILL, method="fused")
        jobs += view.drawings(layers, BOXES[::2], (16, 24))
        alone.append(view.render(image, BOXES[::2], (16, 24), fill=FILL, method="fused"))
    assert torch.equal(draw(jobs, (16, 24)), torch.cat(alone))
    assert torch.equal(draw(jobs, (16, 24), block=BLOCK // 4), torch.cat(alone)), "programs of any size"


class Inverted(View):
    """A view with a shape of its own: the kernels read a mask of pixels."""

    kind = "inverted"

    def inside(self, boxes, masks, height, width):
        return ellipses(pixel_boxes(grow(boxes, 0.1), height, width), height, width)

    def paint(self, picture, fill, method):
        return picture, 255 - picture


def test_no_regions():
    image = torch.zeros(3, 9, 9, dtype=torch.uint8)
    for name in DRAWN:
        assert VIEWS[name].render(image, torch.zeros(0, 4), (8, 8), masks=[], method="fused").shape == (0, 3, 8, 8)
