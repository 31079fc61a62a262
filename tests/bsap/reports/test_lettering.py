"""Text on pictures: nothing runs over the edge, and nothing is a box that says nothing."""

from __future__ import annotations

import pytest

from bsap.reports.lettering import font, printable, wrapped


@pytest.mark.parametrize(
    "text", ["x" * 2000, "a path such as " + "/very/long" * 30 + " and the rest", "a" * 102, "the cup  " * 30, ""]
)
def test_text_is_wrapped_and_nothing_is_lost(text: str) -> None:
    lines = wrapped(text, font(16), 200)
    assert all(font(16).getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("l'élève à gauche", "l'élève à gauche"),
        ("Straße \u2013 links", "Straße \u2013 links"),
        ("左 dog", "? dog"),
        ("красный мяч, μπλε, כדור", "красный мяч, μπλε, כדור"),
        ("two\nlines\tand\u00a0more\x07", "two lines and more?"),
        ("“plain” ~{}|", "“plain” ~{}|"),
    ],
)
def test_letters_that_the_font_lacks_are_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown
    box = font(20).getmask("\uffff")
    assert all(bytes(font(20).getmask(c)) != bytes(box) for c in printable(text) if c != " ")
