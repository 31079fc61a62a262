"""``bsap fit``: learn auxiliary prompts, write them as a bank, and print how to test it."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from bsap.cli.parser import CommandLine
from bsap.cli.progress import quiet
from bsap.errors import ConfigError, ModelError
from bsap.learning import LearningDataModule, PromptLearner
from bsap.learning.run_folder import LearningFolder
from bsap.learning.shell import TEST_SPLIT, test_command, unseen_split
from bsap.models.checkpoint import read_plain
from bsap.reports.text import say
from bsap.runs.processes import distributed_errors

HELP = (
    "Learn auxiliary prompts for a frozen model from stored region features, or from text alone (--data.text_only, "
    "--data.text_file), and write them as a bank."
)


class FitLine(CommandLine):
    """The command line with the additional key ``ckpt_path``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings that belong to neither data nor model."""
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
    # The run's folder is looked after here: it is continued or emptied, never mixed.
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
    options: dict[str, Any] = {"ckpt_path": checkpoint(cli.config["ckpt_path"], cli.model)}
    if "weights_only" in inspect.signature(cli.trainer.fit).parameters:  # since Lightning 2.6
        options["weights_only"] = True
    with distributed_errors():
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, **options)
    if cli.trainer.is_global_zero:
        report(cli.trainer, cli.model, cli.datamodule)
    return 0


def checkpoint(given: str | None, model: PromptLearner) -> str | None:
    """The checkpoint to continue from; ``last`` is that of the run's folder."""
    if given is None:
        return None
    path = Path(given).expanduser()
    if given == "last":
        if model.run is None or model.run.name is None:
            raise ConfigError(
                "`--ckpt_path last` looks into the run's folder: set `--run.name`, or give a file's path."
            )
        path = Path(model.run.root) / model.run.name / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise ConfigError(f"`--ckpt_path {given}`: {path} does not exist; start without it.")
    try:
        read_plain(path)  # before Lightning does, which unpickles whatever it is given in some versions
    except ModelError as error:
        raise ConfigError(
            f"`--ckpt_path {given}`: {path} is no checkpoint that `bsap fit` wrote; name another."
        ) from error
    return str(path)


def report(trainer: Trainer, model: PromptLearner, data: LearningDataModule) -> None:
    """Print what was learned and the command that tests it."""
    folders: list[Any] = [c for c in trainer.callbacks if isinstance(c, LearningFolder)]  # type: ignore[attr-defined]
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if score is not None:
        what = "stand-in" if data.text_only else "region"
        say(
            f"Best validation accuracy {100 * float(score):.2f} % in {trainer.current_epoch} epochs; "
            f"{model.bank_meta()['skipped_expressions']} expressions were skipped: no right {what} to learn from.",
        )
    if folders and (bank := folders[0].bank) is not None:
        say(f"Written to {bank}/ (bank.safetensors, bank.json).")
        say(how_to_test(trainer, model, data, bank))


def how_to_test(trainer: Trainer, model: PromptLearner, data: LearningDataModule, bank: Path) -> str:
    """The command that tests a learned bank as it was trained."""
    split = unseen_split(data)
    rest = f", with a split for {TEST_SPLIT} that was not learned from" if split == TEST_SPLIT else ""
    command = test_command(model.settings, data, bank, model.bank_meta(), precision=str(trainer.precision))
    return f"Test it{rest}, with\n  {command}"
