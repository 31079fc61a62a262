"""What a command must not import before it needs it: torch and Lightning take seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bsap.cli import main
from bsap.cli.help_text import STORED, help_file, parser_help
from support.planted import Planted

HEAVY = {"torch", "torchvision", "torchmetrics", "lightning", "transformers", "open_clip", "jsonargparse", "numpy"}

PROBE = """
import json, sys
from bsap.cli import main
try:
    status = main(json.loads(sys.argv[1]))
except SystemExit as stopped:
    status = stopped.code
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def finished(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("startup")
    config = planted.config(run={"root": str(root), "name": "r"})
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(root / "config.yaml")]) == 0
    return root / "r"


def imported(*argv: str) -> set[str]:
    """The heavy modules that a command imports in a process of its own."""
    run = subprocess.run([sys.executable, "-c", PROBE, json.dumps(argv)], capture_output=True, text=True, check=False)
    status, modules = json.loads(run.stderr.splitlines()[-1])
    assert status == 0, run.stderr
    return HEAVY & set(modules)


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], ["table", "--help"], ["score", "--help"], ["show", "--help"], ["sweep", "--help"]],
    ids=" ".join,
)
def test_help_waits_for_nothing(argv: list[str]) -> None:
    assert imported(*argv) == set()


@pytest.mark.parametrize("options", [["--format", "md"], ["--format", "csv"], ["--published"]], ids=" ".join)
def test_a_table_needs_no_torch(finished: Path, options: list[str]) -> None:
    assert imported("table", str(finished), *options) == set()


def test_a_sheet_of_pictures_needs_no_torch(finished: Path, tmp_path: Path) -> None:
    assert imported("show", str(finished), "--wrong", "clip", "--output", str(tmp_path)) == {"numpy"}


def test_a_score_needs_torch_alone(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "r")
    assert imported("score", str(folder), "--breakdown", "words") == {"torch", "numpy"}


@pytest.mark.parametrize("command", STORED)
def test_the_stored_help_is_that_of_the_parser(command: str) -> None:
    stored = help_file(command).read_text(encoding="utf-8")
    assert stored == parser_help(command), "run `make help-text`, and commit what it writes"


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", STORED)
def test_help_of_a_run_waits_for_nothing(command: str, flag: str) -> None:
    assert imported(command, flag) == set()
