"""Runs on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.processes import Outcome, Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """The server of processes."""
    server = Ranks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configuration of a test of the demo's model on 30 drawn scenes with masks; no feature store."""
    from bsap.demo.dataset import make_demo_root

    root = make_demo_root(tmp_path_factory.mktemp("drawn"), sizes={"test": 30})
    return {
        "trainer": {"accelerator": "cpu", "default_root_dir": str(root)},
        "data": {
            "root": str(root),
            "dataset": "demo",
            "split_by": "drawn",
            "split": "test",
            "num_workers": 0,
            "batch_size": 2,
            "proposals": {"source": "masks", "path": "demo/masks.json"},
        },
        "model": {
            "tasks": ["rec", "ris"],
            "encoders": [{"name": "demo"}],
            "views": ["crop"],
            "scorers": ["clip", "bsap", "bsap_h"],
            "store": None,
        },
        "run": {"breakdown": ["category", "words", "distractors"]},
    }


@pytest.fixture
def read_run() -> Any:
    """Reads a run folder."""
    return Outcome.read


@pytest.fixture(scope="session")
def alone(ranks: Ranks, drawn: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The drawn world on one process, uninterrupted: what every other run is compared with."""
    folder = tmp_path_factory.mktemp("alone")
    ranks.start(drawn | {"run": drawn["run"] | {"root": str(folder), "name": "run"}}, folder, world=1).check()
    return Outcome.read(folder / "run")
