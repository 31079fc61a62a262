"""The table of published methods: it says what the shipped numbers say, and its configurations are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsap.cli import main
from bsap.reports.published import load_published

PAGE = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| (yes|in part|no) \| (.+) \|$", PAGE, flags=re.MULTILINE)
RUNS = [(name, re.findall(r"`(-c [^`]+)`", cell)) for name, verdict, cell in ROWS if verdict == "yes"]
NEEDED = ("--data.root", "x", "--data.proposals.source", "detections", "--data.proposals.path", "y")


def test_every_published_method_has_a_row() -> None:
    assert {name: verdict for name, verdict, _ in ROWS} == {m.name: m.expressible for m in load_published()}
    assert len(ROWS) == len(load_published())
    for method in load_published():
        assert method.expressible in ("yes", "in part", "no")
        assert (method.missing is None) == (method.expressible == "yes"), method.name


@pytest.mark.parametrize(("name", "flags"), RUNS, ids=[name for name, _ in RUNS])
def test_the_configuration_of_a_row_is_read(name: str, flags: list[str], capsys: Any) -> None:
    if not flags:
        (cell,) = (cell for row, _, cell in ROWS if row == name)
        assert cell.removeprefix("as ") in dict(RUNS)
        return
    with pytest.raises(SystemExit) as caught:
        main(["test", *NEEDED, *shlex.split(flags[0]), "--print_config"])
    assert caught.value.code == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    if "reclip_relations" in flags[0]:
        assert model["relations"]["published"] is True
        assert model["relations"]["between"] is False
        assert (model["aggregate"], model["strict"]) == ("sum", True)
    published = next(method for method in load_published() if method.name == name)
    if published.views and published.task == "rec":
        assert model["views"] == published.views
