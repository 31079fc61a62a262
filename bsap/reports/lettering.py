"""Text on pictures: measured, broken into lines, of letters that the font has, and laid out beside pictures."""

from __future__ import annotations

import functools
import importlib.util
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]
Mark = tuple[str, Colour]

PAPER: Colour = (255, 255, 255)
INK: Colour = (20, 20, 20)
FAINT: Colour = (100, 100, 100)


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


class Canvas:
    """Paper for pictures, and for texts and marks between ``left`` and ``right``; each returns where the next one goes.

    Letters are ``large`` or ``small`` pixels high; small ones may be ``faint``.
    """

    def __init__(self, left: int, right: int, *, large: int = 16, small: int = 13, faint: Colour = FAINT) -> None:
        self.left, self.right = left, right
        self._letters = {False: (large, INK), True: (small, faint)}
        self._pasted: list[tuple[Image.Image, int, int]] = []
        self._texts: list[tuple[str, int, int, bool]] = []
        self._squares: list[tuple[int, int, int, Colour]] = []

    def _height(self, small: bool) -> int:
        return math.ceil(1.375 * self._letters[small][0])

    def paste(self, image: Image.Image, left: int, top: int) -> int:
        """A picture as it is."""
        self._pasted.append((image, left, top))
        return top + image.height

    def text(
        self, text: str, top: int, *, left: int | None = None, right: int | None = None, small: bool = False
    ) -> int:
        """As many lines as a text needs."""
        start = self.left if left is None else left
        for part in wrapped(text, font(self._letters[small][0]), (right or self.right) - start):
            self._texts.append((part, start, top, small))
            top += self._height(small)
        return top

    def marks(self, marks: Sequence[Mark], top: int, *, small: bool = False) -> int:
        """Coloured squares with their texts, as many to a line as fit."""
        left, height, letters = self.left, self._height(small), font(self._letters[small][0])
        side = height - 7
        for text, colour in ((printable(text), colour) for text, colour in marks):
            width = side + 6 + math.ceil(letters.getlength(text)) + 14
            if left > self.left and left + width > self.right:
                left, top = self.left, top + height
            self._squares.append((left, top + 3, side, colour))
            self._texts.append((text, left + side + 6, top, small))
            left += width
        return top + height if marks else top

    def finish(self, width: int, height: int) -> Image.Image:
        """A new RGB picture with all that was put on it."""
        sheet = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(sheet)
        for image, left, top in self._pasted:
            sheet.paste(image, (left, top))
        for left, top, side, colour in self._squares:
            draw.rectangle((left, top, left + side - 1, top + side - 1), fill=colour)
        for text, left, top, small in self._texts:
            size, colour = self._letters[small]
            draw.text((left, top), text, fill=colour, font=font(size))
        return sheet
