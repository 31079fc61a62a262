"""The package's own error types: whatever a user can mend is one of these, and its message says how."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BSAPError(Exception):
    """Something a user can mend; the message names the file, the record and the mend.

    The command line prints the message without a traceback and exits with code 2.
    """


class DataError(BSAPError):
    """Annotations, pictures, proposals or predictions that cannot be read as what they claim to be."""


class ConfigError(BSAPError):
    """A setting that is unknown, contradictory or unsafe."""


class ModelError(BSAPError):
    """A model, its weights or its tokenizer that is missing or not what the settings say."""


def unknown(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """An error for a name that is not in a list of names, with the nearest ones first.

    Example:
        >>> print(unknown("scorer", "bsapp", ["clip", "bsap", "bsap_h"]))
        Unknown scorer 'bsapp'. Did you mean 'bsap' or 'bsap_h'? Known: bsap, bsap_h, clip.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=2)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ConfigError(f"Unknown {what} {str(name)!r}.{hint} Known: {', '.join(names)}.")
