"""``bsap test`` and ``bsap predict``: LightningCLI over the package's module and data modules."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from bsap.cli.parser import CommandLine
from bsap.cli.predict import PredictCommand, predict
from bsap.cli.progress import quiet
from bsap.datamodules import PictureDataModule, RefCOCODataModule
from bsap.errors import ConfigError
from bsap.module import BSAPModule
from bsap.reports.terminal import print_results
from bsap.runs.callback import RunCallback
from bsap.runs.processes import check_cluster, distributed_errors
from bsap.runs.signals import exit_on_signal

HELP = {
    "test": "Evaluate scorers on a split and write a run folder. The same command continues a run that was cut off.",
    "predict": "Choose regions of your own pictures. The settings of `bsap test` work here too.",
}
USAGE = {
    "test": "[-c FILE ...] --data.root FOLDER --data.proposals.source SOURCE",
    "predict": "[-c FILE ...] --data.picture FILE --data.boxes '[[x1,y1,x2,y2],...]' --data.expressions TEXT ...",
}


def run(argv: list[str]) -> int:
    """Run ``bsap test ...`` or ``bsap predict ...``."""
    with exit_on_signal(), distributed_errors():
        try:
            return _run(argv)
        except MisconfigurationException as error:  # devices that are not there, for example
            raise ConfigError(str(error)) from error


def _run(argv: list[str]) -> int:
    quiet()
    command = argv[0]
    make = PredictCommand if command == "predict" else CommandLine
    cli = make(
        BSAPModule,
        PictureDataModule if command == "predict" else RefCOCODataModule,
        argv,
        description=HELP[command],
        usage=USAGE[command],
        trainer=("accelerator", "devices", "num_nodes", "precision"),
        trainer_defaults={"enable_checkpointing": False},
    )
    check_cluster(cli.trainer)
    if command == "predict":
        assert isinstance(cli, PredictCommand)
        return predict(cli)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    if cli.trainer.is_global_zero:
        callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
        folders = [callback.folder for callback in callbacks if isinstance(callback, RunCallback)]
        print_results(cli.model.results, folder=folders[0].path if folders and folders[0] is not None else None)
    return 0
