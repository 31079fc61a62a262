"""The help of the commands that LightningCLI parses, stored as text: building such a parser takes seconds.

``make help-text`` writes the files again after a change of an option; a test compares them with the parsers.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from pathlib import Path
from unittest import mock

from bsap.cli.commands import COMMANDS

STORED = ("test", "predict", "fit")
"""The commands whose help is stored."""

WIDTH = 80
"""Columns of the stored text."""


def help_file(command: str) -> Path:
    """Where the help of a command is stored."""
    return Path(__file__).parent / "help" / f"{command}.txt"


def parser_help(command: str) -> str:
    """The help that the parser of a command prints."""
    text = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH)}),
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(COMMANDS[command][0]).run([command, "--help"])
    return text.getvalue()


if __name__ == "__main__":
    for name in STORED:
        help_file(name).write_text(parser_help(name), encoding="utf-8")
