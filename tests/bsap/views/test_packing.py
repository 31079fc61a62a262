"""Packs: every region once, in order, and what happens when a pack is too large for the device."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsap.errors import ConfigError
from bsap.views import VIEWS
from bsap.views.packing import encode_packs, packs


class Encoder:
    """Features are the mean colours of the pixels; more pictures than ``most`` do not fit."""

    label, size, fill, interpolation, dim = "toy", (4, 4), (0.0, 0.0, 0.0), "bicubic", 3
    mean = std = (0.5, 0.5, 0.5)
    device, compiled, model = torch.device("cpu"), False, None

    def __init__(self, most=10**9):
        self.most, self.seen = most, []

    def encode_image(self, pixels, *, normalize=True):
        self.seen.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return pixels.float().mean((2, 3))


@given(counts=st.lists(st.integers(0, 9), max_size=6), size=st.integers(1, 12))
def test_packs_hold_every_region_once_in_order(counts, size):
    found = list(packs(counts, size))
    regions = [(scene, r) for pack in found for scene, start, stop in pack for r in range(start, stop)]
    assert regions == [(scene, r) for scene, count in enumerate(counts) for r in range(count)]
    lengths = [sum(stop - start for _, start, stop in pack) for pack in found]
    assert all(0 < length <= size for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1


def numbered(segments):
    """Each region as a picture of one grey level: its scene and its place in it."""
    levels = [16 * scene + r for scene, start, stop in segments for r in range(start, stop)]
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def test_half_a_pack_is_tried_where_a_whole_one_does_not_fit():
    encoder = Encoder(most=5)
    with pytest.warns(UserWarning, match=r"packs of 8 regions; packs of 4 are used.*`--model.region_batch 4`"):
        features = encode_packs(encoder, [7, 0, 9], numbered, 8)
    assert features[:, 0].tolist() == [*range(7), *range(32, 41)]
    encoder.seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_packs(encoder, [16], numbered, 8)
    assert encoder.seen == [4, 4, 4, 4], "remembered"
    assert Encoder().encode_image(numbered([(0, 0, 9)])).shape == (9, 3), "other encoders keep their packs"


def test_a_device_that_is_too_small_is_one_clear_error():
    with (
        pytest.warns(UserWarning, match="ran out of memory"),
        pytest.raises(ConfigError, match=r"packs of 8 and of 4 regions\. Set `--model\.region_batch` to less than 4"),
    ):
        encode_packs(Encoder(most=3), [16], numbered, 8)


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_no_regions(counts):
    assert encode_packs(Encoder(), counts, numbered).shape == (0, 3)


@pytest.mark.parametrize("name", ["crop", "blur", "red_circle"])
def test_a_views_features_are_those_of_its_regions_alone(name):
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 20 + n, 40 - n), dtype=torch.uint8, generator=generator) for n in range(3)]
    boxes = [torch.rand(count, 4, generator=generator).sort(1).values * 20 for count in (3, 0, 5)]
    whole = VIEWS[name].features(Encoder(), pictures, boxes, [None] * 3, pack=4)
    alone = [
        VIEWS[name].features(Encoder(), [picture], [box[None]], [None])
        for picture, regions in zip(pictures, boxes, strict=True)
        for box in regions
    ]
    assert torch.equal(whole, torch.cat(alone))
