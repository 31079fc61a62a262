import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from bsap.views.blur import gaussian_blur


def pictures():
    y, x = np.mgrid[0:61, 0:94]
    yield np.stack([127 + 120 * np.sin(x / 17 + y / 29), 127 + 120 * np.cos(y / 13), x * 2], axis=-1).astype(np.uint8)
    yield (np.random.default_rng(0).integers(0, 2, (16, 24, 3)).repeat(4, 0).repeat(4, 1)[:61, :94] * 255).astype(
        np.uint8
    )


@pytest.mark.parametrize("method", ["native", "matmul"])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.7, 10.0, 100.0])
def test_blur_is_pils(method, std):
    for pixels in pictures():
        expected = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(std))).astype(int)
        ours = gaussian_blur(torch.from_numpy(pixels).permute(2, 0, 1), std, method=method)
        assert ours.dtype == torch.uint8
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("method", ["native", "matmul"])
def test_blur_of_nothing_and_of_a_plain_colour(method):
    picture = torch.full((3, 5, 9), 77, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(picture, 100.0, method=method), picture)
    picture[0, 2, 3] = 255
    assert torch.equal(gaussian_blur(picture, 0.0, method=method), picture)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (1, 300), (300, 1), (2, 1500), (2, 3000)])
def test_blur_of_extreme_shapes(shape):
    picture = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for std in (1.0, 100.0):
        assert torch.equal(gaussian_blur(picture, std, method="matmul"), gaussian_blur(picture, std, method="native"))


def test_blur_ignores_an_enclosing_autocast():
    picture = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain = gaussian_blur(picture, 3.0, method="matmul")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gaussian_blur(picture, 3.0, method="matmul"), plain)
