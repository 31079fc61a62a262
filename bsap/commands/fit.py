"""``bsap fit``: learn auxiliary prompts, write them as a bank, and say how to test with it."""

from __future__ import annotations

import json
import shlex
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from bsap.commands.parser import CommandLine
from bsap.errors import ConfigError
from bsap.learning import LearningDataModule, PromptLearner
from bsap.learning.folder import LearningFolder
from bsap.progress import quiet
from bsap.scoring import make_scorer

HELP = (
    "Learn auxiliary prompts for a frozen model from stored region features, or from text alone (--data.text_only, "
    "--data.text_file), and write them as a bank."
)


class FitLine(CommandLine):
    """The command line with the key ``ckpt_path``, too."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings that belong to neither data nor model."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="continue from it; `last`: the run's own"
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
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint(cli.config["ckpt_path"], cli.model))
    if cli.trainer.is_global_zero:
        report(cli.trainer, cli.model, cli.datamodule)
    return 0


def checkpoint(given: str | None, model: PromptLearner) -> str | None:
    """The checkpoint to continue from; ``last`` is that of the run's folder."""
    if given != "last":
        return given
    if model.run is None or model.run.name is None:
        raise ConfigError("`--ckpt_path last` looks into the run's folder: set `--run.name`, or give the file's path.")
    path = Path(model.run.root) / model.run.name / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise ConfigError(f"`--ckpt_path last`: {path} does not exist; start without it.")
    return str(path)


def report(trainer: Trainer, model: PromptLearner, data: LearningDataModule) -> None:
    """Say what was learned and the command that tests it."""
    console = Console()
    folders: list[Any] = [c for c in trainer.callbacks if isinstance(c, LearningFolder)]  # type: ignore[attr-defined]
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if score is not None:
        console.print(
            f"Best validation accuracy {100 * float(score):.2f} % in {trainer.current_epoch} epochs; "
            f"{model.bank_meta()['skipped_expressions']} expressions had no right region and were skipped.",
            highlight=False,
            soft_wrap=True,
        )
    if folders and (bank := folders[0].bank) is not None:
        command = test_command(model, data, bank, precision=str(trainer.precision))
        console.print(f"Written to {bank}/ (bank.safetensors, bank.json). Test it with", soft_wrap=True)
        console.print(f"  {shlex.join(command)}", soft_wrap=True, highlight=False)


def test_command(model: PromptLearner, data: LearningDataModule, bank: Path, *, precision: str) -> list[str]:
    """The `bsap test` that uses a learned bank as it was trained."""
    settings = model.settings
    items: dict[str, Any] = {
        "config": "my.yaml"
    }  # whoever learned from text alone has not said which regions to test on
    if data.sees_regions:
        items = {"data.root": str(data.root), "data.dataset": data.dataset, "data.split_by": data.split_by}
        items |= {"data.split": data.split}
        items |= {f"data.proposals.{name}": data.hparams["proposals"][name] for name in ("source", "path")}
    items["model.encoders"] = [{key: value for key, value in settings["encoders"][0].items() if value}]
    defaults = {"resize": "squash", "aggregate": "before", "strict": False}
    items |= {f"model.{name}": settings[name] for name in ("views", "templates")}
    items |= {f"model.{name}": settings[name] for name, usual in defaults.items() if settings[name] != usual}
    items |= {"trainer.precision": precision} if precision != "32-true" else {}
    items |= {"model.scorers": ["clip", learned_scorer(model)], "model.bank": f"learned:{bank}"}
    words = ["bsap", "test"]
    for name, value in items.items():
        if value is not None:
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def learned_scorer(model: PromptLearner) -> Any:
    """What a configuration says for the scorer with what was learned of its tau and lam."""
    learned = {name: round(value, 6) for name, value in model.bank_meta()["learned"].items()}
    if not learned:
        return model.settings["scorer"]
    scorer = make_scorer(model.settings["scorer"])
    usual = type(scorer)()
    given = {f.name: getattr(scorer, f.name) for f in fields(scorer) if f.init}
    changed = {name: value for name, value in given.items() if value != getattr(usual, name)}
    return {"class_path": type(scorer).__name__, "init_args": changed | learned}
