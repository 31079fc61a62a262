"""LightningCLI as the commands of the package use it: its help, its errors and its defaults."""

from __future__ import annotations

import argparse
import copy
import difflib
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, DefaultHelpFormatter, set_loader  # type: ignore[attr-defined]
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from bsap.cli.arguments import FAILED, complain, unrecognized
from bsap.cli.plain_lists import LISTS, plain_lists
from bsap.cli.progress import LineProgress
from bsap.datamodules.files import parse_yaml, read_bytes
from bsap.errors import ConfigError, DataError, check_number, unknown
from bsap.runs.settings import RunConfig

HELP = {
    "help": "show this help and exit",
    "print_config": "print all settings as YAML and exit. Save them, change them and read them with -c; "
    "--print_config=skip_default prints only those that differ from the defaults",
    "seed_everything": "seed of all random numbers",
    "trainer.accelerator": "where the model runs: cpu, gpu, or auto for a GPU if there is one",
    "trainer.devices": "number of devices, a list of device numbers such as [0,2], or auto for all",
    "trainer.num_nodes": "number of machines that share the work",
    "trainer.precision": "precision of the encoders: 32-true, bf16-mixed or 16-mixed; everything else is float32. "
    "By default 32-true",
    "trainer.max_epochs": "number of epochs after which training stops",
}
"""Help for the options of the libraries."""

PREFIX = "bsap:"
"""``-c bsap:protocols/reclip.yaml`` names a file that comes with the package."""


def shipped(argv: Sequence[str]) -> list[str]:
    """Arguments with ``bsap:FILE`` replaced by the path of a file that comes with the package, and ``~`` expanded.

    Raises:
        ConfigError: if the package has no such file.
    """
    root = Path(str(files("bsap.configs")))
    known = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))
    options, replaced = ("-c", "--config"), []
    for item in argv:
        head, sign, tail = item.rpartition("=")
        if tail.startswith(PREFIX) and (not sign or head in options):
            name = tail.removeprefix(PREFIX)
            if name not in known:
                raise unknown("configuration of the package", name, known)
            tail = str(root / name)
        elif tail.startswith("~") and head in options:  # the shell expands a `~` only after a space
            tail = str(Path(tail).expanduser())
        replaced.append(head + sign + tail)
        named = head in options or (not sign and replaced[-2:-1] and replaced[-2] in options)
        if named and (file := Path(tail)).exists():
            try:  # the parser would wait without end for a pipe, and for letters that it cannot read say little
                read_bytes(file, what="configuration", fix="").decode()
            except UnicodeDecodeError as error:
                raise ConfigError(f"{file} is not a text in UTF-8: {error}. Save it as UTF-8.") from None
    return replaced


def load_yaml(text: str) -> Any:
    """YAML of a file or an argument, in which only decimal numbers are numbers: the id 00011 stays what it is.

    As in jsonargparse's own loader, ``{name}`` and ``name:`` alone are texts.
    """
    value = parse_yaml(text, "configuration")
    bare = isinstance(value, dict) and value and all(item is None for item in value.values())
    return text if bare and text.strip()[-1] in ":}" else value


def progress() -> Callback:
    """A bar on a terminal, occasional lines in a log file."""
    return RichProgressBar() if sys.stderr.isatty() else LineProgress()


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "Sequence": "a list",
    "list": "a list",
    "dict": "settings",
    "NoneType": "null",
}
"""Types of Python in the words of YAML."""


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
        if names in LISTS:
            return f"{names} ITEM [ITEM ...]"
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"


