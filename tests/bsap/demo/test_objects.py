from __future__ import annotations

import numpy as np
import pytest

from bsap.demo.kinds import CATEGORIES, KINDS, PALETTE, PATTERNS
from bsap.demo.objects import contrast, draw_object


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Share of the object's pixels that have a colour."""
    shown = picture[picture[..., 3] > 127][:, :3].astype(int)
    return float((np.abs(shown - colour).max(1) < 12).mean())


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_colour_is_plain_to_see_in_every_category(category: str) -> None:
    picture = draw_object(category, PALETTE["purple"], "plain", 80)
    assert near(np.asarray(picture), PALETTE["purple"]) > 0.2
    assert picture.width / picture.height == pytest.approx(KINDS[category].aspect, rel=0.25)


@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_a_pattern_brings_the_second_colour_and_keeps_the_first(pattern: str) -> None:
    colour = PALETTE["red"]
    plain, patterned = (np.asarray(draw_object("bus", colour, name, 80)) for name in ("plain", pattern))
    assert near(patterned, contrast(colour)) > near(plain, contrast(colour)) + 0.1
    assert near(patterned, colour) > 0.15
    assert (plain[..., 3] == patterned[..., 3]).all()


def test_kinds_and_patterns_can_be_told_apart_by_their_pixels() -> None:
    shapes = {c: np.asarray(draw_object(c, PALETTE["red"], "plain", 60).resize((40, 40)))[..., 3] > 127 for c in KINDS}
    names = list(shapes)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            if {one, other} != {"ball", "clock"}:  # both round; a clock has a face
                assert (shapes[one] ^ shapes[other]).mean() > 0.03, (one, other)


def test_a_flipped_object_is_the_mirror_image() -> None:
    cup, mirrored = (draw_object("cup", PALETTE["blue"], "plain", 60, flip=flip) for flip in (False, True))
    assert (np.asarray(cup)[:, ::-1] == np.asarray(mirrored)).all()


def test_the_picture_is_cut_to_the_object() -> None:
    alpha = np.asarray(draw_object("kite", PALETTE["pink"], "dotted", 70, turn=9))[..., 3]
    assert alpha[0].any()
    assert alpha[-1].any()
    assert alpha[:, 0].any()
    assert alpha[:, -1].any()


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected argument `pattern` to be one of .*, but got tartan"):
        draw_object("cup", PALETTE["blue"], "tartan", 60)
