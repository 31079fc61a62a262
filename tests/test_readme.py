"""The README's Python runs, and its commands are commands."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from bsap.cli.entry import COMMANDS
from support.planted import Planted

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    code = code.replace('"refer"', repr(str(planted.root))).replace('split="testA"', 'split="val"')
    code = code.replace('"ViT-B-32-quickgelu", pretrained="openai"', repr(f"local-dir:{planted.model}"))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (results,) = Path("runs").glob("*/results.json")
    assert json.loads(results.read_text())["counts"]["seen"] == 8


def test_the_few_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    code, _ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (240, 180), "green").save("street.jpg")
    (tmp_path / "lines.py").write_text(code.replace("ViT-B-32-quickgelu:openai", "demo"))
    names = runpy.run_path(str(tmp_path / "lines.py"))
    assert names["found"].choice.shape == (2,)
    with Image.open("answer.png") as answer:
        assert answer.width >= 480


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"`bsap ([a-z]+)", README)) | set(re.findall(r"^    bsap ([a-z]+)", README, flags=re.M))
    assert named <= set(COMMANDS)
    assert set(COMMANDS) <= named


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b[A-Z]+_[A-Z]+\b", README)


def test_every_linked_page_exists() -> None:
    for page in re.findall(r"\]\(((?:docs|examples)/[^)]+)\)", README):
        assert (Path(__file__).parents[1] / page).exists(), page
