"""A run that ends early, in whatever way, costs only what was not yet on disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bsap.features.store import FeatureStore
from bsap.prompts.banks import load_bank
from bsap.runs.signals import STOPPED
from support.processes import SUPPORT, Outcome, Ranks


def slow(folder: Path, *pauses: float, log: str = "encoded") -> tuple[str, dict[str, Any]]:
    """Wait so many seconds in every batch, and note the pictures that are encoded."""
    return "slow", {"pauses": list(pauses), "log": str(folder / log)}


def named(config: dict[str, Any], root: Path, name: str = "run", **run: Any) -> dict[str, Any]:
    return config | {"run": config["run"] | {"root": str(root), "name": name} | run}


def until(condition: Callable[[], bool], timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def on_disk(folder: Path, rank: str = "*") -> list[dict[str, Any]]:
    """Whole records of a run that is under way."""
    records = []
    for path in (folder / "parts").glob(f"*-{rank}.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                records.append(json.loads(line.rpartition(b"\t")[0]))
    return records


def whole_scenes(alone: Outcome, records: list[dict[str, Any]]) -> tuple[set[str], int]:
    """Pictures of which every expression is recorded, and how many expressions those are."""
    wanted: dict[str, set[str]] = {}
    for record in alone.records:
        wanted.setdefault(record["image_id"], set()).add(record["id"])
    have = {record["id"] for record in records}
    done = {picture: ids for picture, ids in wanted.items() if ids <= have}
    return set(done), sum(map(len, done.values()))


@pytest.mark.parametrize("moment", range(5))
def test_killed_at_any_moment(
    ranks: Ranks, drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path, moment: int
) -> None:
    chance = random.Random(moment)
    folder = tmp_path / "run"
    job = ranks.start(named(drawn, tmp_path), tmp_path, world=2, hooks=[slow(tmp_path, 0.1, 0.1)])
    enough = chance.randrange(1, len(alone.records) * 3 // 4)
    until(lambda: len(on_disk(folder)) >= enough)
    time.sleep(chance.random() * 0.1)
    for pid in chance.sample(job.pids, 2):
        os.kill(pid, signal.SIGKILL)
    job.check(-signal.SIGKILL)
    left = on_disk(folder)
    with next((folder / "parts").glob("*-1.jsonl")).open("a") as part:
        part.write('{"id": "demo/drawn/test/1", "scor')  # as when a kill comes in the middle of a write
    done, expressions = whole_scenes(alone, left)

    world = chance.choice((1, 3))
    again = slow(tmp_path, 0, 0, 0, log="again")
    ranks.start(named(drawn, tmp_path), tmp_path, world=world, hooks=[again]).check()

    resumed = read_run(folder)
    resumed.check_same(alone)
    assert (
        resumed.results["timing"] | {"processes": world, "resumed_expressions": expressions}
        == resumed.results["timing"]
    )
    encoded = (tmp_path / "again").read_text().split()
    every = {record["image_id"] for record in alone.records}
    assert len(encoded) == len(set(encoded))
    assert set(encoded) == every - done, "finished scenes are not encoded again"


@pytest.mark.parametrize(
    ("number", "told", "pauses"),
    [
        (signal.SIGTERM, [1], (0.2, 0.2)),
        (signal.SIGUSR1, [0], (0.0, 0.5)),  # the first process has done its share and waits
        pytest.param(signal.SIGUSR1, [0, 1], (0.2, 0.2), marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, [0], (0.2, 0.2), marks=pytest.mark.slow),
    ],
)
def test_asked_to_stop(
    ranks: Ranks, drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path, number: int, told: list[int], pauses: Any
) -> None:
    folder = tmp_path / "run"
    job = ranks.start(named(drawn, tmp_path), tmp_path, world=2, hooks=[slow(tmp_path, *pauses)])
    if pauses[0]:
        until(lambda: all(on_disk(folder, str(rank)) for rank in range(2)))
    else:
        until(lambda: len(whole_scenes(alone, on_disk(folder, "0"))[0]) == 15)
        time.sleep(0.3)
    for rank in told:
        os.kill(job.pids[rank], number)
    asked = time.monotonic()
    job.check(STOPPED)
    assert time.monotonic() - asked < 30
    name = signal.Signals(number).name
    left = on_disk(folder)
    assert job.errors()[0].startswith(f"bsap: stopped by {name}; {len(left)} expressions are done.")
    assert job.errors()[1] == ""
    pictures = (tmp_path / "encoded").read_text().split()
    assert whole_scenes(alone, left)[0] == set(pictures), "the batch in hand is finished"
    assert len(pictures) < 30
    ranks.start(named(drawn, tmp_path), tmp_path, world=1).check()
    read_run(folder).check_same(alone)


def test_features_have_the_same_bits(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    """On 1, 2 and 3 processes, whose shares are unequal, and where one run began what another one continued."""
    data = drawn["data"] | {"proposals": {"source": "masks", "path": "demo/masks.json", "top_k": 3}}

    def start(name: str, world: int, **options: Any) -> Any:
        model = drawn["model"] | {"views": ["crop", "dim"], "store": str(tmp_path / "features" / name)}
        config = named(drawn | {"data": data, "model": model}, tmp_path, name)
        return ranks.start(config, tmp_path, world=world, **options)

    for world in (1, 2, 3):
        start(f"run{world}", world).check()
    job = start("resumed", 2, hooks=[slow(tmp_path, 0.2, 0.2)])
    until(lambda: all(on_disk(tmp_path / "resumed", str(rank)) for rank in range(2)))
    os.kill(job.pids[0], signal.SIGTERM)
    job.check(STOPPED)
    start("resumed", 3).check()
    found = {name: FeatureStore(tmp_path / "features" / name) for name in ("run1", "run2", "run3", "resumed")}
    keys = set(found["run1"]._where)
    rows = {key: found["run1"].get(key) for key in keys}
    assert sum(row is not None and row.dim() == 2 for row in rows.values()) == 60, "two views of 30 scenes"
    for store in found.values():
        assert set(store._where) == keys
        for key, row in rows.items():
            again = store.get(key)
            assert again is not None
            assert row is not None
            if row.dim() == 2:
                assert torch.equal(again, row)


def test_each_text_is_encoded_in_one_process(ranks: Ranks, drawn: Any, alone: Outcome, tmp_path: Path) -> None:
    """Once in a run, in shares; a continued run encodes what is left."""
    config = named(drawn | {"model": drawn["model"] | {"views": ["crop", "dim"]}}, tmp_path)

    def encoded(log: str) -> list[list[list[str]]]:
        return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(tmp_path.glob(log))]

    hooks = [("note_texts", {"log": str(tmp_path / "texts")}), slow(tmp_path, 0.2, 0.2)]
    job = ranks.start(config, tmp_path, world=2, hooks=hooks)
    until(lambda: all(on_disk(tmp_path / "run", str(rank)) for rank in range(2)))
    os.kill(job.pids[0], signal.SIGTERM)
    job.check(STOPPED)
    shares = encoded("texts*")
    assert [len(calls) for calls in shares] == [1, 1], "one call for all queries and the bank, for both views"
    first, second = (calls[0] for calls in shares)
    queries = {f"a photo of {record['text']}" for record in alone.records}
    assert len({*first, *second}) == len(first) + len(second), "no text twice"
    assert abs(len(first) - len(second)) <= 1
    bank = {f"a photo of {prompt}" for prompt in load_bank("coco_categories").prompts}
    assert {*first, *second} == queries | bank

    done = {record["id"] for record in on_disk(tmp_path / "run")}
    left = {f"a photo of {record['text']}" for record in alone.records if record["id"] not in done}
    ranks.start(config, tmp_path, world=3, hooks=[("note_texts", {"log": str(tmp_path / "again")})]).check()
    again = [text for calls in encoded("again*") for call in calls for text in call]
    assert len(again) == len(set(again))
    assert set(again) == left | bank
    assert len(again) < len(queries | bank)


def test_texts_that_cannot_be_encoded_end_all_processes(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    hooks = [("note_texts", {"log": str(tmp_path / "texts"), "fails": 1})]
    job = ranks.start(named(drawn, tmp_path), tmp_path, world=2, hooks=hooks)
    job.check(2)
    assert "the text tower is broken" in job.errors()[1]
    assert job.errors()[0].count("\n") <= 1


def test_a_signal_to_the_decoding_processes_too(
    ranks: Ranks, drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path
) -> None:
    """A cluster signals whole process groups."""
    config = drawn | {"data": drawn["data"] | {"num_workers": 1}}
    hooks = [("own_group", {}), slow(tmp_path, 0.2, 0.2)]
    job = ranks.start(named(config, tmp_path), tmp_path, world=2, hooks=hooks)
    until(lambda: all(on_disk(tmp_path / "run", str(rank)) for rank in range(2)))
    for pid in job.pids:
        os.killpg(pid, signal.SIGTERM)
    job.check(STOPPED)
    ranks.start(named(drawn, tmp_path), tmp_path, world=1).check()
    read_run(tmp_path / "run").check_same(alone)


def test_two_runs_of_one_folder_at_once(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    job = ranks.start(named(drawn, tmp_path), tmp_path, world=1, hooks=[slow(tmp_path, 60)])
    until(lambda: (tmp_path / "encoded").exists())
    second = ranks.start(named(drawn, tmp_path, overwrite=True), tmp_path, world=1)
    second.check(2)
    assert f"Another process is writing {tmp_path / 'run'}" in second.errors()[0]
    os.kill(job.pids[0], signal.SIGKILL)
    job.check(-signal.SIGKILL)
    third = ranks.start(
        named(drawn | {"data": drawn["data"] | {"limit": 5}}, tmp_path, overwrite=True), tmp_path, world=1
    )
    third.check()


def test_a_full_disk(ranks: Ranks, drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write fails in the middle of a record."""
    hooks = [("small_files", {"size": 50_001}), slow(tmp_path, 0, 0.05)]
    job = ranks.start(named(drawn, tmp_path), tmp_path, world=2, hooks=hooks)
    job.check(2)
    errors = "".join(job.errors())
    assert f"Cannot write {tmp_path / 'run' / 'parts'}" in errors
    assert "run the same command again" in errors
    torn = [p.read_bytes() for p in (tmp_path / "run" / "parts").glob("*.jsonl")]
    assert any(not text.endswith(b"\n") for text in torn)
    ranks.start(named(drawn, tmp_path), tmp_path, world=1).check()
    read_run(tmp_path / "run").check_same(alone)


