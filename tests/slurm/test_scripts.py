"""The shipped job scripts, submitted unchanged to a real SLURM; the GPUs are on paper, the tasks run on the CPU."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bsap.configs
from bsap.cli import main
from support.planted import Planted

pytestmark = pytest.mark.slurm
SCRIPTS = Path(bsap.configs.__file__).parent / "slurm"

# `bsap` with a pause in every batch, so that a job can be disturbed halfway.
SLOW = """
import sys, time
from bsap.module import BSAPModule
step = BSAPModule.test_step
def test_step(self, batch, batch_idx):
    time.sleep({pause})
    return step(self, batch, batch_idx)
BSAPModule.test_step = test_step
from bsap.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Configurations of a test of the demo's model on 20 drawn scenes."""
    from bsap.demo.dataset import make_demo_root

    root = make_demo_root(tmp_path_factory.mktemp("drawn"), sizes={"test": 20})

    def config(folder: Path, name: str) -> dict[str, Any]:
        return {
            "trainer": {"accelerator": "cpu", "default_root_dir": str(folder)},
            "data": {
                "root": str(root),
                "dataset": "demo",
                "split_by": "drawn",
                "split": "test",
                "num_workers": 0,
                "batch_size": 1,
                "proposals": {"source": "masks", "path": "demo/masks.json"},
            },
            "model": {"tasks": ["rec", "ris"], "encoders": [{"name": "demo"}], "views": ["crop"], "store": None},
            "run": {"root": str(folder), "name": name, "breakdown": ["category"]},
        }

    return config


