"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.planted import Planted, plant


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The planted world on disk, see :mod:`support.planted`."""
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real annotations and pictures that ``BSAP_TEST_DATA`` names."""
    folder = os.environ.get("BSAP_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set BSAP_TEST_DATA to its folder")
    return Path(folder)