def launch(drawn: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    """`bsap test` that has started its own second process, somewhere in the middle."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(named(drawn, folder) | {"trainer": drawn["trainer"] | {"devices": 2}}))
    command = [sys.executable, str(SUPPORT / "launch.py"), "test", "-c", str(path)]
    environment = os.environ | {"NOTES": str(folder)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    until(lambda: all(on_disk(folder / "run", str(rank)) for rank in range(2)))
    return process


@pytest.mark.slow
def test_the_launcher_passes_a_stop_on(drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path) -> None:
    """`bsap test` starts its own processes: the signal comes to the first one only, and its status is what one sees."""
    process = launch(drawn, tmp_path)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == STOPPED, errors
    assert errors.startswith("bsap: stopped by SIGTERM")
    assert errors.count("\n") == 1
    command = [sys.executable, "-m", "bsap", "test", "-c", str(tmp_path / "config.yaml")]
    subprocess.run(command, check=True, timeout=300)
    read_run(tmp_path / "run").check_same(alone)


def test_a_child_that_is_killed_is_told(drawn: Any, tmp_path: Path) -> None:
    """As for lack of memory; Lightning would kill the first process too, without a message."""
    process = launch(drawn, tmp_path)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert errors.startswith("bsap: Process 1 of this run ended with status -9")
    assert errors.count("\n") == 1
