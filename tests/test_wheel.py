"""What a stranger installs, the wheel and the sdist, holds all that a clone has: mapped folders, YAML, model, pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
(VERSION,) = re.findall(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel built from it, of a copy of the repository: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("built")

    def ignored(of: str, names: list[str]) -> set[str]:
        top = {"runs", "build", "dist", "site"} if Path(of) == ROOT else set()
        return {name for name in names if name in top or name.startswith(".") or name == "__pycache__"}

    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    _run([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "source")], folder)
    return folder / "dist"


def test_the_demo_runs_from_the_wheel_installed_elsewhere(dist: Path, tmp_path: Path) -> None:
    target = _install(next(dist.glob("bsap-*.whl")), tmp_path)
    rooms = ("metrics", "datamodules", "configs")
    code = f"import bsap, importlib.util as u; print(*(u.find_spec('bsap.' + room).origin for room in {rooms}))"
    assert _run([sys.executable, "-c", code], tmp_path, target).count(str(target)) == len(rooms)
    output = _run([sys.executable, "-m", "bsap", "demo", "--limit", "5", "--output", "out"], tmp_path, target)
    assert "no benchmark" in output
    assert "coco_categories" in output
    assert len(list((tmp_path / "out").glob("*/results.json"))) == 9
    assert "usage: bsap test" in _run([sys.executable, "-m", "bsap", "test", "--help"], tmp_path, target)
    assert (target / "bsap" / "configs" / "protocols" / "reclip.yaml").is_file()
    listed = _run([sys.executable, "-m", "bsap", "docs"], tmp_path, target)
    (address,) = re.findall(r'^Documentation = "(.+)"$', PYPROJECT, re.MULTILINE)
    assert address in listed
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]:
        assert page.stem in listed
    assert "# Data" in _run([sys.executable, "-m", "bsap", "docs", "data"], tmp_path, target)


def test_the_sdist_installs_and_can_be_tested(dist: Path, tmp_path: Path) -> None:
    sdist = next(dist.glob("bsap-*.tar.gz"))
    target = _install(sdist, tmp_path)
    code = (
        "import bsap, numpy as np; query, bank = np.array([[0.30, 0.28]]), np.array([[0.29, 0.10], [0.28, 0.12]]); "
        "print(bsap.__version__, bsap.balance(query, bank, tau=100.0).choice)"
    )
    assert _run([sys.executable, "-c", code], tmp_path, target) == f"{VERSION} [1]\n"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "docs/assets/build.py", "tests/conftest.py", "zensical.toml"} <= names


def test_what_the_index_would_refuse(dist: Path) -> None:
    pytest.importorskip("twine")
    checked = _run([sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir()))], dist)
    assert checked.count("PASSED") == 2


def test_the_wheel_holds_no_tests_and_one_folder(dist: Path) -> None:
    with ZipFile(next(dist.glob("bsap-*.whl"))) as wheel:
        names = wheel.namelist()
        (metadata,) = (wheel.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
    assert {name.partition("/")[0] for name in names} == {"bsap", f"bsap-{VERSION}.dist-info"}
    assert not [name for name in names if "/tests/" in name or name.endswith(("build.py", ".png"))]
    assert "License-Expression: Apache-2.0" in metadata


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\]", changes, re.MULTILINE)
    assert not released or released[0] == VERSION


def test_workflows_run_what_the_metadata_promises() -> None:
    flows = {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in (ROOT / ".github" / "workflows").iterdir()}
    promised = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT))
    jobs = flows["tests"]["jobs"]
    assert set(jobs["newest"]["strategy"]["matrix"]["python"]) == promised
    (oldest,) = re.findall(r'^requires-python = ">=(3\.\d+)"', PYPROJECT, re.MULTILINE)
    assert jobs["lowest"]["steps"][1]["with"]["python-version"] == oldest
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for flow in flows.values():
        for job in flow["jobs"].values():
            for step in job["steps"]:
                if step.get("run", "").startswith("make "):
                    assert set(step["run"].split()[1:]) <= targets
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir():
        assert {"name", "description", "body"} <= yaml.safe_load(form.read_text("utf-8")).keys()


def _install(file: Path, folder: Path) -> Path:
    _run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder / "site"), str(file)], folder)
    return folder / "site"


def _run(command: list[str], cwd: Path, target: Path | None = None) -> str:
    environment = os.environ | ({} if target is None else {"PYTHONPATH": str(target)})
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
