"""What all parsers of the command line share: one form of errors, and the types of common options."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from bsap.errors import ConfigError, visible

FAILED = 2
"""Exit status of a command that a mistake of the user stopped; the printed message says how to fix it."""

_LONGEST = 4000  # characters of an error message


def complain(message: object) -> None:
    """Print an error message on standard error: bounded, and without control characters."""
    print(f"bsap: {visible(message, limit=_LONGEST, lines=True)}", file=sys.stderr)


def unrecognized(arguments: str, known: Iterable[str]) -> str:
    """The error message for options that no parser knows.

    Example:
        >>> unrecognized("--modle.bank x", ["--model.bank", "--data.root"])
        "Unknown option '--modle.bank'. Did you mean '--model.bank'?"
        >>> unrecognized("stray", ["--model.bank"])
        "Unexpected argument 'stray'. Every option starts with `--`. Write its value right after it."
    """
    name = arguments.split()[0].partition("=")[0]
    if not name.startswith("-"):
        return f"Unexpected argument {name!r}. Every option starts with `--`. Write its value right after it."
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.8)
    return f"Unknown option {name!r}." + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one message and a hint at the help, without the usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit."""
        if message.startswith("unrecognized arguments: "):
            message = unrecognized(message.partition(": ")[2], self._option_string_actions)
        complain(message)
        self.exit(FAILED, f"Run `{self.prog} --help` for the list of options.\n")


def path(text: str) -> Path:
    """The type of an option that names a file or folder: a leading ``~`` is the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def path_text(text: str) -> str:
    """As :func:`path`, for options that stay text."""
    return str(path(text))


def write_or_print(content: str | bytes, file: Path | None) -> None:
    """Write the output of a command to a file, or print it.

    Raises:
        ConfigError: if the file cannot be written.
    """
    if file is None:
        print(content, end="")
        return
    try:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigError(f"Cannot write {file}: {error}. Choose another `--output`.") from error
    print(visible(f"Written to {file}"), file=sys.stderr)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least ``least``."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, but got {text}")
        return value

    number.__name__ = "whole number"  # argparse: "invalid whole number value: 'x'"
    return number
