"""LightningCLI as the package's commands use it, with help that starts with what is the command's own."""

from __future__ import annotations

import argparse
import copy
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, DefaultHelpFormatter  # type: ignore[attr-defined]
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from bsap.cli.progress import LineProgress
from bsap.errors import unknown
from bsap.runs.settings import RunConfig

HELP = {
    "print_config": "print all settings, to be saved, changed and given back by -c; =skip_default prints fewer",
    "seed_everything": "seed of everything that is drawn by chance",
    "trainer.accelerator": "cpu, gpu or auto",
    "trainer.devices": "how many; which, as in [0,2]; or auto",
    "trainer.num_nodes": "machines that share the work",
    "trainer.precision": "32-true, bf16-mixed or 16-mixed: of the encoders, all else is float32; null is 32-true",
    "trainer.max_epochs": "training stops after so many",
}
"""What the libraries explain at length or in other words."""

PREFIX = "bsap:"
"""``-c bsap:protocols/reclip.yaml`` names a file shipped with the package."""


def shipped(argv: Sequence[str]) -> list[str]:
    """Arguments with ``bsap:FILE`` replaced by the path of the file shipped with the package.

    Raises:
        ConfigError: if no such file is shipped.
    """
    root = Path(str(files("bsap.configs")))
    known = [path.relative_to(root).as_posix() for path in root.rglob("*.yaml")]
    replaced = []
    for item in argv:
        head, sign, tail = item.rpartition("=")
        if tail.startswith(PREFIX) and (not sign or head in ("-c", "--config")):
            name = tail.removeprefix(PREFIX)
            if name not in known:
                raise unknown("shipped configuration", name, known)
            tail = str(root / name)
        replaced.append(head + sign + tail)
    return replaced


def progress() -> Callback:
    """A bar on a terminal, a line now and then in a log file."""
    return RichProgressBar() if sys.stderr.isatty() else LineProgress()


class CommandFormatter(DefaultHelpFormatter):
    """Help without the types of Python and the markup of docstrings."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = HELP.get(action.dest) or action.help or ""
        text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text).replace("``", "`").rstrip(".")
        if action.required:
            return f"{text} (required)"
        default = action.default
        if default in (argparse.SUPPRESS, None, [], "") or not action.option_strings:
            return text
        if isinstance(default, bool):
            default = str(default).lower()  # as in YAML
        return f"{text} (default: {', '.join(default) if isinstance(default, (list, tuple)) else default})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """The same text under every version of Python, without the ``+`` forms that append to a list."""
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        if not names or action.nargs == 0:
            return names or super()._format_action_invocation(action)
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"


class CommandParser(LightningArgumentParser):
    """A parser whose help starts with the command's own settings and names few of the Trainer's."""

    trainer: Sequence[str] = ()
    """Arguments of the Trainer that the help names."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The text of ``--help``."""
        groups = self._action_groups
        self._action_groups = self._sections()
        try:
            return super().format_help(*args, **kwargs)
        finally:
            self._action_groups = groups

    def _sections(self) -> list[Any]:
        """One group for each key of the configuration, in the order of a reader's questions."""
        sections: dict[str, list[argparse.Action]] = {
            "options": [], "data": [], "data.proposals": [], "model": []
        }  # fmt: skip
        for action in self._actions:
            key, _, name = action.dest.rpartition(".")
            # Not told: a file for one key alone, help on a class, and what follows from other keys.
            told = action.help != "Path to a configuration file." and action.dest != "model.run"
            if told and not (key and name == "help") and (key != "trainer" or name in self.trainer):
                sections.setdefault(key or "options", []).append(action)
        for last in ("run", "trainer"):
            sections[last] = sections.pop(last)
        found = []
        for title, actions in sections.items():
            group = copy.copy(self._action_groups[0])
            group.title, group.description, group._group_actions = title, None, actions
            found.append(group)
        return found


class CommandLine(LightningCLI):
    """Lightning's command line with the key ``run``, for modules that write a run folder of their own.

    Args:
        module: the class of the LightningModule.
        datamodule: the class of the LightningDataModule.
        argv: command, flags and files.
        description: what the command does, for its help.
        usage: what it needs at least, for its help.
        trainer: arguments of the Trainer that the help names.
        trainer_defaults: other defaults of the Trainer.
    """

    def __init__(
        self,
        module: type,
        datamodule: type,
        argv: Sequence[str],
        *,
        description: str,
        usage: str,
        trainer: Sequence[str],
        trainer_defaults: dict[str, Any],
    ) -> None:
        self._told = trainer
        super().__init__(
            module,
            datamodule,
            args=shipped(argv[1:]),
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={
                "logger": False,
                "enable_model_summary": False,
                "callbacks": [progress()],
                "enable_progress_bar": sys.stderr.isatty(),
                **trainer_defaults,
            },
            parser_kwargs={
                "prog": f"bsap {argv[0]}",
                "usage": f"%(prog)s {usage} [--KEY VALUE ...]",
                "description": description,
                "epilog": "Every other argument of Lightning's Trainer is set by --trainer.NAME.",
                "formatter_class": CommandFormatter,
                "allow_abbrev": False,
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser before anything is added."""
        parser = CommandParser(**kwargs)
        parser.trainer = self._told
        parser.add_argument(
            "-c",
            "--config",
            metavar="FILE",
            action=ActionConfigFile,
            help="settings in YAML; may be given several times, later files and flags win; bsap:FILE is a shipped one",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings that belong to neither data nor model."""
        parser.add_class_arguments(RunConfig, "run")
        parser.link_arguments("run", "model.run", compute_fn=vars)
