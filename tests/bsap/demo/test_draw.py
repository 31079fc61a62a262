from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import bsap.demo.draw as world
from bsap.demo.draw import World, draw_scene
from bsap.demo.kinds import CATEGORIES, PALETTE, PATTERNS


def digest(*seed: int) -> str:
    scene = draw_scene(*seed)
    content = hashlib.sha256(scene.picture.tobytes())
    for thing in scene.things:
        content.update(f"{thing.category} {thing.colour} {thing.pattern} {thing.whole}".encode())
        content.update(thing.mask.tobytes())
    return content.hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    seeds = [(World.DATASET, 0, 0, 7), (World.DATASET, 0, 1, 7), (World.TRAINING, 0, 7), (World.CHECKING, 0, 7)]
    first = [digest(*seed) for seed in seeds]
    assert first == [digest(*seed) for seed in seeds]
    assert len(set(first)) == len(seeds)


@pytest.mark.parametrize("index", range(12))
def test_masks_are_disjoint_and_boxes_hold_them_tightly(index: int) -> None:
    scene = draw_scene(8, index)
    assert 4 <= len(scene.things) <= 10
    width, height = scene.picture.size
    assert sum(thing.mask.astype(int) for thing in scene.things).max() == 1
    for thing in scene.things:
        assert thing.category in CATEGORIES
        assert thing.colour in PALETTE
        assert thing.pattern in PATTERNS
        assert thing.mask.shape == (height, width)
        pixels = [(x, y) for y in range(height) for x in range(width) if thing.mask[y, x]]
        xs, ys = zip(*pixels, strict=True)
        assert thing.box == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        assert thing.area == len(pixels)
        assert 0.45 * thing.whole <= thing.area <= thing.whole


def test_masks_are_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing is painted in a colour of its own, flat: then every pixel says which thing it shows."""
    painted = iter(range(1, 100))
    real = world.draw_object

    def flat(*args: object, **options: object) -> object:
        stamp = real(*args, **options)  # type: ignore[arg-type]
        colour = world.Image.new("RGB", stamp.size, (next(painted), 0, 255))
        colour.putalpha(stamp.getchannel("A"))
        return colour

    monkeypatch.setattr(world, "draw_object", flat)
    occluded = 0
    for index in range(10):
        scene = draw_scene(8, index)
        pixels = np.asarray(scene.picture)
        ours = (pixels[..., 1] == 0) & (pixels[..., 2] == 255)
        assert (sum(thing.mask.astype(int) for thing in scene.things) == ours).all()
        tags = []
        for thing in scene.things:
            seen = set(pixels[thing.mask][:, 0].tolist())
            assert len(seen) == 1, "a mask covers pixels of another thing"
            tags += seen
            assert ((pixels[..., 0] == tags[-1]) & ours == thing.mask).all()
            occluded += thing.area < thing.whole
        assert tags == sorted(tags), "things are listed from back to front"
    assert occluded > 5


def test_attributes_are_long_tailed_yet_nothing_is_missing() -> None:
    things = [thing for index in range(150) for thing in draw_scene(8, index).things]
    for name, values in (("category", CATEGORIES), ("colour", PALETTE), ("pattern", PATTERNS)):
        counts = Counter(getattr(thing, name) for thing in things)
        assert set(counts) == set(values)
    patterns = Counter(thing.pattern for thing in things)
    assert patterns["plain"] > 0.5 * len(things)
    people = Counter(thing.colour for thing in things if thing.category == "person").most_common()
    assert people[0][1] > 3 * people[-1][1]


def test_the_order_in_which_pillow_resizes_axes_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow may take either axis first, and releases differ."""
    seeds = [(8, index) for index in range(6)]
    before, resize = [digest(*seed) for seed in seeds], Image.Image.resize

    def columns_first(self: Image.Image, size: tuple[int, int], *options: object) -> Image.Image:
        return resize(resize(self, (self.width, size[1]), *options), size, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", columns_first)
    assert [digest(*seed) for seed in seeds] == before
