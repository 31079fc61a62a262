"""Learning on two processes gives a bank that one process can use, and shipped configurations run as they are."""

from __future__ import annotations

import json
import os
import signal
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bsap.cli import main
from bsap.runs.signals import STOPPED
from support.processes import Ranks


def test_two_processes(ranks: Ranks, data: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    """Five validation scenes on two processes: the accuracy is that of `bsap test` on one."""
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "default_root_dir": str(tmp_path),
            "precision": "bf16-mixed",
        },
        "data": data,
        "model": model | {"store": str(tmp_path / "store")},
        "run": {"root": str(tmp_path), "name": "run"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    request = {
        "world": 2,
        "args": ["fit", "-c", str(tmp_path / "config.yaml")],
        "folder": str(tmp_path),
        "hooks": [["worse_after_the_best_epoch", {}]],
    }
    codes = ranks.ask({"wait": ranks.ask(request), "timeout": 120})
    assert codes == [0, 0], [(tmp_path / f"rank{rank}.err").read_text() for rank in range(2)]
    assert (tmp_path / "rank1.out").read_text() == ""
    hashes = {(tmp_path / f"hash{rank}").read_text() for rank in range(2)}
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    digest = sha256(best["learner.prompts.context"].numpy().tobytes()).hexdigest()
    assert hashes == {digest}, "both processes hold the best epoch"
    bank = tmp_path / "run" / "bank"
    meta = json.loads((bank / "bank.json").read_text())
    assert meta["processes"] == 2
    assert meta["steps"] == 2 * 2, "two epochs of two steps: five of ten scenes in batches of four"
    assert load_file(bank / "bank.safetensors")["features"].shape == (3, 128)
    test = {
        "trainer": {"accelerator": "cpu", "devices": 1, "precision": "bf16-mixed"},
        "data": data | {"split": "val"},
        "model": {"encoders": model["encoders"], "views": ["crop"], "bank": f"learned:{bank}", "scorers": ["bsap"]},
        "run": {"root": str(tmp_path), "name": "test"},
    }
    test["model"]["store"] = str(tmp_path / "store")
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    assert main(["test", "-c", str(tmp_path / "test.yaml")]) == 0
    found = json.loads((tmp_path / "test" / "results.json").read_text())["metrics"]["rec"]["bsap"]
    assert found["acc@0.5"] == pytest.approx(meta["val"], abs=1e-6)


@pytest.mark.parametrize("timeout", [60.0, 0.05])
def test_the_start_is_watched(
    ranks: Ranks, data: dict[str, Any], model: dict[str, Any], tmp_path: Path, timeout: float
) -> None:
    """As that of `bsap test`: whoever waits for a process that never comes says so, ends on a signal and gives up."""
    run = {"root": str(tmp_path), "name": "run", "timeout": timeout}
    config = {"trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path)}, "data": data, "model": model}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"run": run}))
    log = tmp_path / "waits"
    args = ["fit", "-c", str(tmp_path / "config.yaml")]
    hooks = [["waiting", {"log": str(log)}]]
    pids = ranks.ask({"world": 2, "only": [1], "args": args, "folder": str(tmp_path), "hooks": hooks})
    if timeout > 1:
        while not log.exists():
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(pids[0], signal.SIGTERM)
    assert ranks.ask({"wait": pids, "timeout": 60}) == [STOPPED if timeout > 1 else 2]
    begin = "stopped by SIGTERM before it began, while" if timeout > 1 else "gave up after"
    assert (tmp_path / "rank1.err").read_text().startswith(f"bsap: {begin} waiting ")
    assert not (tmp_path / "run").exists()


def test_a_number_that_is_not_finite_on_one_process(
    ranks: Ranks, data: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    """Validation shares differ in length; still all stop, and the one that saw it names its batch."""
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": str(tmp_path)},
        "data": data | {"batch_size": 2},
        "model": model | {"store": str(tmp_path / "store")},
        "run": {"root": str(tmp_path), "name": "run"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    args = ["fit", "-c", str(tmp_path / "config.yaml")]
    request = {"world": 2, "args": args, "folder": str(tmp_path), "hooks": [["not_finite", {"victim": 1}]]}
    assert ranks.ask({"wait": ranks.ask(request), "timeout": 60}) == [2, 2]
    first, second = ((tmp_path / f"rank{rank}.err").read_text() for rank in range(2))
    assert "another process has a number that is not finite at step" in first
    assert "a feature is not finite at step" in second
    assert "batch drawn_" in second


def test_a_process_with_nothing_to_learn_from_keeps_step(ranks: Ranks, model: dict[str, Any], tmp_path: Path) -> None:
    """One line a batch, and half of the lines are a single word, which can be no query."""
    lines = [f"{word}\nthe {colour} {word}" for word in ("cup", "bird", "dog", "car") for colour in ("red", "blue")]
    (tmp_path / "texts.txt").write_text("\n".join(dict.fromkeys("\n".join(lines).splitlines())))
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "default_root_dir": str(tmp_path)},
        "data": {"text_file": str(tmp_path / "texts.txt"), "batch_size": 1},
        "model": model | {"store": str(tmp_path / "store"), "text": {"regions": 2, "gap": "none"}},
        "run": {"root": str(tmp_path), "name": "run"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    args = ["fit", "-c", str(tmp_path / "config.yaml")]
    request = {"world": 2, "args": args, "folder": str(tmp_path)}
    assert ranks.ask({"wait": ranks.ask(request), "timeout": 60}) == [0, 0]
    meta = json.loads((tmp_path / "run" / "bank" / "bank.json").read_text())
    assert meta["skipped_expressions"] == 4
    assert meta["steps"] == 2 * 5, "two epochs, ten lines to learn from on two processes"


@pytest.mark.parametrize("name", ["learned_prompts.yaml", "learned_prompts_text.yaml"])
def test_shipped_configurations(data: dict[str, Any], model: dict[str, Any], tmp_path: Path, name: str) -> None:
    flags = ["--data.root", data["root"], "--data.dataset", "demo", "--data.split_by", "drawn"]
    flags += ["--run.root", str(tmp_path), "--model.encoders", '[{"name": "demo"}]', "--model.store", model["store"]]
    flags += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    if "text" not in name:
        flags += ["--data.proposals.source", "ground_truth", "--model.features", "pictures"]
    assert main(["fit", "-c", f"bsap:{name}", *flags]) == 0
    folder = tmp_path / name.removesuffix(".yaml")
    assert load_file(folder / "bank" / "bank.safetensors")["features"].shape == (64, 128)
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
