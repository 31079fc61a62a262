import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as vision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bsap.views.placement import place
from bsap.views.resample import choose, chunks, compose, layer, resample

PIL_KERNELS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def pil_resize(image, size, interpolation="bicubic"):
    """PIL's resize, the horizontal pass first whatever the version of Pillow prefers."""
    kernel = PIL_KERNELS[interpolation]
    return image.resize((size[1], image.height), kernel).resize((size[1], size[0]), kernel)


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def picture(kind, height, width, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    if kind == "smooth":
        waves = [np.sin(x / 17 + y / 29), np.cos(y / 13), np.sin(x / 41)]
        return Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))
    cell = 5 if kind == "edges" else 1  # black and white squares, or pixels
    squares = rng.integers(0, 2, (math.ceil(height / cell), math.ceil(width / cell), 3)) * 255
    return Image.fromarray(squares.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.uint8))


def worst(ours, expected):
    return int((ours.int() - expected.int()).abs().max())


WINDOWS = [(0, 0, 150, 97), (3, 5, 147, 20), (140, 0, 150, 97), (0, 80, 60, 97), (70, 40, 71, 41), (10, 50, 11, 97)]


@pytest.mark.parametrize("kind", ["smooth", "edges", "pixels"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (48, 64), (224, 224)])
def test_squash_is_pils_crop_and_resize(kind, interpolation, size):
    image = picture(kind, 97, 150)
    expected = torch.stack([tensor(pil_resize(image.crop(w), size, interpolation)) for w in WINDOWS])
    ours = resample(tensor(image)[None], torch.tensor(WINDOWS), size, interpolation=interpolation)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    assert worst(ours, expected) <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_stored_pixels_of_pillow_before_13(interpolation):
    """The published numbers were made with rows first; `pillow_pixels/make.py` made the file with such a Pillow."""
    stored = np.load(Path(__file__).parent / "pillow_pixels" / "before_13.npz")
    assert int(str(stored["pillow"]).split(".")[0]) < 13
    image, expected = Image.fromarray(stored["picture"]), torch.from_numpy(stored[interpolation]).permute(0, 3, 1, 2)
    size = tuple(expected.shape[2:])
    again = [tensor(pil_resize(image.crop(tuple(w)), size, interpolation)) for w in stored["windows"].tolist()]
    assert torch.equal(torch.stack(again), expected), "two resizes of one axis each are the reference of other tests"
    windows = torch.from_numpy(stored["windows"])
    assert worst(resample(tensor(image)[None], windows, size, interpolation=interpolation), expected) <= 2


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_longest_pads_around_the_middle(size):
    image, fill = picture("edges", 97, 150), (10.4, 200.0, 77.0)
    ours = resample(tensor(image)[None], torch.tensor(WINDOWS), size, resize="longest", fill=fill)
    for result, window in zip(ours, WINDOWS, strict=True):
        cut = image.crop(window)
        scale = min(size[0] / cut.height, size[1] / cut.width)
        height, width = (max(1, math.floor(n * scale + 0.5)) for n in (cut.height, cut.width))
        canvas = Image.new("RGB", (size[1], size[0]), (10, 200, 77))
        canvas.paste(pil_resize(cut, (height, width)), ((size[1] - width) // 2, (size[0] - height) // 2))
        assert worst(result, tensor(canvas)) <= 2


def test_shortest_is_torchvisions_resize_and_centre_crop():
    image = picture("smooth", 97, 150)
    ours = resample(tensor(image)[None], torch.tensor(WINDOWS), (32, 32), resize="shortest")
    for result, window in zip(ours, WINDOWS, strict=True):
        resized = vision.resize(image.crop(window), 32, vision.InterpolationMode.BICUBIC)
        assert worst(result, tensor(vision.center_crop(resized, [32, 32]))) <= 2


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_window_of_any_picture(data):
    height, width = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = (x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    image = picture(data.draw(st.sampled_from(["smooth", "pixels"])), height, width)
    ours = resample(tensor(image)[None], torch.tensor([window]), size)
    assert ours.shape == (1, 3, *size)
    assert worst(ours[0], tensor(pil_resize(image.crop(window), size))) <= 2


@pytest.mark.parametrize("shape", [(1, 60), (60, 1), (2, 75), (3, 100), (40, 10_000), (10_000, 40), (1, 3000)])
def test_thin_windows_keep_their_middle(shape):
    """Windows so thin that resizing all of them and cutting the middle out would take too much memory."""
    image, size = picture("pixels", *shape), (32, 32)
    ours = resample(tensor(image)[None], torch.tensor([[0, 0, shape[1], shape[0]]]), size, resize="shortest")[0]
    ((width, height, left, top),) = place(torch.tensor([[0, 0, shape[1], shape[0]]]), size, "shortest").tolist()
    x, y = np.arange(32) - left, np.arange(32) - top
    pixels = np.array(image, float).transpose(2, 0, 1)
    columns = np.clip(np.floor(pixels @ weights(x, shape[1], width).T + 0.5), 0, 255)
    expected = np.clip(np.floor(weights(y, shape[0], height) @ columns + 0.5), 0, 255)
    assert worst(ours, torch.from_numpy(expected.astype(np.uint8))) <= 2


def weights(pixels, length, out):
    """PIL's weights, one row for each pixel of a result of ``out`` pixels, in float64."""
    scale = length / out
    wide = max(scale, 1.0)
    rows = np.zeros((len(pixels), length))
    for row, pixel in zip(rows, pixels, strict=True):
        centre = (pixel + 0.5) * scale
        low, high = max(0, int(centre - 2 * wide + 0.5)), min(length, int(centre + 2 * wide + 0.5))
        x = np.abs((np.arange(low, high) - centre + 0.5) / wide)
        near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
        row[low:high] = np.where(x < 1, near, np.where(x < 2, far, 0))
        row /= row.sum()
    return rows


def test_one_image_for_all_or_one_each():
    image = tensor(picture("pixels", 50, 70))
    window = torch.tensor([[0, 0, 30, 50], [20, 10, 70, 40]])
    shared = resample(image[None], window, (16, 16))
    each = resample(image[None].repeat(2, 1, 1, 1), window, (16, 16))
    assert torch.equal(shared, each)
    two = torch.stack([image, 255 - image])
    same = resample(two, window[:1], (16, 16))
    assert torch.equal(same[0], shared[0])
    assert torch.equal(same[1], resample(255 - image[None], window[:1], (16, 16))[0])


def test_compose_pastes():
    rng = np.random.default_rng(3)
    inner, outer = (tensor(picture("pixels", 20, 33, seed)) for seed in (1, 2))
    inside = torch.from_numpy(rng.random((4, 1, 20, 33)) < 0.5)
    layers = (layer(x, 20, 33, method="native") for x in (inner, outer))
    found = compose(inside, *layers)[:, :3]
    for image, mask in zip(found, inside[:, 0].numpy(), strict=True):
        pasted = Image.fromarray(outer.permute(1, 2, 0).numpy())
        pasted.paste(
            Image.fromarray(inner.permute(1, 2, 0).numpy()), mask=Image.fromarray((mask * 255).astype(np.uint8))
        )
        assert worst(image, tensor(pasted)) == 0
    colour = layer(torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None], 20, 33, method="native")
    assert colour[:3].unique(dim=1).flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]


def test_chunks_cover_every_region_once_and_are_bounded():
    small, large = torch.empty(3, 100, 100, dtype=torch.uint8), torch.empty(3, 4000, 6000, dtype=torch.uint8)
    for count in (0, 1, 7, 2000):
        for picture_, most in ((small, 2000), (large, 1)):
            parts = list(chunks(count, picture_, (224, 224)))
            assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
            assert all(part.stop - part.start <= most for part in parts)


def test_wrong_arguments():
    image, window = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([[0, 0, 4, 4]])
    with pytest.raises(ValueError, match=r"Expected argument `method` to be .*, but got 'fast'"):
        choose("fast", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"Expected argument `resize` to be .*, but got 'crop'"):
        resample(image, window, (2, 2), resize="crop")
    with pytest.raises(ValueError, match=r"Expected argument `interpolation` to be .*, but got 'nearest'"):
        resample(image, window, (2, 2), interpolation="nearest")
