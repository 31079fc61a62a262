from __future__ import annotations

from pathlib import Path

import pytest

from bsap.demo.dataset import make_demo_root

SIZES = {"train": 3, "val": 2, "test": 6}


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_root(tmp_path_factory.mktemp("cache"), seed=5, sizes=SIZES)
