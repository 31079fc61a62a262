import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bsap.views.blur import gaussian_blur, gaussian_blurs


def pictures():
    y, x = np.mgrid[0:61, 0:94]
    yield np.stack([127 + 120 * np.sin(x / 17 + y / 29), 127 + 120 * np.cos(y / 13), x * 2], axis=-1).astype(np.uint8)
    yield (np.random.default_rng(0).integers(0, 2, (16, 24, 3)).repeat(4, 0).repeat(4, 1)[:61, :94] * 255).astype(
        np.uint8
    )


@pytest.mark.parametrize("method", ["native", "fused"])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.7, 10.0, 100.0])
def test_blur_is_pils(method, std):
    for pixels in pictures():
        expected = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(std))).astype(int)
        ours = gaussian_blur(torch.from_numpy(pixels).permute(2, 0, 1), std, method=method)
        assert ours.dtype == torch.uint8
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("method", ["native", "fused"])
def test_blur_of_nothing_and_of_a_plain_colour(method):
    picture = torch.full((3, 5, 9), 77, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(picture, 100.0, method=method), picture)
    picture[0, 2, 3] = 255
    assert torch.equal(gaussian_blur(picture, 0.0, method=method), picture)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (1, 300), (300, 1), (2, 1500), (2, 3000)])
def test_blur_of_extreme_shapes(shape):
    picture = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for std in (1.0, 100.0):
        assert torch.equal(gaussian_blur(picture, std, method="fused"), gaussian_blur(picture, std, method="native"))


def test_blur_ignores_an_enclosing_autocast():
    picture = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain = gaussian_blur(picture, 3.0, method="fused")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gaussian_blur(picture, 3.0, method="fused"), plain)


@pytest.mark.parametrize("together", [1, 20_000, 1 << 23])
def test_many_pictures_of_any_sizes_at_once(together, monkeypatch):
    """Padding to the largest picture changes no pixel, nor does how many are blurred together."""
    monkeypatch.setattr("bsap.views.blur._TOGETHER", together)
    shapes = [(40, 61), (61, 40), (1, 1), (5, 90), (90, 3), (61, 40), (2, 2100)]
    generator = torch.Generator().manual_seed(2)
    pictures = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator) for shape in shapes]
    for std in (1.3, 30.0):
        found = gaussian_blurs(pictures, std, method="fused")
        for picture, blurred in zip(pictures, found, strict=True):
            assert torch.equal(blurred, gaussian_blur(picture, std, method="native"))
    assert gaussian_blurs([], 3.0) == []


@settings(deadline=None, max_examples=60)
@given(std=st.floats(0.05, 120), seed=st.integers(0, 99))
def test_any_deviation_gives_pils_pixels(std, seed):
    picture = torch.randint(0, 256, (3, 23, 34), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(gaussian_blur(picture, std, method="fused"), gaussian_blur(picture, std, method="native"))
