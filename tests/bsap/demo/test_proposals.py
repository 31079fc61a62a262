from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFilter

from bsap.demo.draw import DrawnScene, draw_scene
from bsap.demo.proposals import Detection, detect

SCENES = [draw_scene(8, index) for index in range(40)]
FOUND = [detect(scene, np.random.default_rng(index)) for index, scene in enumerate(SCENES)]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def xyxy(found: Detection) -> tuple[float, ...]:
    x, y, w, h = found.bbox
    return x, y, x + w, y + h


def best(scene: DrawnScene, found: list[Detection]) -> list[float]:
    return [max((iou(xyxy(item), thing.box) for item in found), default=0.0) for thing in scene.things]


def test_proposals_are_well_formed_and_sorted() -> None:
    for scene, found in zip(SCENES, FOUND, strict=True):
        width, height = scene.picture.size
        for item in found:
            x0, y0, x1, y1 = xyxy(item)
            assert 0 <= x0 < x1 <= width + 1e-6
            assert 0 <= y0 < y1 <= height + 1e-6
            assert 0 < item.score < 1
            assert item.mask.shape == (height, width)
            assert item.mask.any()
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_most_things_are_found_loosely_and_some_are_missed() -> None:
    overlaps = [value for scene, found in zip(SCENES, FOUND, strict=True) for value in best(scene, found)]
    hits = np.array(overlaps) >= 0.5
    assert 0.8 < hits.mean() < 0.98
    assert 0.7 < np.array(overlaps)[hits].mean() < 0.95


def test_there_are_duplicates_and_false_alarms() -> None:
    every = [(scene, item) for scene, found in zip(SCENES, FOUND, strict=True) for item in found]
    nothing = sum(all(iou(xyxy(item), thing.box) < 0.3 for thing in scene.things) for scene, item in every)
    assert nothing > 0.5 * len(SCENES)
    doubles = sum(
        sum(iou(xyxy(item), thing.box) > 0.5 for item in found) > 1
        for scene, found in zip(SCENES, FOUND, strict=True)
        for thing in scene.things
    )
    assert doubles > 10


def test_masks_are_ragged_but_mostly_right() -> None:
    overlaps = []
    for scene, found in zip(SCENES, FOUND, strict=True):
        for thing in scene.things:
            overlaps.append(max(((m.mask & thing.mask).sum() / (m.mask | thing.mask).sum() for m in found), default=0))
    good = np.array(overlaps)
    assert (good >= 0.5).mean() > 0.75
    assert good.max() <= 1
    assert (good > 0.99).mean() < 0.35


def test_the_same_chance_finds_the_same() -> None:
    again = detect(SCENES[3], np.random.default_rng(3))
    assert [(item.bbox, item.score) for item in again] == [(item.bbox, item.score) for item in FOUND[3]]


def test_no_filter_of_size_1_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow 12.3 divides by zero there and ends the interpreter."""
    sizes = []
    for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter):

        def start(self: ImageFilter.RankFilter, size: int = 3, start: object = kind.__init__) -> None:
            sizes.append(size)
            start(self, size)  # type: ignore[operator]

        monkeypatch.setattr(kind, "__init__", start)
    again = [detect(scene, np.random.default_rng(index)) for index, scene in enumerate(SCENES)]
    assert set(sizes) == {3, 5}
    for one, other in zip(FOUND, again, strict=True):
        assert [item[:2] for item in one] == [item[:2] for item in other]
