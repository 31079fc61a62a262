"""``bsap test`` and ``bsap predict``: LightningCLI over the package's module and data modules."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from bsap.datamodules import PictureDataModule, RefCOCODataModule
from bsap.errors import unknown
from bsap.module import BSAPModule
from bsap.progress import LineProgress, quiet
from bsap.run_folder import RunConfig, RunFolder
from bsap.tables import print_choices, print_results

HELP = {
    "test": "Evaluate scorers on a split and write a run folder. "
    "Needs at least --data.root and --data.proposals.source; later -c files and flags win.",
    "predict": "Choose regions of a picture of your own: --data.picture, --data.boxes and --data.expressions.",
}
PREFIX = "bsap:"
"""``-c bsap:protocols/reclip.yaml`` names a file shipped with the package."""


class BSAPCLI(LightningCLI):
    """Lightning's command line with the key ``run``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings that belong to neither data nor model."""
        parser.add_class_arguments(RunConfig, "run")
        parser.link_arguments("run", "model.run", compute_fn=vars)


def progress() -> Callback:
    """A bar on a terminal, a line now and then in a log file."""
    return RichProgressBar() if sys.stderr.isatty() else LineProgress()


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


def run(argv: list[str]) -> int:
    """Run ``bsap test ...`` or ``bsap predict ...``."""
    quiet()
    command = argv[0]
    cli = BSAPCLI(
        BSAPModule,
        PictureDataModule if command == "predict" else RefCOCODataModule,
        args=shipped(argv[1:]),
        run=False,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults={
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "callbacks": [progress()],
            "enable_progress_bar": sys.stderr.isatty(),
        },
        parser_kwargs={"prog": f"bsap {command}", "description": HELP[command], "allow_abbrev": False},
    )
    if command == "predict":
        batches = cli.trainer.predict(cli.model, datamodule=cli.datamodule)
        print_choices([record for batch in batches or [] for record in batch])
        return 0
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    if cli.trainer.is_global_zero:
        print_results(cli.model.results, folder=run_folder(cli.trainer))
    return 0


def run_folder(trainer: Trainer) -> Path | None:
    """Where a trainer's last test wrote its results."""
    writers = [callback for callback in trainer.callbacks if isinstance(callback, RunFolder)]  # type: ignore[attr-defined]
    return writers[0].folder if writers else None
