import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bsap.views.shapes import Figure, drawn_boxes, edges, ellipses, grow, pixel_boxes, rectangles

coordinates = st.floats(-20, 60, width=32)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


def clipped(box, width, height):
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))


@settings(deadline=None)
@given(box=boxes, width=st.integers(1, 40), height=st.integers(1, 40))
def test_pixel_boxes_are_those_of_pil_crop_or_one_pixel(box, width, height):
    x1, y1, x2, y2 = pixel_boxes(torch.tensor([box]), height, width)[0].tolist()
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    left, top, right, bottom = clipped(box, width, height)
    if left <= right and top <= bottom:
        columns, rows = Image.new("L", (width, height)).crop((left, top, right, bottom)).size
        assert (x2 - x1, y2 - y1) == (max(columns, 1), max(rows, 1))
        if columns and rows:  # the same pixels, not only as many
            numbered = np.arange(height * width, dtype=np.int32).reshape(height, width)
            cut = np.asarray(Image.fromarray(numbered).crop((left, top, right, bottom)))
            np.testing.assert_array_equal(cut, numbered[y1:y2, x1:x2])


@settings(deadline=None)
@given(box=boxes, width=st.integers(1, 40), height=st.integers(1, 40))
def test_drawn_boxes_are_the_pixels_that_pil_fills(box, width, height):
    ours = rectangles(drawn_boxes(torch.tensor([box]), height, width), height, width)[0, 0].numpy()
    assert ours.any()
    left, top, right, bottom = clipped(box, width, height)
    if left <= min(right, width - 1) and top <= min(bottom, height - 1):  # otherwise PIL has nothing to draw
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).rectangle([(left, top), (right, bottom)], fill=1)
        np.testing.assert_array_equal(ours, np.asarray(image) > 0)


def test_grow_adds_the_margin_on_every_side():
    assert grow(torch.tensor([[10.0, 20.0, 30.0, 24.0]]), 0.25).tolist() == [[5.0, 19.0, 35.0, 25.0]]
    assert grow(torch.tensor([[1.5, 2.5, 3.5, 4.5]]), 0.0).tolist() == [[1.5, 2.5, 3.5, 4.5]]


@pytest.mark.parametrize("thickness", [1, 2, 5])
def test_frames_are_the_outlines_that_pil_draws(thickness):
    outlined = [(3, 4, 20, 15), (0, 0, 24, 18)]
    found = Figure(torch.tensor(outlined), line=thickness).pixels(18, 24)
    for mask, (x1, y1, x2, y2) in zip(found[:, 0], outlined, strict=True):
        image = Image.new("L", (24, 18))
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), outline=1, width=thickness)
        np.testing.assert_array_equal(mask.numpy(), np.asarray(image) > 0)


@pytest.mark.parametrize("thickness", [1, 2, 5])
def test_frames_fill_a_box_that_is_too_small_and_never_leave_it(thickness):
    found = Figure(torch.tensor([[7, 7, 8, 8]]), line=thickness).pixels(18, 24)[0, 0]
    assert found.nonzero().tolist() == [[7, 7]]


def in_ellipse(x, y, box, inset):
    x1, y1, x2, y2 = box
    rx, ry = (x2 - x1) / 2 - inset, (y2 - y1) / 2 - inset
    if rx <= 0 or ry <= 0:
        return False
    return ((x + 0.5 - (x1 + x2) / 2) / rx) ** 2 + ((y + 0.5 - (y1 + y2) / 2) / ry) ** 2 <= 1


@pytest.mark.parametrize("thickness", [1, 2, 4])
def test_rings_pixel_by_pixel(thickness):
    ellipse = [(2, 3, 19, 14), (0, 0, 24, 18), (7, 7, 8, 8), (5, 2, 7, 17)]
    filled = ellipses(torch.tensor(ellipse), 18, 24)
    found = Figure(torch.tensor(ellipse), ellipse=True, line=thickness).pixels(18, 24)
    for index, box in enumerate(ellipse):
        for y in range(18):
            for x in range(24):
                assert filled[index, 0, y, x] == in_ellipse(x, y, box, 0)
                ring = in_ellipse(x, y, box, 0) and not in_ellipse(x, y, box, thickness)
                assert found[index, 0, y, x] == ring


def test_ellipses_are_those_of_pil_but_for_single_pixels_of_the_rim():
    image = Image.new("L", (90, 70))
    ImageDraw.Draw(image).ellipse((10, 5, 79, 64), fill=1)
    ours = ellipses(torch.tensor([[10, 5, 80, 65]]), 70, 90)[0, 0].numpy()
    differing = ours != (np.asarray(image) > 0)
    assert differing.sum(axis=1).max() <= 2  # at most a pixel at each end of a row


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_edges_pixel_by_pixel(thickness):
    rng = np.random.default_rng(thickness)
    masks = np.zeros((2, 14, 17), dtype=bool)
    masks[0, 0:9, 3:12] = True  # touches the picture's border, with a hole
    masks[0, 4, 6] = False
    masks[1] = rng.random((14, 17)) < 0.3
    outer, inner = thickness // 2, thickness - thickness // 2
    found = edges(torch.from_numpy(masks)[:, None], thickness)[:, 0].numpy()
    for r in range(2):
        padded = np.pad(masks[r], 5)
        for y in range(14):
            for x in range(17):
                near = padded[y + 5 - outer : y + 6 + outer, x + 5 - outer : x + 6 + outer].any()
                deep = padded[y + 5 - inner : y + 6 + inner, x + 5 - inner : x + 6 + inner].all()
                assert found[r, y, x] == (near and not deep)


def test_edges_of_a_square_are_as_thick_as_asked():
    masks = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    masks[..., 5:15, 5:15] = True
    for thickness in (1, 2, 3, 4):
        assert edges(masks, thickness)[0, 0, 10].sum() == 2 * thickness
