"""Thresholds chosen on one split and reported on another, from stored features."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bsap.cli import main
from bsap.demo.dataset import make_demo_root
from bsap.errors import ConfigError
from bsap.metrics.functional.rejection import auroc
from bsap.sweep.thresholds import SetOutcomes

OVERS = ["p", "score", "cosine", "region_bank", "both"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `val` and `test` of drawn sets, with their features."""
    root = make_demo_root(tmp_path_factory.mktemp("world"), seed=3, sizes={"train": 2, "val": 4, "test": 5})
    runs = tmp_path_factory.mktemp("thresholds")
    for split in ("val", "test"):
        config = {
            "trainer": {"accelerator": "cpu", "default_root_dir": str(root)},
            "data": {
                "root": str(root), "dataset": "demo", "split_by": "sets", "split": split, "num_workers": 0,
                "proposals": {"source": "masks", "path": "demo/masks.json"},
            },
            "model": {
                "tasks": ["rec", "ris"], "encoders": ["demo"], "views": ["crop"], "scorers": ["clip", "bsap"],
                "region_bank": "train", "answer": {"rule": "threshold", "value": 0.0, "over": "both"},
            },
            "run": {"root": str(runs), "name": split, "all_scores": True},
        }  # fmt: skip
        (runs / f"{split}.yaml").write_text(yaml.safe_dump(config))
        assert main(["test", "-c", str(runs / f"{split}.yaml")]) == 0
    return runs


def swept(folder: Path, output: Path, *flags: str) -> Any:
    flags = ("--report-on", "test", "--output", str(output), *flags)
    assert main(["sweep", str(folder / "val"), "--threshold", *OVERS, *flags]) == 0
    return json.loads((output / "thresholds.json").read_text())


def records(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def best_values(folder: Path, scorer: str, over: str) -> tuple[list[float], list[bool]]:
    """Of each expression the greatest recorded value, and whether it has a target."""
    rows = [(r["scorers"][scorer], bool(r["referent"]["ann_ids"])) for r in records(folder)]
    return [max(r["scores"] if over == "p" else r["values"][over]) for r, _ in rows], [known for _, known in rows]


@pytest.mark.parametrize("choose", ["balance", "f1", "giou"])
def test_the_choice_is_the_best_and_its_own_run_gives_the_reported_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], choose: str
) -> None:
    document = swept(folder, tmp_path, "--choose", choose)
    assert [len(document[name]) for name in ("rows", "report")] == [10, 10]
    best, reported = document["rows"][0], document["report"][0]
    flags = ["-c", str(tmp_path / "best.yaml"), "--run.root", str(tmp_path), "--run.name", "own"]
    assert main(["test", *flags]) == 0
    found = json.loads((tmp_path / "own" / "results.json").read_text())
    assert found["settings"]["model"]["answer"] == {
        "rule": "threshold", "value": best["threshold"], "over": best["over"], "nms": 0.5
    }  # fmt: skip
    for task, scorers in found["metrics"].items():
        (values,) = scorers.values()
        assert values == {k.partition("/")[2]: v for k, v in reported["metrics"].items() if k.startswith(task)}

    criterion = {
        "balance": lambda rec, ris: rec["N-acc"] + rec["T-acc"], "f1": lambda rec, ris: rec["Pr@F1"],
        "giou": lambda rec, ris: ris["gIoU"],
    }[choose]  # fmt: skip
    most = criterion(
        *({k.partition("/")[2]: v for k, v in best["metrics"].items() if k[:3] == t} for t in ("rec", "ris"))
    )
    for threshold in {"p": (0.0, 0.3, 0.7), "cosine": (-0.2, 0.2, 0.5)}.get(best["over"], (-4.0, -1.0, 0.0)):
        rule = {"rule": "threshold", "value": threshold, "over": best["over"]}
        capsys.readouterr()
        assert main(["score", str(folder / "val"), "--answer", yaml.safe_dump(rule), "--format", "json"]) == 0
        other = json.loads(capsys.readouterr().out)["metrics"]
        assert criterion(*(other[task][best["scorer"]] for task in ("rec", "ris"))) <= most + 1e-12


