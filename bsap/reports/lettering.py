"""Text on pictures: measured, broken into lines, and of letters that the font has."""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (20, 20, 20)


@functools.cache
def font(size: int) -> Font:
    """DejaVu Sans as matplotlib brings it, ``size`` pixels high: Latin, Greek, Cyrillic, Hebrew, Arabic and more."""
    package = importlib.util.find_spec("matplotlib")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.exists():
            return ImageFont.truetype(file, round(0.9 * size))
    return ImageFont.load_default(size=size)


def printable(text: str) -> str:
    """A text in letters that the font has; accents that it lacks are dropped, other letters become ``?``.

    Example:
        >>> printable("l'élève à gauche, 左")
        "l'élève à gauche, ?"
    """
    return "".join(map(_printable, text))


def missing_scripts(texts: Iterable[str]) -> list[str]:
    """The scripts of letters that become ``?``, by the first word of their Unicode names.

    Example:
        >>> missing_scripts(["左 cup", "élève"])
        ['CJK']
    """
    letters = {letter for text in texts for letter in text if _printable(letter) == "?" != letter}
    return sorted({unicodedata.name(letter, "unknown").split()[0] for letter in letters})


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Lines of printable letters, at most ``width`` pixels wide; a longer word, such as a path, is cut."""
    lines = [""]
    for word in printable(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while len(lines[-1]) > 1 and font.getlength(lines[-1]) > width:
            fits = _fitting(lines[-1], font, width)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def _fitting(word: str, font: Font, width: float) -> int:
    """How many letters of a word fit into the width, at least one. Only as many are measured as could."""
    most = next((n for n in (2**k for k in range(4, 32)) if n >= len(word) or font.getlength(word[:n]) > width), 1)
    lengths = range(1, min(most, len(word)) + 1)
    return max(1, bisect_right(lengths, width, key=lambda n: font.getlength(word[:n])))


@functools.cache
def _printable(letter: str) -> str:
    if letter.isspace():
        return " "
    if _has(letter):
        return letter
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    return plain if all(map(_has, plain)) else "?"


def _has(letter: str) -> bool:
    """Whether the font draws a letter, and not the box that stands for those it lacks."""
    if letter.isascii():
        return letter.isprintable()
    ours, lacking = (font(16).getmask(c) for c in (letter, "\uffff"))
    return ours.size != lacking.size or bytes(ours) != bytes(lacking)