@pytest.fixture(scope="session")
def alone(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on one process, without SLURM."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "config.yaml").write_text(yaml.safe_dump(world(folder, "run")))
    assert main(["test", "-c", str(folder / "config.yaml"), "--trainer.devices", "1"]) == 0
    return folder / "run"


def submit(cluster: Any, folder: Path, script: str, config: dict[str, Any], *options: str, pause: float = 0.0) -> str:
    """`sbatch` a shipped script with ``bsap`` on the PATH; returns the job's number."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "slow.py").write_text(SLOW.format(pause=pause))
    (programs / "bsap").write_text(f'#!/bin/sh\nexec {sys.executable} {programs / "slow.py"} "$@"\n')
    (programs / "bsap").chmod(0o755)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    env = {"PATH": f"{programs}:{cluster.env['PATH']}", "OMP_NUM_THREADS": "1"}
    script = str(SCRIPTS / script)
    command = ["sbatch", "--parsable", "--cpus-per-gpu=1", *options, script, str(folder / "config.yaml")]
    return str(cluster.run(*command, cwd=folder, env=env).strip())


def on_disk(run: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (run / "parts").glob("*.jsonl"))


def until(condition: Callable[[], bool], timeout: float = 240) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)


def check_same(run: Path, other: Path) -> dict[str, Any]:
    mine, theirs = (json.loads((folder / "results.json").read_text()) for folder in (run, other))
    for key in ("metrics", "counts", "breakdown", "complete", "partial", "selection", "protocol", "models"):
        assert mine[key] == theirs[key], key
    choices = []
    for folder in (run, other):
        records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        choices.append([(r["id"], {name: row["region"] for name, row in r["scorers"].items()}) for r in records])
    assert choices[0] == choices[1]
    return dict(mine)


@pytest.mark.parametrize(
    ("script", "disturb"),
    [
        ("node.sh", ["scontrol", "requeue"]),  # as preemption does
        ("multinode.sh", ["scancel", "--signal=USR1"]),  # as comes before the time limit
    ],
)
def test_two_tasks_requeued_halfway(
    cluster: Any, world: Any, alone: Path, tmp_path: Path, script: str, disturb: list[str]
) -> None:
    run = tmp_path / "run"
    job = submit(cluster, tmp_path, script, world(tmp_path, "run"), "--nodes=1", "--gpus-per-node=2", pause=0.5)
    log = tmp_path / f"bsap-{job}.log"
    until(lambda: on_disk(run) > 100)
    cluster.run(*disturb, job)
    until(lambda: cluster.state(job)["Restarts"] == "1")
    left = on_disk(run)
    if "--signal=USR1" in disturb:  # srun drops what is said after a requeue
        assert "0: bsap: stopped by SIGUSR1" in log.read_text()
    assert not (run / "results.json").exists()
    state = cluster.finish(job)
    assert state["JobState"] == "COMPLETED", log.read_text()
    results = check_same(run, alone)
    assert results["timing"]["processes"] == 2
    assert results["timing"]["resumed_expressions"] >= left > 100
    lines = log.read_text().splitlines()
    assert len(lines) < 60, "a log stays readable"
    assert not any("\r" in line for line in lines)
    assert sum("acc@0.5" in line.lower() for line in lines) <= 2, "only the first process speaks"


def test_a_cancelled_job_stays_cancelled(cluster: Any, world: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit(cluster, tmp_path, "single.sh", world(tmp_path, "run"), pause=0.5)
    until(lambda: on_disk(run) > 50)
    cluster.run("scancel", job)
    state = cluster.finish(job)
    time.sleep(3)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")
    assert cluster.state(job)["JobState"] == "CANCELLED"
    assert not (run / "results.json").exists()


def test_one_job_of_an_array_is_requeued_alone(cluster: Any, planted: Planted, tmp_path: Path) -> None:
    """The last job to start has the array's own number, which means all jobs where it stands bare."""
    root = shutil.copytree(planted.root, tmp_path / "root")
    refs = root / "refcoco" / "refs(unc).p"
    rows = pickle.loads(refs.read_bytes())
    refs.write_bytes(pickle.dumps(rows + [row | {"split": "testA"} for row in rows], protocol=2))
    config = planted.config(run={"root": str(tmp_path)}, trainer={"default_root_dir": str(tmp_path)})
    config["data"] |= {"root": str(root), "batch_size": 1}
    for key in ("dataset", "split_by", "split"):
        del config["data"][key]
    job = submit(cluster, tmp_path, "array.sh", config, "--array=0-1%1", pause=1.5)
    first = cluster.finish(f"{job}_0")
    assert (first["JobState"], first["Restarts"]) == ("COMPLETED", "0"), [p.read_text() for p in tmp_path.glob("*.log")]
    until(lambda: any(tmp_path.glob("*/parts/*.jsonl")))
    assert cluster.state(f"{job}_1")["JobId"] == job
    cluster.run("scancel", "--signal=USR1", f"{job}_1")
    until(lambda: cluster.state(f"{job}_1")["Restarts"] == "1")
    second = cluster.finish(f"{job}_1")
    assert (second["JobState"], second["Restarts"]) == ("COMPLETED", "1"), [
        p.read_text() for p in tmp_path.glob("*.log")
    ]
    assert cluster.state(f"{job}_0")["Restarts"] == "0"
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/results.json")]
    assert sorted(result["protocol"]["split"] for result in results) == ["testA", "val"]
    assert all(result["metrics"]["rec"]["bsap"]["acc@0.5"] == 6 / 8 for result in results)


def test_array_over_datasets_and_splits(cluster: Any, planted: Planted, tmp_path: Path) -> None:
    """Its first job is RefCOCO val, which the planted world calls itself."""
    config = planted.config(run={"root": str(tmp_path), "name": "run"}, trainer={"default_root_dir": str(tmp_path)})
    for key in ("dataset", "split_by", "split"):
        del config["data"][key]
    job = submit(cluster, tmp_path, "array.sh", config, "--array=0")
    state = cluster.finish(job)
    assert state["JobState"] == "COMPLETED", [path.read_text() for path in tmp_path.glob("*.log")]
    assert (tmp_path / f"bsap-{job}_0.log").exists()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["metrics"]["rec"]["bsap"]["acc@0.5"] == 6 / 8
    assert [results["protocol"][key] for key in ("dataset", "split_by", "split")] == ["refcoco", "unc", "val"]


def test_a_recipe_as_an_array(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its second run is stopped as before the time limit and requeued; afterwards the table needs no run."""
    recipe = yaml.safe_load((SCRIPTS.parent / "recipes" / "demo.yaml").read_text())
    recipe["settings"]["data"] |= {"limit": 60, "batch_size": 1, "num_workers": 0}
    recipe["runs"][1] |= {"published": {"clip": {"rec/acc@0.5": {"all": 50.0}}}, "tolerance": 100.0}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "sitecustomize.py").write_text(  # the run is a process of its own, which the pause must reach, too
        "import sys\nif 'test' in sys.argv[1:2]:\n    import slow_test\n"
    )
    (tmp_path / "slow_test.py").write_text(SLOW.format(pause=0.5).partition("from bsap.cli")[0])
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bsap").write_text(f'#!/bin/sh\nexec {sys.executable} -m bsap "$@"\n')
    (programs / "bsap").chmod(0o755)
    arguments = [str(tmp_path / "mine.yaml"), "--accelerator", "cpu", "--output", str(tmp_path / "out")]
    assert main(["reproduce", arguments[0], "--list"]) == 0
    assert capsys.readouterr().out == "0 ground_truth\n1 detections\n"
    env = {"PATH": f"{programs}:{cluster.env['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    command = ["sbatch", "--parsable", "--cpus-per-gpu=1", "--array=1", str(SCRIPTS / "recipe.sh"), *arguments]
    job = cluster.run(*command, cwd=tmp_path, env=env).strip()
    until(lambda: on_disk(tmp_path / "out" / "detections") > 5)
    cluster.run("scancel", "--signal=USR1", f"{job}_1")
    until(lambda: cluster.state(f"{job}_1")["Restarts"] == "1")
    state = cluster.finish(f"{job}_1")
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), [p.read_text() for p in tmp_path.glob("*.log")]
    assert not (tmp_path / "out" / "table.md").exists()
    assert main(["reproduce", *arguments, "--only", "detections"]) == 0
    assert "| same " in capsys.readouterr().out


def test_a_stray_checkpoint_is_refused(cluster: Any, planted: Planted, tmp_path: Path) -> None:
    """Lightning would load it instead of the model's weights."""
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"other weights")
    config = planted.config(run={"root": str(tmp_path), "name": "run"}, trainer={"default_root_dir": str(tmp_path)})
    job = submit(cluster, tmp_path, "single.sh", config)
    state = cluster.finish(job)
    assert state["JobState"] == "FAILED"
    assert state["ExitCode"] == "2:0"
    assert "hpc_ckpt_1.ckpt would be loaded into the model" in (tmp_path / f"bsap-{job}.log").read_text()
