from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsap.datamodules.filters import Selection
from bsap.datamodules.records import ExpressionRecord
from bsap.datamodules.refer import read_refer
from bsap.errors import ConfigError, DataError


@pytest.fixture
def expressions(root: Path) -> tuple[ExpressionRecord, ...]:
    return read_refer(root, "tiny", None, "val").expressions


def keys(found: list[ExpressionRecord]) -> list[str]:
    return [e.id.rsplit("/", 1)[1] for e in found]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["100", "101", "102", "103", "105"]),
        ({"limit": 2}, ["100", "101"]),
        ({"limit": 99}, ["100", "101", "102", "103", "105"]),
        ({"ids": ("105", "tiny/own/val/100")}, ["100", "105"]),
        ({"ids": ("105", "100"), "limit": 1}, ["100"]),
        ({"ids": "103"}, ["103"]),
        ({"ids": "tiny/own/val/103"}, ["103"]),
        ({"category": "cat"}, ["102"]),
        ({"category": ("cat", "dog"), "min_words": 2}, ["100", "102", "103", "105"]),
        ({"min_words": 3}, ["100", "102", "105"]),
        ({"max_words": 2}, ["101", "103"]),
        ({"min_words": 2, "max_words": 3}, ["100", "103"]),
        ({"min_distractors": 1}, ["100", "101", "103"]),
        ({"max_distractors": 0}, ["102", "105"]),
        ({"max_distractors": 0, "category": "dog", "limit": 1}, ["105"]),
    ],
)
def test_by_hand(expressions: tuple[ExpressionRecord, ...], filters: dict[str, Any], expected: list[str]) -> None:
    assert keys(Selection(**filters).apply(expressions)) == expected


def test_ids_from_a_file(expressions: tuple[ExpressionRecord, ...], tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("tiny/own/val/103\n\n 100 \n")
    assert keys(Selection(ids=str(file)).apply(expressions)) == ["100", "103"]
    assert Selection(ids=str(file)).given() == {"ids": str(file)}
    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"`ids` names no expression, the file .*ids\.txt holds none"):
        Selection(ids=str(file)).apply(expressions)
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        file.write_bytes("103\r\n100\r\n".encode(encoding))
        assert keys(Selection(ids=str(file)).apply(expressions)) == ["100", "103"], encoding
    file.write_bytes(b"\xff\xfa")
    with pytest.raises(DataError, match="not a text file"):
        Selection(ids=str(file)).apply(expressions)
    with pytest.raises(DataError, match=r"No file of ids at .* Give ids of this split"):
        Selection(ids=str(tmp_path / "gone.txt")).apply(expressions)


def test_unknown_values(expressions: tuple[ExpressionRecord, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"2 of 3 ids are not in this split, first 1, 2\. Its ids look like tiny/own/val/100"
    ):
        Selection(ids=("1", "100", "2")).apply(expressions)
    with pytest.raises(ConfigError, match="`ids` names no expression, the list is empty"):
        Selection(ids=()).apply(expressions)
    with pytest.raises(ConfigError, match=r"Unknown category 'dgo'.* Did you mean 'dog'"):
        Selection(category=("dgo",)).apply(expressions)
    with pytest.raises(ConfigError, match="No expression passes"):
        Selection(min_words=50).apply(expressions)


@pytest.mark.parametrize(
    "bad", [{"limit": 0}, {"limit": True}, {"min_words": -1}, {"max_words": 1.5}, {"min_words": 3, "max_words": 2}]
)
def test_settings_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Selection(**bad)


def test_given_is_plain_and_empty_without_filters() -> None:
    assert Selection().given() == {}
    assert Selection(ids=("1",), category="dog", limit=3).given() == {"ids": ["1"], "category": ["dog"], "limit": 3}


@given(low=st.none() | st.integers(0, 6), high=st.none() | st.integers(0, 6))
def test_bounds_are_inclusive(low: int | None, high: int | None) -> None:
    from bsap.datamodules.records import ReferentRecord

    about = ReferentRecord("x", "1", "1", ("1",), "dog", 0)
    said = [ExpressionRecord(f"d/s/v/{n}", n, " ".join(["w"] * n), about) for n in range(1, 6)]
    expected = [e for n, e in enumerate(said, start=1) if (low is None or n >= low) and (high is None or n <= high)]
    if low is not None and high is not None and low > high:
        return
    if expected:
        assert Selection(min_words=low, max_words=high).apply(said) == expected
    else:
        with pytest.raises(ConfigError):
            Selection(min_words=low, max_words=high).apply(said)
