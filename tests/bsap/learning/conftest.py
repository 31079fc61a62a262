"""A small drawn world with all three splits, its features in a store, and the demo's model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsap.learning.context import FrozenTower
from bsap.models.encoder import Encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder("demo")


@pytest.fixture(scope="session")
def tower(encoder: Encoder) -> FrozenTower:
    return FrozenTower(encoder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bsap.demo.dataset import make_demo_root

    return make_demo_root(tmp_path_factory.mktemp("world"), sizes={"train": 10, "val": 5, "test": 5})


@pytest.fixture(scope="session")
def data(world: Path) -> dict[str, Any]:
    """The section `data` of a configuration of `bsap fit`."""
    return {
        "root": str(world),
        "dataset": "demo",
        "split_by": "drawn",
        "proposals": {"source": "ground_truth"},
        "batch_size": 4,
    }


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The section `model`; the store fills when features are first asked for from pictures."""
    return {
        "encoders": [{"name": "demo"}],
        "views": ["crop"],
        "features": "pictures",
        "store": str(tmp_path_factory.mktemp("store")),
        "prompts": {"count": 3, "length": 3},
    }


@pytest.fixture
def fit(data: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> Callable[..., int]:
    """Runs `bsap fit` with changes to the sections; the run folder is ``tmp_path / name``."""
    import yaml

    from bsap.cli import main

    def run(*flags: str, name: str = "run", data_: Any = (), model_: Any = (), **trainer: Any) -> int:
        config = {
            "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "default_root_dir": str(tmp_path)}
            | trainer,
            "data": data | dict(data_),
            "model": model | dict(model_),
            "run": {"root": str(tmp_path), "name": name},
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        return main(["fit", "-c", str(file), *flags])

    return run
