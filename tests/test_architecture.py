"""Who may import whom, read off the source."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)

OUTSIDE = {
    "metrics": {"torch", "torchvision", "torchmetrics", "pycocotools", "numpy"},
    "datamodules": {
        "torch", "numpy", "PIL", "lightning", "pycocotools", "yaml", "rich", "huggingface_hub", "pyarrow", "httpx",
    },
    "bsap/scoring": {"torch"},
}  # fmt: skip
"""The packages that a room may import, besides the standard library and the rooms that `docs/architecture.md` lists."""

FOLDERS = {"bsap": "bsap", "datamodules": "bsap.datamodules", "metrics": "bsap.metrics", "configs": "bsap.configs"}
FILES = {
    ".".join(
        [package, *(part for part in path.relative_to(ROOT / folder).with_suffix("").parts if part != "__init__")]
    ): path
    for folder, package in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
}
"""Every module of the package by its dotted name."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file: in functions and for typing, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module != "bsap", f"{path} imports from the list of public names, not from where things are"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & FILES.keys()) or {node.module or ""}
    return {name for name in found if name.split(".")[0] not in STANDARD}


INSIDE = {
    name: {n for n in imports(path) if n in FILES and n != name} for name, path in FILES.items() if name != "bsap"
}
"""Module -> modules of the package that it imports; ``bsap/__init__.py``, a list of names, is left out."""


def room(module: str) -> str:
    """The room of a module: ``bsap.views.crops`` is in ``bsap.views``."""
    return ".".join(module.split(".")[:2])


def rooms() -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    found: dict[str, set[str]] = {room(name): set() for name in INSIDE}
    for name, known in INSIDE.items():
        found[room(name)] |= {room(other) for other in known} - {room(name)}
    return found


@pytest.mark.parametrize("graph", [INSIDE, rooms()], ids=["files", "rooms"])
def test_no_circle_of_imports(graph: dict[str, set[str]]) -> None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("folder", OUTSIDE)
def test_a_room_imports_only_the_packages_that_it_may(folder: str) -> None:
    files = [path for path in FILES.values() if path.is_relative_to(ROOT / folder)]
    assert files
    for path in files:
        for name in imports(path):
            assert name.startswith("bsap") or name.split(".")[0] in OUTSIDE[folder], f"{path} imports {name}"


def test_rooms_import_only_what_the_docs_allow() -> None:
    """And the docs allow what the design does: metrics know no room, data no model, scores neither files nor models."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text, flags=re.MULTILINE)
    allowed = {f"bsap.{name}": {f"bsap.{other}" for other in re.findall(r"`(\w+)`", known)} for name, known in rows}
    everywhere = {"bsap.errors", "bsap.registry"}
    found = {name: known - everywhere for name, known in rooms().items() if name not in everywhere}
    assert allowed.keys() == found.keys()
    for name, known in found.items():
        assert known <= allowed[name], f"{name} imports {known - allowed[name]}"
    for name in ("metrics", "datamodules", "scoring"):
        assert not allowed[f"bsap.{name}"]


def test_no_file_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): n for path in FILES.values() if (n := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_public_names_can_be_imported() -> None:
    import bsap

    for name in bsap.__all__:
        assert getattr(bsap, name) is not None


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from bsap.cli import main; assert main(['--help']) == 0; "
        "assert not {'torch', 'lightning', 'open_clip', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_package_is_light() -> None:
    code = "import sys, bsap; assert not {'lightning', 'open_clip', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_package_is_in_the_wheel() -> None:
    """Folders with an ``__init__.py`` are named in pyproject.toml, which setuptools does not check."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'^    "(bsap(?:\.\w+)*)",$', text, flags=re.MULTILINE))
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "bsap").rglob("__init__.py")}
    for room in ("datamodules", "metrics", "configs"):
        found |= {
            ".".join(("bsap", *path.parent.relative_to(ROOT).parts)) for path in (ROOT / room).rglob("__init__.py")
        }
    assert listed == found | {"bsap.docs"}  # pages without a module
