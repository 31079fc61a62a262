from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bsap.reports.scene_picture import CHOICES, REFERENT, contact_sheet, draw_scene

BOXES = [[20, 20, 100, 80], [140, 40, 220, 140], [40, 120, 110, 200]]
GREY = Image.new("RGB", (240, 220), (90, 90, 90))


def drawn(choices: Any, *, title: str = "left cup", referent: list[float] | None = None, **options: object):
    image = draw_scene(GREY, boxes=BOXES, referent=referent, choices=choices, title=title, width=480, **options)  # type: ignore[arg-type]
    return np.asarray(image)


def where(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(x0, y0, x1, y1) around all pixels of a colour above the legend, in pixels of the picture's top left."""
    head = int(np.flatnonzero((image == 90).all(2).any(1))[0])
    rows, columns = np.nonzero((image[head : head + 440] == colour).all(2))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_each_choice_is_framed_where_its_box_is() -> None:
    image = drawn({"clip": 1, "bsap": 2})
    for colour, box in zip(CHOICES, (BOXES[1], BOXES[2]), strict=False):
        assert np.abs(where(image, colour) - 2 * np.array(box)).max() <= 1


def test_scorers_with_one_choice_are_all_seen() -> None:
    image = drawn({"clip": 1, "bsap": 1, "bsap_h": 1}, referent=[140, 40, 220, 140])
    frames = [where(image, colour) for colour in CHOICES[:3]]
    assert (frames[0][:2] < frames[1][:2]).all()
    assert (frames[1][:2] < frames[2][:2]).all()
    assert (where(image, REFERENT)[:2] < frames[0][:2]).all()


def test_all_regions_of_an_answer_are_framed_and_none_has_no_frame() -> None:
    image = drawn({"clip": [0, 2], "bsap": []}, hits={"clip": True, "bsap": False})
    around = 2 * np.array([20, 20, 110, 200])  # both boxes together
    assert np.abs(where(image, CHOICES[0]) - around).max() <= 1
    with pytest.raises(ValueError, match="zero-size"):
        where(image, CHOICES[1])
    legend = [
        drawn({"bsap": answer}, referent=referent)[-30:] for answer, referent in (([], None), ([], []), ([0], []))
    ]
    assert not any(np.array_equal(a, b) for a, b in pairwise(legend) if a.shape == b.shape)
    with pytest.raises(ValueError, match="`choices` to be below 3, but got 3 for clip"):
        drawn({"clip": [0, 3]})


def test_a_scorer_that_could_not_choose_has_no_frame() -> None:
    with pytest.raises(ValueError, match="zero-size"):
        where(drawn({"clip": -1}), CHOICES[0])


def test_a_long_title_is_wrapped_and_nothing_is_cut() -> None:
    short, long = drawn({"clip": 0}), drawn({"clip": 0}, title="the cup " * 30)
    assert long.shape[0] > short.shape[0] + 60
    assert long.shape[1] == short.shape[1] == 480


@pytest.mark.parametrize(
    ("size", "drawn_size"),
    [
        ((240, 220), (480, 440)),
        ((640, 480), (480, 360)),
        ((1000, 40), (1920, 77)),
        ((400, 40), (960, 96)),
        ((40, 10000), (8, 1920)),
    ],
)
def test_strips_are_neither_too_thin_nor_endless(size: tuple[int, int], drawn_size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (10, 200, 250))
    image = np.asarray(draw_scene(picture, boxes=[], referent=None, choices={}, title="a title beside it", width=480))
    rows, columns = np.nonzero((image == (10, 200, 250)).all(2))
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == drawn_size
    assert image.shape[1] == max(480, drawn_size[0])


def test_more_scorers_than_colours_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def write(self: ImageDraw.ImageDraw, place: object, said: str, **options: object) -> None:
        written.append(said)
        text(self, place, said, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    drawn({f"s{n}": n % 3 for n in range(6)})
    assert written == ["left cup", *(f"s{n}" for n in range(6))]
    written.clear()
    drawn({f"s{n}": n % 3 for n in range(8)})
    assert written == [*"12345678", "left cup", *(f"{n + 1}  s{n}" for n in range(8))]


def test_the_picture_itself_is_left_alone() -> None:
    before = GREY.tobytes()
    drawn({"clip": 0}, referent=[0, 0, 50, 50])
    assert GREY.tobytes() == before


def test_boxes_beyond_the_picture_and_no_boxes_at_all() -> None:
    draw_scene(GREY, boxes=[[-50, -50, 900, 900]], referent=[[230, 210, 400, 400]], choices={"clip": 0}, title="")
    draw_scene(GREY, boxes=[], referent=None, choices={"clip": -1}, title="nothing here")


def test_a_choice_that_is_no_proposal_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected argument `choices` to be below 3, but got 3 for bsap"):
        drawn({"clip": 0, "bsap": 3})


def test_the_sheet_holds_every_picture_unchanged_and_in_order() -> None:
    images = [Image.new("RGB", (60, 30 + 10 * n), (n, 2 * n, 250)) for n in range(5)]
    sheet = np.asarray(contact_sheet(images, columns=2))
    firsts = []
    for n, image in enumerate(images):
        rows, columns = np.nonzero((sheet == (n, 2 * n, 250)).all(2))
        assert len(rows) == image.width * image.height
        firsts.append((rows.min(), columns.min()))
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(("images", "columns", "message"), [([], 2, "at least one picture"), ([GREY], 0, "at least 1")])
def test_misuse_of_the_sheet_is_refused(images: list[Image.Image], columns: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(images, columns)
