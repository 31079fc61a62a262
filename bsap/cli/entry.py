"""The command ``bsap``: a table of commands that imports only the one it runs.

``bsap --help`` must not wait for torch (seconds), so this file imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from bsap.cli.commands import COMMANDS


def usage() -> str:
    """The text of ``bsap --help``."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: bsap COMMAND [OPTION ...]",
            "",
            "Zero-shot referring expressions with CLIP, corrected by auxiliary prompts.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()),
            "",
            "`bsap COMMAND --help` explains a command; `bsap --version` prints the version.",
        ]
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: the command and its options; by default those of the process.

    Returns:
        Exit status: 0, or 2 for a mistake of the user, which the printed message says how to fix.
    """
    argv = list(sys.argv[1:] if args is None else args)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"bsap {version('bsap')}")
        return 0
    from bsap.cli.arguments import FAILED, complain
    from bsap.cli.help_text import STORED, help_file
    from bsap.errors import BSAPError, unknown

    try:
        if argv[0] not in COMMANDS:
            raise unknown("command", argv[0], COMMANDS)
        if argv[0] in STORED and argv[1:] in (["-h"], ["--help"]):
            print(help_file(argv[0]).read_text(encoding="utf-8"), end="")
            sys.exit(0)  # as the parser does
        command = importlib.import_module(COMMANDS[argv[0]][0])
        return int(command.run(argv) or 0)
    except BSAPError as error:
        if os.environ.get("BSAP_TRACEBACK"):
            raise
        complain(error)
        return FAILED
    except BrokenPipeError:  # whatever reads the output, `head` for example, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file of the user that no reader expected to fail
        if error.filename is None or os.environ.get("BSAP_TRACEBACK"):
            raise
        complain(f"{error.filename}: {error.strerror}.")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
