"""What can be tested here of other systems: no `fcntl`, `spawn`, names that ignore case, a device without float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import bsap
from bsap.cli import main
from bsap.errors import ConfigError
from bsap.learning.module import PromptLearner
from bsap.runs.parts import FolderLock
from support.planted import Planted

ROOT = Path(__file__).parents[1]


def test_everything_imports_without_fcntl_and_runs_are_refused(tmp_path: Path) -> None:
    program = """
import importlib, pathlib, pkgutil, sys
sys.modules["fcntl"] = None
import bsap
for module in pkgutil.walk_packages(bsap.__path__, "bsap."):
    if not module.name.endswith("__main__") and module.name != "bsap.views.fused":
        importlib.import_module(module.name)
from bsap.runs.parts import FolderLock
try:
    FolderLock(pathlib.Path(sys.argv[1]))
except bsap.BSAPError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "bsap writes runs on Linux and macOS only; on Windows, use the Subsystem for Linux.\n"


def test_a_refused_lock_leaves_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ConfigError, match="Linux and macOS only"):
        FolderLock(tmp_path)
    assert len(closed) == 1


def test_decoders_can_be_spawned(planted: Planted, tmp_path: Path) -> None:
    """macOS starts processes so, and Python 3.14 does much the same on Linux."""
    for method in ("spawn", "none"):
        config = planted.config(
            run={"root": str(tmp_path), "name": method}, data={"num_workers": int(method == "spawn")}
        )
        (tmp_path / f"{method}.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run.py").write_text(
        "import multiprocessing, sys\nfrom bsap.cli import main\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    sys.exit(main(['test', '-c', 'spawn.yaml']))\n"
    )
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert main(["test", "-c", str(tmp_path / "none.yaml")]) == 0
    spawned, alone = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("spawn", "none"))
    assert spawned["metrics"] == alone["metrics"]


def test_no_two_files_differ_in_case_only() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    names = listed.stdout.splitlines()
    assert len({name.casefold() for name in names}) == len(names) > 100


def test_pictures_of_ids_that_differ_in_case_only_do_not_replace_each_other() -> None:
    from bsap.reports.shown_run import file_name

    names = [file_name(id).casefold() for id in ("set/Val/a", "set/Val/A", "set/val/ä", "set/val/Ä")]
    assert len(set(names)) == len(names)


def test_apples_gpu_is_refused_where_metrics_would_fail_on_it() -> None:
    trainer = SimpleNamespace(precision="32-true", strategy=SimpleNamespace(root_device=torch.device("mps")))
    module, learner = bsap.BSAPModule(encoders=["demo"]), PromptLearner(encoders=["demo"])
    for refusing, start in ((module, lambda: module.setup("test")), (learner, learner.configure_model)):
        refusing._trainer = trainer
        with pytest.raises(ConfigError, match=r"--trainer\.accelerator cpu"):
            start()


class Float64(TorchDispatchMode):
    """Counts operations that read float64 on the device; a copy to it casts first."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                self.found.append(str(func))
        return result


def test_a_grounder_computes_in_single_precision_on_its_device() -> None:
    grounder = bsap.Grounder("demo", bank=["a ball"], views=["crop", "blur", "red_circle", "gray"], device="cpu")
    with Float64() as watch:
        grounder(Image.new("RGB", (64, 48), "red"), [[0, 0, 20, 20], [10, 10, 60, 40]], ["a ball"])
    # `placement.grid` rounds coordinates in float64 before it sends them to the device.
    assert set(watch.found) <= {"aten.lift_fresh.default", "aten.detach_.default", "aten.round.default"}
