"""The package's error types. A mistake that a user can fix raises one of them, and the message says how to fix it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

_LONGEST = 4000
_JOINERS = "\u200c\u200d"  # unprintable to Python, but part of Persian and Hindi words and of emoji
_LONGEST_NAME = 200
_GREATEST = 1e300


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


class BSAPError(Exception):
    """A mistake that a user can fix; the message names the file and the record, and says how.

    The command line prints the message without a traceback and exits with code 2. The message is made safe to print
    (:func:`visible`).
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(message, limit=_LONGEST, lines=True))


class DataError(BSAPError):
    """Annotations, pictures, proposals or predictions that cannot be read as what they claim to be."""


class ConfigError(BSAPError):
    """A setting that is unknown, contradictory or unsafe."""


class ModelError(BSAPError):
    """A model, its weights or its tokenizer that is missing or not what the settings say."""


def check_number(
    name: str,
    value: object,
    *,
    least: float = 0,
    most: float = math.inf,
    above: bool = False,
    whole: bool = False,
) -> None:
    """Raise a ConfigError unless a setting is a finite number in its range.

    Args:
        name: the setting, as the command line calls it.
        value: what was given.
        least: the smallest value.
        most: the greatest value.
        above: whether the smallest value itself is too small.
        whole: whether the number must be an integer.

    Example:
        >>> check_number("model.lr", -1.0, above=True)
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: `model.lr` must be a number greater than 0, but got -1.0.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _GREATEST:  # NaN is not
        inside = least <= value <= most and not (above and value == least)
        if inside and (isinstance(value, int) or not whole):
            return
    allowed = f"greater than {least:g}" if above else f"of at least {least:g}"
    allowed += f" and at most {most:g}" if most < math.inf else ""
    raise ConfigError(f"`{name}` must be a {'whole ' if whole else ''}number {allowed}, but got {value!r}.")


def unknown(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """An error for a name that is not in a list of names, with the nearest ones first.

    Example:
        >>> print(unknown("scorer", "bsapp", ["clip", "bsap", "bsap_h"]))
        Unknown scorer 'bsapp'. Did you mean 'bsap' or 'bsap_h'? Known: bsap, bsap_h, clip.
    """
    names, given = sorted(known), str(name)[:_LONGEST_NAME]  # comparing takes the square of the length
    near = difflib.get_close_matches(given, names, n=2)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ConfigError(f"Unknown {what} {given!r}.{hint} Known: {', '.join(names)}.")


def check_names(what: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Refuse the first of some names that is not in a list of names, see :func:`unknown`."""
    names = list(known)
    for name in given:
        if name not in names:
            raise unknown(what, name, names)
