import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as vision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bsap.views.resample import chunks, compose, layer, resample

METHODS = ("native", "matmul")
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
@pytest.mark.parametrize("method", METHODS)
def test_squash_is_pils_crop_and_resize(kind, interpolation, size, method):
    image = picture(kind, 97, 150)
    expected = torch.stack([tensor(pil_resize(image.crop(w), size, interpolation)) for w in WINDOWS])
    ours = resample(tensor(image)[None], torch.tensor(WINDOWS), size, interpolation=interpolation, method=method)
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
    for method in METHODS:
        ours = resample(tensor(image)[None], windows, size, interpolation=interpolation, method=method)
        assert worst(ours, expected) <= 2


def test_half_precision_products_keep_two_grey_levels():
    for kind in ("smooth", "edges", "pixels"):
        image = picture(kind, 60, 90)
        window = torch.tensor([[0, 0, 90, 60], [10, 5, 50, 55], [80, 30, 90, 33]])
        expected = torch.stack([tensor(pil_resize(image.crop(w), (32, 32))) for w in window.tolist()])
        assert (
            worst(resample(tensor(image)[None], window, (32, 32), method="matmul", dtype=torch.float16), expected) <= 2
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_longest_pads_around_the_middle(method, size):
    image, fill = picture("edges", 97, 150), (10.4, 200.0, 77.0)
    ours = resample(tensor(image)[None], torch.tensor(WINDOWS), size, resize="longest", fill=fill, method=method)
    for result, window in zip(ours, WINDOWS, strict=True):
        cut = image.crop(window)
        scale = min(size[0] / cut.height, size[1] / cut.width)
        height, width = (max(1, math.floor(n * scale + 0.5)) for n in (cut.height, cut.width))
        canvas = Image.new("RGB", (size[1], size[0]), (10, 200, 77))
        canvas.paste(pil_resize(cut, (height, width)), ((size[1] - width) // 2, (size[0] - height) // 2))
        assert worst(result, tensor(canvas)) <= 2


@pytest.mark.parametrize("method", METHODS)
def test_shortest_is_torchvisions_resize_and_centre_crop(method):
    image = picture("smooth", 97, 150)
    ours = resample(tensor(image)[None], torch.tensor(WINDOWS), (32, 32), resize="shortest", method=method)
    for result, window in zip(ours, WINDOWS, strict=True):
        resized = vision.resize(image.crop(window), 32, vision.InterpolationMode.BICUBIC)
        assert worst(result, tensor(vision.center_crop(resized, [32, 32]))) <= 2


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_both_methods_agree_everywhere(data):
    height, width = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = (x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    resize = data.draw(st.sampled_from(["squash", "longest", "shortest"]))
    image = picture(data.draw(st.sampled_from(["smooth", "pixels"])), height, width)
    native, matmul = (
        resample(tensor(image)[None], torch.tensor([window]), size, resize=resize, fill=(1.0, 2.0, 3.0), method=method)
        for method in METHODS
    )
    assert native.shape == (1, 3, *size)
    assert worst(native, matmul) <= 2
    if resize == "squash":
        assert worst(native[0], tensor(pil_resize(image.crop(window), size))) <= 2


@pytest.mark.parametrize("shape", [(40, 10_000), (10_000, 40), (1, 3000)])
@pytest.mark.parametrize("resize", ["squash", "longest", "shortest"])
def test_extreme_pictures(shape, resize):
    image = tensor(picture("smooth", *shape))[None]
    window = torch.tensor([[0, 0, shape[1], shape[0]]])
    native, matmul = (resample(image, window, (32, 32), resize=resize, method=method) for method in METHODS)
    assert worst(native, matmul) <= 2
    assert native.float().std() > 1


def test_one_image_for_all_or_one_each():
    image = tensor(picture("pixels", 50, 70))
    window = torch.tensor([[0, 0, 30, 50], [20, 10, 70, 40]])
    for method in METHODS:
        shared = resample(image[None], window, (16, 16), method=method)
        each = resample(image[None].repeat(2, 1, 1, 1), window, (16, 16), method=method)
        assert torch.equal(shared, each)
        two = torch.stack([image, 255 - image])
        same = resample(two, window[:1], (16, 16), method=method)
        assert torch.equal(same[0], shared[0])
        assert torch.equal(same[1], resample(255 - image[None], window[:1], (16, 16), method=method)[0])


def test_an_enclosing_autocast_or_inference_mode_changes_nothing():
    image, window = tensor(picture("pixels", 50, 70))[None], torch.tensor([[3, 4, 60, 40]])
    plain = resample(image, window, (24, 24), method="matmul")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(resample(image, window, (24, 24), method="matmul"), plain)


@pytest.mark.parametrize("method", METHODS)
def test_compose_pastes(method):
    rng = np.random.default_rng(3)
    inner, outer = (tensor(picture("pixels", 20, 33, seed)) for seed in (1, 2))
    inside = torch.from_numpy(rng.random((4, 1, 20, 33)) < 0.5)
    layers = (layer(x, 20, 33, method=method) for x in (inner, outer))
    found = compose(inside, *layers)[:, :3]
    for image, mask in zip(found, inside[:, 0].numpy(), strict=True):
        pasted = Image.fromarray(outer.permute(1, 2, 0).numpy())
        pasted.paste(
            Image.fromarray(inner.permute(1, 2, 0).numpy()), mask=Image.fromarray((mask * 255).astype(np.uint8))
        )
        assert worst(image, tensor(pasted)) == 0
    colour = layer(torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None], 20, 33, method=method)
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
        resample(image, window, (2, 2), method="fast")
    with pytest.raises(ValueError, match=r"Expected argument `resize` to be .*, but got 'crop'"):
        resample(image, window, (2, 2), resize="crop")
    with pytest.raises(ValueError, match=r"Expected argument `interpolation` to be .*, but got 'nearest'"):
        resample(image, window, (2, 2), interpolation="nearest")


@pytest.mark.gpu
@pytest.mark.parametrize("resize", ["squash", "longest", "shortest"])
def test_the_device_agrees_with_the_cpu(resize):
    for kind in ("smooth", "edges", "pixels"):
        image, window = tensor(picture(kind, 97, 150))[None], torch.tensor(WINDOWS)
        expected = resample(image, window, (224, 224), resize=resize)
        ours = resample(image.cuda(), window.cuda(), (224, 224), resize=resize)
        assert worst(ours.cpu(), expected) <= 2
