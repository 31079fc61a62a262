"""The command line: ``bsap.cli:main``, and one file per command."""

from bsap.cli.entry import main

__all__ = ["main"]
