"""Who may import whom, read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)

ALLOWED = {
    "metrics": {"torch", "torchvision", "torchmetrics", "pycocotools", "numpy", "bsap.metrics"},
    "datamodules": {
        "torch", "numpy", "PIL", "lightning", "pycocotools", "yaml", "rich", "bsap.datamodules", "bsap.errors",
    },
    "bsap/scoring": {"torch", "bsap.scoring", "bsap.errors", "bsap.registry"},
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] not in STANDARD}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            allowed = any(name == known or name.startswith(f"{known}.") for known in ALLOWED[room])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


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
    assert found == listed
