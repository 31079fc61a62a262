from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsap.datamodules.boxes import ROUNDING, read_xywh, to_xyxy
from bsap.errors import DataError


def convert(rows: list[object], width: int = 640, height: int = 480) -> np.ndarray:
    where = [f"box {n}" for n in range(len(rows))]
    return to_xyxy(read_xywh(rows, where), width, height, where)


def test_by_hand() -> None:
    found = convert([[0, 0, 640, 480], [468.3, 0.91, 171.7, 116.12], [-1.5, 470, 10, 11.9]])
    expected = np.array([[0, 0, 640, 480], [468.3, 0.91, 640, 117.03], [0, 470, 8.5, 480]], dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    assert convert([]).shape == (0, 4)


@pytest.mark.parametrize(
    "row",
    [
        None, 5, "abcd", [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, None], [1, 2, 3, True], {"x": 1},
        [1, 2, float("nan"), 4], [1, float("inf"), 3, 4], [1, 2, -3, 4], [1, 2, 3, 10**400], [[1, 2, 3, 4]],
    ],
)  # fmt: skip
def test_malformed_rows_name_their_place(row: object) -> None:
    with pytest.raises(DataError, match="box 1"):
        convert([[1, 1, 5, 5], row])


def test_zero_size() -> None:
    for row in ([5, 5, 0, 5], [5, 5, 5, 0], [640, 5, 1, 5], [5, 5, 1e-9, 5]):
        with pytest.raises(DataError, match=r"box 0.* no area"):
            convert([row])


def test_corners_passed_as_sizes_are_told() -> None:
    """[300, 200, 600, 400] is a fine corner box, but as x, y, w, h it ends at 900."""
    with pytest.raises(DataError, match=r"beyond its picture of 640 x 480.*corners \[x1, y1, x2, y2\]: convert"):
        convert([[1, 1, 5, 5], [300, 200, 600, 400]])
    with pytest.raises(DataError, match="of another picture size"):
        convert([[300, 200, 1200, 800]])
    with pytest.raises(DataError, match="reaches beyond"):
        convert([[-ROUNDING - 0.01, 0, 10, 10]])


@settings(max_examples=300, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.floats(-3, 130)] * 2, *[st.floats(0, 130)] * 2), max_size=5),
    width=st.integers(1, 128),
    height=st.integers(1, 128),
)
def test_like_a_plain_loop(boxes: list[tuple[float, float, float, float]], width: int, height: int) -> None:
    rows = [list(box) for box in boxes]
    expected = []
    fine = True
    for x, y, w, h in boxes:
        fine &= min(x, y) >= -2 and x + w <= width + 2 and y + h <= height + 2
        limits = ((x, width), (y, height), (x + w, width), (y + h, height))
        corners = [np.float32(min(max(value, 0), limit)) for value, limit in limits]
        fine &= bool(corners[0] < corners[2] and corners[1] < corners[3])
        expected.append(corners)
    if fine:
        wanted = np.array(expected, dtype=np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(convert(rows, width, height), wanted)
    else:
        with pytest.raises(DataError):
            convert(rows, width, height)
