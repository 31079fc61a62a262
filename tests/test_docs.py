"""The programs in the docs run as they stand."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from bsap.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def program(page: str) -> str:
    """The only Python program of a page."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(code)


def test_the_notebook_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = json.loads((DOCS / "own_picture.ipynb").read_text(encoding="utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "stored outputs grow old"
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    for sentence in names["sentences"]:
        assert f"{sentence}: {sentence.removeprefix('the ')}, p =" in printed
    assert "CLIP chooses 0 and BSAP 1" in printed
    assert names["found"]._repr_html_().count("<img") == 3
    assert (tmp_path / "answer.png").stat().st_size > 1000


def test_a_data_set_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "squares.py").write_text(program("extending.md"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("squares.py", run_name="__main__")
    first = capsys.readouterr().out
    results = json.loads((tmp_path / "runs" / "squares" / "results.json").read_text())
    assert results["counts"]["seen"] == results["counts"]["selected"] == 8
    assert results["protocol"]["dataset"] == "squares"
    assert results["metrics"]["rec"].keys() == {"clip", "bsap"}
    runpy.run_path("squares.py", run_name="__main__")
    assert capsys.readouterr().out == first
    assert main(["score", "runs/squares"]) == 0
    assert "Equal to results.json, bit for bit" in capsys.readouterr().out
    assert main(["table", "runs/squares"]) == 0


def test_the_example_of_a_data_set_is_short() -> None:
    body = program("extending.md").partition("class Squares")[2].partition("\nmodule = ")[0]
    assert len(body.strip().splitlines()) <= 30
