"""Text from users, files and models, made safe for where it is shown: a terminal, a table of rich, a CSV file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_JOINERS = "\u200c\u200d"  # unprintable to Python, but part of Persian and Hindi words and of emoji
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: object, *, limit: int | None = None, lines: bool = False) -> str:
    r"""Text without control characters, which could move the cursor or recolour a terminal.

    Args:
        text: anything; its ``str``.
        limit: longer text is cut in the middle to about so many characters.
        lines: keep line breaks. Other white space always becomes a space.

    Example:
        >>> print(visible("red \x1b[31mcup\nleft"))
        red \x1b[31mcup left
        >>> visible("a" * 1000, limit=20)
        'aaaaaaaaaa ... (980 characters left out) ... aaaaaaaaaa'
    """
    text = str(text)
    if limit is not None and len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} ... ({len(text) - 2 * half} characters left out) ... {text[-half:]}"
    return "".join(_visible(letter, lines) for letter in text)


def _visible(letter: str, lines: bool) -> str:
    if letter.isprintable() or letter in _JOINERS or (lines and letter == "\n"):
        return letter
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()


def say(text: object) -> None:
    """Print text as a line of its own."""
    print(visible(text, lines=True))


def cell(text: object) -> Text:
    """Text for a table or a title of rich, which reads neither its markup nor its emoji codes from it."""
    from rich.text import Text

    return Text(visible(text))


def csv_cell(text: object) -> str:
    """Text for a CSV file that a spreadsheet does not take for a formula.

    Example:
        >>> csv_cell("=1+1"), csv_cell("left cup")
        ("'=1+1", 'left cup')
    """
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
