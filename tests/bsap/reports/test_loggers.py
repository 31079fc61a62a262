"""What a run hands to loggers: any logger gets settings and exact metrics, and tables and pictures if it can."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from PIL import Image

from bsap import BSAPModule, ProposalConfig, RefCOCODataModule, RunConfig, Templates
from bsap.cli import main
from bsap.models.config import EncoderConfig
from support.planted import Planted


class Recorder(Logger):
    """A logger with the generic methods that W&B's and MLflow's have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {"metrics": {}}

    name = version = "recorder"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.found["metrics"] |= metrics

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.found["settings"] = params

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.found[key] = (columns, data)

    def log_image(self, key: str, images: list[Any]) -> None:
        self.found[key] = images


def test_a_logger_gets_all_that_it_can_take(planted: Planted, tmp_path: Path) -> None:
    logger = Recorder()
    model = BSAPModule(
        tasks=["rec", "ris"],
        encoders=[EncoderConfig(f"local-dir:{planted.model}")],
        views=["crop"],
        templates=Templates("{}", "{}"),
        bank=str(planted.bank),
        scorers=["clip", "bsap"],
        store=None,
        run=RunConfig(root=str(tmp_path), name="run"),
    )
    data = RefCOCODataModule(
        str(planted.root), ProposalConfig("detections", path=str(planted.proposals)), num_workers=0
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.test(model, data, verbose=False)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for task, scorers in results["metrics"].items():
        for scorer, row in scorers.items():
            for name, value in row.items():
                assert logger.found["metrics"][f"{task}/{scorer}/{name}"] == value, "to the last bit"
    assert logger.found["settings"] == results["settings"]
    columns, rows = logger.found["results"]
    assert [row[0] for row in rows] == ["clip", "bsap"]
    assert rows[1][columns.index("rec/acc@0.5")] == results["metrics"]["rec"]["bsap"]["acc@0.5"]
    (sheet,) = logger.found["choices"]
    assert isinstance(sheet, Image.Image)


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger"])
def test_lightning_s_own_loggers(planted: Planted, tmp_path: Path, kind: str) -> None:
    if kind == "TensorBoardLogger":
        pytest.importorskip("tensorboard")
    config = planted.config(
        run={"root": str(tmp_path), "name": "run"},
        trainer={"logger": {"class_path": kind, "init_args": {"save_dir": str(tmp_path / "logs")}}},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (hyperparameters,) = (tmp_path / "logs").rglob("hparams.yaml")
    assert "scorers" in hyperparameters.read_text()
    if kind == "CSVLogger":
        (file,) = (tmp_path / "logs").rglob("metrics.csv")
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        value = next(row["rec/bsap/acc@0.5"] for row in rows if row.get("rec/bsap/acc@0.5"))
        assert float(value) == results["metrics"]["rec"]["bsap"]["acc@0.5"]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (file,) = (tmp_path / "logs").rglob("events.out*")
        events = EventAccumulator(str(file.parent))
        events.Reload()
        assert events.Scalars("rec/bsap/acc@0.5")[-1].value == results["metrics"]["rec"]["bsap"]["acc@0.5"]


def test_weights_and_biases_offline(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, exact metrics, the table and the sheet reach W&B; nothing is sent."""
    wandb = pytest.importorskip("wandb", reason="needs wandb, which is large and in no extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = planted.config(
        run={"root": str(tmp_path), "name": "run"},
        trainer={"logger": {"class_path": "WandbLogger", "init_args": {"save_dir": str(tmp_path), "offline": True}}},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert wandb.run.summary["rec/bsap/acc@0.5"] == results["metrics"]["rec"]["bsap"]["acc@0.5"]
    assert wandb.run.config["model"]["scorers"] == results["settings"]["model"]["scorers"]
    wandb.finish()
    (table,) = (json.loads(file.read_text()) for file in tmp_path.rglob("results_*.table.json"))
    column = table["columns"].index("ris/oIoU")
    found = {row[0]: row[column] for row in table["data"]}
    assert found == {scorer: row["oIoU"] for scorer, row in results["metrics"]["ris"].items()}
    (sheet,) = tmp_path.rglob("choices_*.png")
    with Image.open(sheet) as image:
        assert image.width > 480