class CommandParser(LightningArgumentParser):
    """A parser whose help starts with the command's own settings and names few of the Trainer's."""

    trainer: Sequence[str] = ()
    """Arguments of the Trainer that the help names."""

    hidden: tuple[str, ...] = ()
    """Prefixes of the settings that the help leaves out."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The text of ``--help``."""
        groups = self._action_groups
        self._action_groups = self._sections()
        try:
            return super().format_help(*args, **kwargs)
        finally:
            self._action_groups = groups

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and exit."""
        if not self.exit_on_error:  # a parser of a part, whose error the whole one reports
            super().error(message, ex)
        complain(self._readable(message))
        self.exit(FAILED, f"Run `{self.prog} --help` for the list of settings.\n")

    def _readable(self, message: str) -> str:
        """A message of argparse or jsonargparse in the words of the help."""
        keys = [action.dest for action in self._actions]
        if message.startswith("unrecognized arguments: "):
            return unrecognized(message.partition(": ")[2], [f"--{key}" for key in keys])
        group = re.search(r"Group '(.+?)' does not accept option '(.+?)'", message)
        option = re.search(r"Option '(.+?)' is not accepted", message)
        if group or option:
            key = ".".join(group.groups()) if group else option[1] if option else ""
            if part := re.match(r'Parser key "(?:model\.(?=run"))?(.+?)"', message):  # `model.run` is the section `run`
                key = f"{part[1]}.{key}"
            near = difflib.get_close_matches(key, keys, n=2, cutoff=0.8)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            return f"Unknown setting {key!r} in a configuration file.{hint}"
        message = re.sub(r'^Parser key "config":\s*', "", message)
        message = re.sub(r'^Parser key "(.+?)":\s*', r"The setting `\1` is not valid: ", message)
        message = re.sub(r"a typing\.Literal\[(.+?)\]", r"one of \1", message)
        message = re.sub(r"an? <class '(?:[\w.]+\.)?(\w+)'>", lambda found: KINDS.get(found[1], found[1]), message)
        union = re.search(
            r"(?:- )?Does not validate against.*?Errors:(.*)Given value type:.*?Given value: (.*)", message, re.S
        )
        if union:
            kinds = dict.fromkeys(re.findall(r"Expected (?!a path but|a dot import)(.*)", union[1]))
            message = f"{message[: union.start()].rstrip()} Expected {' or '.join(kinds)}, but got {union[2]}."
        message = re.sub(r"\. Got value: (.*)$", r", but got \1.", message)
        return message[:1].upper() + message[1:]

    def _sections(self) -> list[Any]:
        """One group for each key of the configuration, in the order of a reader's questions."""
        sections: dict[str, list[argparse.Action]] = {
            "options": [], "data": [], "data.proposals": [], "model": []
        }  # fmt: skip
        for action in self._actions:
            key, _, name = action.dest.rpartition(".")
            # Left out: a file for one key alone, help on a class, and what follows from other keys.
            listed = action.help != "Path to a configuration file." and action.dest != "model.run"
            listed = listed and not action.dest.startswith(self.hidden)
            if listed and not (key and name == "help") and (key != "trainer" or name in self.trainer):
                sections.setdefault(key or "options", []).append(action)
        for last in ("run", "trainer"):
            sections[last] = sections.pop(last, [])
        found = []
        for title, actions in sections.items():
            if not actions:
                continue
            group = copy.copy(self._action_groups[0])
            group.title, group.description, group._group_actions = title, None, actions
            found.append(group)
        return found


class CommandLine(LightningCLI):
    """Lightning's command line with the key ``run``, for modules that write a run folder of their own.

    The help shows the description, the usage (what the command needs at least), and of the Trainer's arguments those
    that ``trainer`` names.
    """

    hidden: tuple[str, ...] = ()
    """Prefixes of the settings that the help leaves out."""

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
        self._trainer_options = trainer
        super().__init__(
            module,
            datamodule,
            args=plain_lists(shipped(argv[1:])),
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
                "epilog": "Set any other argument of Lightning's Trainer with --trainer.NAME.",
                "formatter_class": CommandFormatter,
                "allow_abbrev": False,
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser before anything is added."""
        set_loader("yaml", load_yaml, exceptions=(DataError,))
        parser = CommandParser(**kwargs)
        parser.trainer, parser.hidden = self._trainer_options, self.hidden
        parser.add_argument(
            "-c",
            "--config",
            metavar="FILE",
            action=ActionConfigFile,
            help="read settings from a YAML file. Repeat it to combine files: later files and options win. bsap:FILE "
            "names a file that comes with the package",
        )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the settings, and check the one that Lightning passes on to numpy unchecked."""
        super().parse_arguments(parser, args)
        if not isinstance(seed := self.config.get("seed_everything"), (bool, type(None))):
            check_number("seed_everything", seed, most=2**32 - 1, whole=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings that belong to neither data nor model."""
        parser.add_class_arguments(RunConfig, "run")
        parser.link_arguments("run", "model.run", compute_fn=vars)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer of the settings.

        Raises:
            ConfigError: for settings that the Trainer refuses, such as devices that do not exist, and for strategies
                that start processes by copying this one: their results never reach it.
        """
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except KeyError as error:  # of a cluster's scheduler
            raise ConfigError(f"The environment variable {error} is not set, but the Trainer needs it.") from error
        except (TypeError, ValueError, RuntimeError, AttributeError, ImportError) as error:
            raise ConfigError(f"Lightning's Trainer refuses its settings: {error}") from error
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ConfigError(
                "This strategy starts processes by `spawn` or `fork`, whose results never come back. "
                "Use `--trainer.strategy ddp`, or one device, and run `bsap` from a terminal, not from a notebook."
            )
        return trainer
