"""The same number whatever the number of processes, and no process left behind."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

from support.planted import Planted
from support.processes import Outcome, Ranks


def named(config: dict[str, Any], root: Path, name: str, **run: Any) -> dict[str, Any]:
    return config | {"run": config["run"] | {"root": str(root), "name": name} | run}


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_any_number_of_processes(
    ranks: Ranks, drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path, world: int
) -> None:
    job = ranks.start(named(drawn, tmp_path, "run"), tmp_path, world=world)
    job.check()
    found = read_run(tmp_path / "run")
    greatest = found.check_same(alone)
    print(f"{world} processes: greatest difference of a score {greatest:.1e}")
    assert found.results["timing"]["processes"] == world
    assert set(found.results["breakdown"]) == {"category", "words", "distractors"}
    assert not (tmp_path / "run" / "parts").exists()
    assert job.errors() == [""] * world, "a log stays readable"
    for rank in range(1, world):
        assert (job.folder / f"rank{rank}.out").read_text() == "", "only the first process speaks"


@pytest.mark.parametrize(
    ("dataset", "split_by", "split"),
    [("refcoco", "unc", "testA"), pytest.param("refcocog", "umd", "val", marks=pytest.mark.slow)],
)
def test_real_pictures(
    ranks: Ranks, drawn: Any, read_run: Any, real_data: Path, tmp_path: Path, dataset: str, split_by: str, split: str
) -> None:
    source = {"root": str(real_data / "refer"), "dataset": dataset, "split_by": split_by, "split": split}
    data = drawn["data"] | source | {"proposals": {"source": "ground_truth"}}
    config = drawn | {"data": data, "model": drawn["model"] | {"tasks": ["rec"]}}
    found = {}
    for world in (1, 2, 5):
        ranks.start(named(config, tmp_path, f"run{world}"), tmp_path, world=world).check()
        found[world] = read_run(tmp_path / f"run{world}")
        found[world].check_same(found[1])
    refs = pickle.loads((real_data / "refer" / dataset / f"refs({split_by}).p").read_bytes())
    assert found[1].results["counts"]["seen"] == sum(len(ref["sentences"]) for ref in refs if ref["split"] == split)


def test_every_process_has_the_same_region_bank(ranks: Ranks, drawn: Any, read_run: Any, tmp_path: Path) -> None:
    model = {"scorers": ["clip", "sinkhorn", "dual_is"], "region_bank": "test", "transform": "i0t", "store": "auto"}
    data = drawn["data"] | {"limit": 150}  # not the same number of pictures for all
    config = drawn | {"data": data, "model": drawn["model"] | model}
    for world in (1, 3):
        ranks.start(named(config, tmp_path / str(world), "run"), tmp_path, world=world).check()
    one, three = (read_run(tmp_path / str(world) / "run") for world in (1, 3))
    three.check_same(one)
    assert one.results["protocol"]["region_bank"]["pictures"] == 30
    assert one.results["transductive"]


def test_more_processes_than_scenes(ranks: Ranks, planted: Planted, read_run: Any, tmp_path: Path) -> None:
    """Four scenes on six processes: two of them see nothing and hold up nobody."""
    config = planted.config(run={"root": str(tmp_path)})
    for world in (1, 6):
        ranks.start(named(config, tmp_path, f"run{world}"), tmp_path, world=world).check()
    read_run(tmp_path / "run6").check_same(read_run(tmp_path / "run1"))


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_others(
    ranks: Ranks, drawn: Any, alone: Outcome, read_run: Any, tmp_path: Path, victim: int
) -> None:
    config = named(drawn, tmp_path, "run", timeout=1)
    job = ranks.start(config, tmp_path, world=3, hooks=[("killed", {"victim": victim})])
    codes = job.wait(100)
    assert codes[victim] == -signal.SIGKILL
    others = [rank for rank in range(3) if rank != victim]
    assert [codes[rank] for rank in others] == [2, 2], job.errors()
    for rank in others:
        assert "has ended or does not answer" in job.errors()[rank]
    ranks.start(config, tmp_path, world=2).check()
    resumed = read_run(tmp_path / "run")
    resumed.check_same(alone)
    assert resumed.results["timing"]["resumed_expressions"] > 0


def test_a_process_that_fails_takes_the_others_along(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    job = ranks.start(named(drawn, tmp_path, "run"), tmp_path, world=3, hooks=[("broken_picture", {"victim": 1})])
    job.check(2)
    first, failed, third = job.errors()
    assert failed == "bsap: picture 7 is broken\n"
    assert first.startswith("bsap: Another process failed: rank 1: DataError: picture 7 is broken")
    assert third == ""
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("place", ["bsap.module.load_model", "bsap.runs.callback.RunCallback.on_test_end"])
def test_a_process_that_dies_outside_of_the_batches_ends_the_others(
    ranks: Ranks, drawn: Any, tmp_path: Path, place: str
) -> None:
    """While models are loaded, or records are merged."""
    job = ranks.start(
        named(drawn, tmp_path, "run"), tmp_path, world=2, hooks=[("killed_at", {"victim": 1, "place": place})]
    )
    assert job.wait(100) == [2, -signal.SIGKILL], job.errors()
    assert job.errors()[0].startswith("bsap: Another process of this run has ended")
    assert job.errors()[0].count("\n") == 1


def test_a_model_that_is_missing_is_said_once(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    config = drawn | {"model": drawn["model"] | {"encoders": [{"name": f"local-dir:{tmp_path / 'absent'}"}]}}
    job = ranks.start(named(config, tmp_path, "run"), tmp_path, world=3)
    job.check(2)
    first, *others = job.errors()
    assert "absent" in first
    assert others == ["", ""]


def test_processes_that_read_other_data_are_refused(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    """As when a node has an older copy of the files."""
    job = ranks.start(named(drawn, tmp_path, "run"), tmp_path, world=2, hooks=[("fewer_scenes", {"victim": 1})])
    job.check(2)
    assert "Rank 1 read other data or weights than the first process:\n  expressions:" in job.errors()[1]


def test_one_process_of_a_node_loads_first(ranks: Ranks, drawn: Any, tmp_path: Path) -> None:
    """So that only one downloads; the others find the weights in the cache."""
    hooks = [("slow_loading", {"log": str(tmp_path / "loads")})]
    config = drawn | {"data": drawn["data"] | {"limit": 30}}
    ranks.start(named(config, tmp_path, "run"), tmp_path, world=3, hooks=hooks).check()
    lines = (tmp_path / "loads").read_text().splitlines()
    assert lines[:2] == ["begin 0", "end 0"]
    assert sorted(lines[2:]) == ["begin 1", "begin 2", "end 1", "end 2"]
