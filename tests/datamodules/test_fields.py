from __future__ import annotations

from array import array

import pytest

from bsap.datamodules.fields import Record, identity, number, shown
from bsap.errors import DataError


@pytest.mark.parametrize("value", [None, True, 1.5, "", [], {}, 2**63, -(2**63), "\ud800", "a\0b", float("nan")])
def test_identity_refuses(value: object) -> None:
    with pytest.raises(DataError, match=r"line 3: expected an id"):
        identity(value, "line 3")


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 1e39, 10**400, [1]])
def test_number_refuses(value: object) -> None:
    with pytest.raises(DataError, match="line 3: expected a finite number"):
        number(value, "line 3")


def test_record_names_place_and_field() -> None:
    record = Record({"w": 0, "t": " \t", "l": {}, "n": None, "s": "\ud800", "b": True, "x": 2**40}, "f.json, image 2")
    for call, message in [
        (lambda: record["n"], "'n' is missing"),
        (lambda: record.text("t"), "'t' must be a text that is not empty"),
        (lambda: record.text("s"), "'s' must be a text"),
        (lambda: record.text("w"), "'w' must be a text"),
        (lambda: record.size("w"), "'w' must be a positive number of pixels"),
        (lambda: record.size("b"), "'b' must be a positive"),
        (lambda: record.size("x"), "'x' must be a positive"),
        (lambda: record.items("l"), "'l' must be a list"),
        (lambda: record.identity("b"), "'b': expected an id"),
        (lambda: Record([1], "f.json, image 2"), "expected an object"),
    ]:
        with pytest.raises(DataError, match=r"^f\.json, image 2") as caught:
            call()
        assert message in str(caught.value)
    assert "n" not in record
    assert "w" in record


def test_shown_is_short_whatever_the_value() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    wide = {f"{'k' * 30}{n}": {f"{'v' * 30}{m}": [m] * 9 for m in range(9)} for n in range(9)}
    for value in (deep, 10**5000, "x" * 10**6, {n: n for n in range(1000)}, b"\xff" * 10**6, wide):
        assert len(shown(value)) <= 120


def test_packed_polygons_are_shown_as_the_file_writes_them() -> None:
    packed = (array("d", [1, 2, 3]), array("d", range(9)))
    assert shown(packed) == "([1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, ...])"