def test_rejecting_by_every_value_against_recorded_scores(folder: Path, tmp_path: Path) -> None:
    for row in swept(folder, tmp_path)["report"]:
        values, known = best_values(folder / "test", row["scorer"], row["over"])
        rows = list(zip(values, known, strict=True))
        pairs = [(a > b) + (a == b) / 2 for a, x in rows for b, y in rows if x and not y]
        assert row["metrics"]["AUROC"] == pytest.approx(sum(pairs) / len(pairs), abs=0.01)
        rejected = [value < row["threshold"] for value in values]
        none = [r for r, k in zip(rejected, known, strict=True) if not k]
        assert row["metrics"]["rec/N-acc"] == pytest.approx(sum(none) / len(none), abs=1e-12)


def outcomes(best: list[float], targets: list[int]) -> SetOutcomes:
    n = len(best)
    zeros = torch.zeros(n, 2, dtype=torch.int64)
    return SetOutcomes(
        values=torch.tensor(best, dtype=torch.float64)[:, None],
        matched=torch.tensor([[0, int(t > 0)] for t in targets]),
        intersection=zeros, union=zeros, targets=torch.tensor(targets), scored=torch.ones(n, dtype=torch.bool),
        missing=torch.zeros(n, dtype=torch.bool), pictures=["x"] * n,
    )  # fmt: skip


def test_a_choice_by_hand() -> None:
    found = outcomes([0.9, 0.8, 0.4, 0.3, 0.2], [1, 1, 0, 1, 0])
    assert found.candidates("balance") == pytest.approx([0.2, 0.25, 0.35, 0.6, 0.85])
    assert found.choose("balance", ["rec"]) == pytest.approx((0.6, 5 / 6))  # N-acc 1, T-acc 2/3
    assert found.at(0.6, ["rec"])["rec/T-acc"] == pytest.approx(2 / 3)
    assert found.rejecting(["rec"])["AUROC"] == auroc([0.9, 0.8, 0.4, 0.3, 0.2], [True, True, False, True, False])
    coverage, accuracy = found.curve(["rec"])
    assert coverage.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert accuracy.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])
    nothing = outcomes([-math.inf, 0.5], [0, 1])
    assert nothing.at(-99.0, ["rec"])["rec/N-acc"] == 1.0
    masks = replace(found, intersection=torch.tensor([[0, 5], [0, 4], [0, 0], [0, 9], [0, 0]]),
                    union=torch.tensor([[9, 10], [9, 9], [9, 9], [9, 9], [0, 0]]))  # fmt: skip
    assert masks.curve(["ris"])[1].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 2 / 4, 2 / 5])
    with pytest.raises(ConfigError, match="No picture of the split has a proposal"):
        outcomes([-math.inf, -math.inf], [0, 1]).choose("balance", ["rec"])


def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folder / "val")
    for flags, message in (
        (["--threshold", "q"], "Unknown value to set a threshold over 'q'"),
        (["--threshold", "p", "--banks", "generic", "colours"], "--threshold takes one bank and one --aggregate"),
    ):
        assert main(["sweep", run, *flags]) == 2
        assert message in capsys.readouterr().err


def test_relations_have_no_threshold(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "val", run)
    results = json.loads((run / "results.json").read_text())
    results["settings"]["model"]["relations"] = True
    (run / "results.json").write_text(json.dumps(results))
    for command in (["sweep", "--threshold", "p"], ["score", "--answer", "{rule: threshold, value: 0.3}"]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert "no threshold of `answer` makes sense" in capsys.readouterr().err


def test_a_narrow_terminal_cuts_no_number(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    swept(folder, tmp_path)
    assert "\N{HORIZONTAL ELLIPSIS}" not in capsys.readouterr().out
    config = yaml.safe_load((folder / "val.yaml").read_text())
    config["data"] |= {"min_targets": 1}
    config["model"] |= {"tasks": ["ris"], "region_bank": None, "answer": {"rule": "threshold", "value": 0.5}}
    config["run"] |= {"name": "targets"}
    (tmp_path / "targets.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "targets.yaml")]) == 0
    for flags, message in (
        (["p"], "0 of 29 expressions of the split have no target"),
        (["p", "--choose", "f1"], "--choose f1 needs the task rec, which the run did not measure"),
        (["both"], "Regions of other pictures are needed for --threshold both"),
    ):
        capsys.readouterr()
        assert main(["sweep", str(folder / "targets"), "--threshold", *flags]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
