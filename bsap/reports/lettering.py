"""Text on pictures, in the font that Pillow brings: measured, broken into lines, and of letters that the font has."""

from __future__ import annotations

import functools
import unicodedata

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INSTEAD = str.maketrans({"\u2013": "-", "\u2014": "-", "\u00df": "ss", "\u00e6": "ae", "\u0153": "oe", "\u00f8": "o"})


@functools.cache
def font(size: int) -> Font:
    """Pillow's own font, ``size`` pixels high."""
    return ImageFont.load_default(size=size)


def printable(text: str) -> str:
    """A text in letters that the font has, hardly more than ASCII's: accents are dropped, other letters become ``?``.

    Example:
        >>> printable("l'élève à gauche, 左")
        "l'eleve a gauche, ?"
    """
    return "".join(map(_printable, text.translate(_INSTEAD)))


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
        while font.getlength(lines[-1]) > width and len(lines[-1]) > 1:
            fits = next((n for n in range(len(lines[-1]) - 1, 1, -1) if font.getlength(lines[-1][:n]) <= width), 1)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


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
