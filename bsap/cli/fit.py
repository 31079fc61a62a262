"""``bsap fit``: learn auxiliary prompts, write them as a bank, and print the command that tests it."""

from __future__ import annotations

import inspect
import shlex
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from bsap.cli.parser import CommandLine
from bsap.cli.progress import quiet
from bsap.datamodules.files import what_is
from bsap.errors import BSAPError, ConfigError, ModelError, check_number
from bsap.learning import LearningDataModule, PromptLearner
from bsap.learning.run_folder import TEST_SPLIT
from bsap.models.checkpoint import read_plain
from bsap.reports.text import say
from bsap.runs.processes import distributed_errors

HELP = (
    "Learn auxiliary prompts for a frozen model from stored region features, or from text alone (--data.text_only, "
    "--data.text_file), and write them as a bank."
)


class FitLine(CommandLine):
    """The command line with the key ``ckpt_path``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings that belong to neither data nor model."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="continue from this checkpoint; `last` is the one in the run's folder; by default from the start",
        )


def run(argv: list[str]) -> int:
    """Run ``bsap fit ...``."""
    quiet()
    # The run folder is checked by LearningFolder: it is continued or emptied, never mixed.
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    cli = FitLine(
        PromptLearner,
        LearningDataModule,
        argv,
        description=HELP,
        usage="-c bsap:learned_prompts.yaml --data.root FOLDER --data.proposals.source SOURCE",
        trainer=("accelerator", "devices", "num_nodes", "precision", "max_epochs"),
        trainer_defaults={"max_epochs": 40, "num_sanity_val_steps": 0},
    )
    given = cli.config["ckpt_path"]
    options: dict[str, Any] = {"ckpt_path": checkpoint(given, cli.model)}
    if "weights_only" in inspect.signature(cli.trainer.fit).parameters:  # since Lightning 2.6
        options["weights_only"] = True
    with distributed_errors():
        try:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, **options)
        except BSAPError:
            raise
        except Exception as error:
            if given is None or cli.model.training_started:
                raise
            # Lightning and torch raise many types for a checkpoint with other content than they expect.
            raise ConfigError(
                f"`--ckpt_path {given}`: the checkpoint does not fit this run ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}). Name another one, or start without `--ckpt_path`."
            ) from error
    if cli.trainer.is_global_zero:
        report(cli.model, cli.datamodule, epochs=cli.trainer.current_epoch)
    return 0


def checkpoint(given: str | None, model: PromptLearner) -> str | None:
    """The checkpoint to continue from; ``last`` is that of the run's folder."""
    if given is None:
        return None
    path = Path(given).expanduser()
    if given == "last":
        if model.run is None or model.run.name is None:
            raise ConfigError("`--ckpt_path last` needs `--run.name`. Set it, or give the path of a checkpoint.")
        path = model.run.folder(None) / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise ConfigError(f"`--ckpt_path {given}`: {path} {what_is(path)}. Start without `--ckpt_path`.")
    try:
        content = read_plain(path)  # before Lightning reads it, which unpickles everything in some versions
        for name in ("epoch", "global_step"):
            check_number(name, content[name], whole=True, most=2**40)
    except (ModelError, ConfigError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`--ckpt_path {given}`: {path} is no checkpoint that `bsap fit` wrote. Name another one."
        ) from error
    return str(path)


def report(model: PromptLearner, data: LearningDataModule, *, epochs: int) -> None:
    """Print what was learned and the command that tests it."""
    folder = model.folder
    if folder is None or folder.bank is None or model.examples is None:
        return
    if (score := folder.best.best_model_score) is not None:
        what = "stand-in" if data.text_only else "region"
        say(
            f"Best validation accuracy {100 * float(score):.2f} % in {epochs} epochs; {model.examples.skipped} "
            f"expressions were left out because no {what} is right for them."
        )
    say(f"Written to {folder.bank}/ (bank.safetensors, bank.json).")
    command = ["bsap", "test", "-c", str(folder.folder / "test.yaml")]
    if not data.uses_regions:
        command += [*(() if data.hparams["root"] else ("--data.root", "DATA")), "--data.proposals.source", "SOURCE"]
    if data.split in (data.train_split, data.val_split):
        command += ["--data.split", TEST_SPLIT]
    say(f"Test it, on a split that was not used in training, with\n  {shlex.join(command)}")
