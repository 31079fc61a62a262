"""The package's error types. A mistake that a user can fix raises one of them, and the message says how to fix it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

_LONGEST = 4000
_LONGEST_NAME = 200
_GREATEST = 1e300


def printable(text: str, longest: int = _LONGEST) -> str:
    r"""A text that is safe to print, for names and sentences that come from files.

    Control characters, which can move a terminal's cursor or hide what stands before them, are written as escapes; line
    breaks and tabs stay. From a text that is too long the middle is left out.

    Args:
        text: any text.
        longest: the greatest number of characters before something is left out.

    Example:
        >>> printable("a\x1b[2Jb"), printable("x" * 50, longest=20)
        ('a\\x1b[2Jb', 'xxxxxxxxxx ... xxxxxxxxxx')
    """
    half = longest // 2
    if len(text) > longest:
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class BSAPError(Exception):
    """A mistake that a user can fix; the message names the file and the record, and says how.

    The command line prints the message without a traceback and exits with code 2. The message is made safe to print
    (:func:`printable`).
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


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
