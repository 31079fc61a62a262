"""Text from users, files and models, made safe for where it is shown: a terminal, a table of rich, a CSV file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bsap.errors import visible

if TYPE_CHECKING:
    from rich.text import Text

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


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
