"""Mistakes on the command line: every one is a single clear message with exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsap.cli import main
from bsap.cli.arguments import path
from bsap.cli.entry import COMMANDS
from bsap.errors import visible
from bsap.reports.text import cell, csv_cell

BASE = ["test", "--data.root", "nowhere", "--data.proposals.source", "masks", "--trainer.accelerator", "cpu"]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that ends with status 2."""
    try:
        status: object = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("bsap: ")
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--model.bnak", "--model.bank"),
        ("--data.propsals.source", "--data.proposals.source"),
        ("--modle.views", "--model.views"),
        ("--trainer.devcies", "--trainer.devices"),
        ("--run.nmae", "--run.name"),
        ("--model.templates.qery", "--model.templates.query"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest_one(
    typed: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused([*BASE, typed, "x"], capsys)
    assert f"Unknown option '{typed}'. Did you mean '{meant}'" in error

    *keys, last = typed.lstrip("-").split(".")
    settings: dict[str, object] = {last: "x"}
    for key in reversed(keys):
        settings = {key: settings}
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(settings))
    error = refused([*BASE, "-c", str(tmp_path / "typo.yaml")], capsys)
    assert f"Unknown setting '{typed.lstrip('-')}'" in error
    assert f"Did you mean '{meant.lstrip('-')}'" in error


@pytest.mark.parametrize(
    ("argv", "typed", "meant"),
    [
        (["table", "runs/x", "--fromat", "md"], "--fromat", "--format"),
        (["score", "runs/x", "--stric"], "--stric", "--strict"),
        (["show", "runs/x", "--imgaes", "x"], "--imgaes", "--images"),
        (["demo", "--limt", "3"], "--limt", "--limit"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_so_do_the_other_commands(argv: list[str], typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Unknown option '{typed}'. Did you mean '{meant}'" in refused(argv, capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.batch_size", "many"], "The setting `data.batch_size` is not valid: Expected a whole number"),
        (["--model.region_batch", "x"], "Expected a whole number or null, but got x"),
        (["--model.resize", "sqash"], "Expected one of 'squash', 'longest', 'shortest', but got sqash"),
        (["--model.views", "{}"], "A view is a name or `class_path` with `init_args`, but got {}"),
        (["stray"], "Unexpected argument 'stray'"),
        (["-c", "/no/such/file.yaml"], "File does not exist: '/no/such/file.yaml'"),
        (["--trainer.devices", "{}"], "Lightning's Trainer refuses its settings"),
        (["--trainer.strategy", "fsdp"], "requires a GPU"),
        (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], "Use `--trainer.strategy ddp`"),
        (["--trainer.strategy", "ddp_fork", "--trainer.devices", "2"], "Use `--trainer.strategy ddp`"),
        (["--trainer.strategy", "ddp_notebook", "--trainer.devices", "2"], "Use `--trainer.strategy ddp`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_value_is_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused([*BASE, *flags], capsys)


def test_settings_of_slurm_that_disagree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"NTASKS": "4", "NTASKS_PER_NODE": "4", "JOB_ID": "1", "JOB_NAME": "job"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert "SLURM" in refused([*BASE, "--trainer.devices", "2"], capsys)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_message_is_bounded(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        [*BASE, "--model.scorers", f"[{'x' * size}]"],
        ["table", "x" * size],
        [f"{'y' * size}"],
        ["--" * size],
    ):
        assert len(refused(argv, capsys)) < 5000


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"demo"}))
@pytest.mark.parametrize("text", ["caf\udce9", "\x1b[31mred", "line\nbreak\x07", "[bold]markup[/bold]"])
def test_a_message_holds_no_control_characters(command: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are not UTF-8 reach Python as lone surrogates, which no output can print."""
    error = refused([command, text], capsys)
    assert error.isprintable() or set(error) <= {c for c in error if c.isprintable() or c == "\n"}
    error.encode()


@given(st.text(st.characters(), max_size=40))
def test_visible_text_can_be_printed_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    assert all(c.isprintable() or c in "\u200c\u200d" for c in shown)
    shown.encode()
    plain = "".join(c for c in text if c.isprintable() and c != " ")
    remaining = iter(shown)
    assert all(c in remaining for c in plain), "in order"
    assert cell(text).plain == shown
    assert not cell(text).spans


@given(st.text(min_size=1, max_size=20))
def test_a_cell_of_a_csv_file_is_no_formula(text: str) -> None:
    assert not csv_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert csv_cell(text).removeprefix("'") == visible(text).removeprefix("'")


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path("~/runs") == tmp_path / "runs"
    assert path("runs/~") == Path("runs/~")
