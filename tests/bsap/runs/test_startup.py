"""Processes that wait for others which never come."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bsap.runs.signals import STOPPED
from support.processes import Ranks


def named(config: dict[str, Any], root: Path, **run: Any) -> dict[str, Any]:
    return config | {"run": config["run"] | {"root": str(root), "name": "run"} | run}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_waiting(ranks: Ranks, drawn: Any, tmp_path: Path, number: signal.Signals, rank: int) -> None:
    log = tmp_path / "waits"
    job = ranks.start(named(drawn, tmp_path), tmp_path, world=2, only=[rank], hooks=[("waiting", {"log": str(log)})])
    while not log.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(job.pids[0], number)
    assert job.wait(20) == [STOPPED]
    text = (job.folder / f"rank{rank}.err").read_text()
    stopped = f"bsap: stopped by {number.name} before it began, "
    assert text.startswith(f"{stopped}while waiting for rank {1 - rank} ")
    assert text.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("only", [[0], [1], [0, 2]])
def test_waiting_is_explained_and_ends(ranks: Ranks, drawn: Any, tmp_path: Path, only: list[int]) -> None:
    hooks = [("waiting", {"log": str(tmp_path / "waits"), "first_note": 1.5})]
    job = ranks.start(named(drawn, tmp_path, timeout=0.1), tmp_path, world=4, only=only, hooks=hooks)
    assert job.wait(60) == [2] * len(only)
    absent = "1, 2, 3" if only == [0] else "1, 3" if only == [0, 2] else "0"
    text = (job.folder / f"rank{only[0]}.err").read_text()
    note, end = text.splitlines()[:2]
    assert note.startswith("bsap: has waited ")
    assert f"for rank {absent} at 127.0.0.1:" in note
    assert f"(this is rank {only[0]} of 4)" in note
    assert f"LOCAL_RANK={only[0]}" in note
    assert end.startswith(f"bsap: gave up after waiting 0.1 minutes (`run.timeout`) for rank {absent} ")
