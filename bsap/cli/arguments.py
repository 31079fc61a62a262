"""What all parsers of the command line share: the way to declare options, and one form of errors."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from bsap.errors import ConfigError, visible

FAILED = 2
"""Exit status of a command that a mistake of the user stopped; the printed message says how to fix it."""

_LONGEST = 4000  # characters of an error message
_PATHS = ("RUN", "FILE", "FOLDER")


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


_FORM = re.compile(r"(--\S+)? ?(\[?)([A-Z/]*)(\.*)\]?")
_NARGS = {("", ""): None, ("[", ""): "?", ("", "..."): "+", ("[", "..."): "*"}


class Arguments(argparse.ArgumentParser):
    """The parser of a command, whose errors are one message and a hint at the help, without the usage."""

    def __init__(self, prog: str, description: str, **more: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **more)
        self._section: argparse._ActionsContainer = self

    def section(self, title: str) -> None:
        """Let the help list what is added next under a title of its own."""
        self._section = self.add_argument_group(title)

    def add(self, form: str, text: str, default: Any = None, *, least: int = 1, **more: Any) -> None:
        """Declare an argument or an option.

        Args:
            form: as the help writes it: ``RUN``, ``[ID...]`` for any number, ``RUN...`` for at least one, ``--rows N``,
                or ``--report`` for a switch. N is a whole number; RUN, FILE and FOLDER are paths; others are texts.
            text: what it is, for the help, which adds the default where the text does not speak of it.
            default: its value where it is not given.
            least: the least N.
            more: as for ``add_argument``.
        """
        match = _FORM.fullmatch(form)
        assert match is not None
        option, bracket, name, dots = match.groups()
        if default not in (None, []) and "default" not in text:
            text += f" (default: {', '.join(default) if isinstance(default, list) else default})"
        settings: dict[str, Any] = {"action": "store_true"}
        if name or more:
            kind = _whole_number(least) if name == "N" else path if name in _PATHS else str
            settings = {"default": default, "metavar": name or None, "type": kind, "nargs": _NARGS[bracket, dots]}
        self._section.add_argument(option or name.lower(), help=text.replace("%", "%%"), **settings | more)

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


@contextmanager
def writing(place: Path, option: str = "--output") -> Iterator[None]:
    """Let an output that cannot be written be a ConfigError that names the option for it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"Cannot write {place}: {error}. Choose another `{option}`.") from error


def write_or_print(content: str | bytes, file: Path | None) -> None:
    """Write the output of a command to a file, or print it."""
    if file is None:
        print(content, end="")
        return
    with writing(file):
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    print(visible(f"Written to {file}"), file=sys.stderr)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the output of a command as several files into a folder, which is made."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")


def _whole_number(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, but got {text}")
        return value

    number.__name__ = "whole number"  # argparse: "invalid whole number value: 'x'"
    return number
