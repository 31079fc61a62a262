"""The command ``bsap``: a table of commands that imports only the one it runs.

``bsap --help`` must not wait for torch (seconds), so this file imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("bsap.cli.demo", "evaluate a tiny model on drawn pictures; needs no data and no network"),
    "test": ("bsap.cli.evaluate", "evaluate scorers on a split: bsap test -c config.yaml"),
    "predict": ("bsap.cli.evaluate", "choose regions in your own picture"),
    "fit": ("bsap.cli.fit", "learn auxiliary prompts and write them as a bank"),
    "score": ("bsap.cli.score", "compute the metrics of a saved run again, without a model"),
    "table": ("bsap.cli.table", "put many runs into one table: md, csv, json or latex"),
    "compare": ("bsap.cli.compare", "compare scorers with intervals and p-values: bsap compare RUN:clip RUN:bsap"),
    "sweep": ("bsap.cli.sweep", "try many scorers, banks and temperatures on a run's stored features"),
    "propose": ("bsap.cli.propose", "find regions in pictures with an object detector"),
    "show": ("bsap.cli.show", "draw what a run chose: single expressions, or a contact sheet"),
    "data": ("bsap.cli.data", "check a folder of annotations and pictures: bsap data check ROOT"),
    "explain": ("bsap.cli.explain", "show what the auxiliary prompts of a bank mean"),
    "list": ("bsap.cli.list", "list the names of banks, views, scorers or models"),
}
"""Command: module with ``run(argv) -> int``, and one line of help."""


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
    except OSError as error:  # a file of the user that no reader expected to fail
        if error.filename is None or os.environ.get("BSAP_TRACEBACK"):
            raise
        complain(f"{error.filename}: {error.strerror}.")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
