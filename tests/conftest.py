"""Fixtures of all tests."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Several tests run at once: more threads than cores only wait for each other. Before the first import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from support.planted import Planted, plant
from support.ports import free_port

settings.register_profile("bsap", deadline=None)  # no test is about time, and a busy machine takes ten times as long
settings.load_profile("bsap")

FIRST = (
    "test_wheel.py",
    "test_fused.py",
    "test_reproduce.py",
    "test_resume.py",
    "test_end_to_end.py",
    "test_propose.py",
    "test_damaged.py",
    "test_hostile_models.py",
)
"""Files of slow tests. They run first, so that at the end no worker waits for the last of them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: some tests wait for other processes, and leave a core idle."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow files first; within and among the others the order stays."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def own_port() -> None:
    """Lightning's processes of each test meet at a port of their own, not at one that was free some seconds ago."""
    os.environ["MASTER_PORT"] = str(free_port())


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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a family of transformers' models to the folder of a tiny one, made once."""
    pytest.importorskip("transformers")
    from support.tiny_models import save

    root = tmp_path_factory.mktemp("tiny")
    return functools.cache(lambda family: save(family, root / family))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium with logs of its console and of its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.common.exceptions import WebDriverException

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start: {error.msg}")
    yield found
    found.quit()
