"""A built wheel holds all that an editable install has: the mapped folders, the YAML, the demo's model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_demo_runs_from_a_wheel_installed_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "source"

    # A copy: building writes beside the sources.
    def ignored(folder: str, names: list[str]) -> set[str]:
        top = {"runs", "build", "tests"} if Path(folder) == ROOT else set()
        return {name for name in names if name in top or name.startswith(".") or name == "__pycache__"}

    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(source)]
    _run(build, tmp_path)
    (wheel,) = (tmp_path / "dist").glob("bsap-*.whl")
    target = tmp_path / "site"
    _run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel)], tmp_path)
    code = "import bsap.metrics, bsap.datamodules, bsap.configs; print(bsap.metrics.__file__)"
    assert str(target) in _run([sys.executable, "-c", code], tmp_path, target)
    output = _run([sys.executable, "-m", "bsap", "demo", "--limit", "5", "--output", "out"], tmp_path, target)
    assert "no benchmark" in output
    assert "coco_categories" in output
    assert len(list((tmp_path / "out").glob("*/results.json"))) == 9
    assert "usage: bsap test" in _run([sys.executable, "-m", "bsap", "test", "--help"], tmp_path, target)
    assert "reclip" in _run(
        [
            sys.executable,
            "-c",
            "from bsap.cli.parser import shipped; print(shipped(['bsap:protocols/reclip.yaml']))",
        ],
        tmp_path,
        target,
    )


def _run(command: list[str], cwd: Path, target: Path | None = None) -> str:
    environment = dict(os.environ, BSAP_CACHE=str(cwd / "cache"))
    if target is not None:
        environment["PYTHONPATH"] = str(target)
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
