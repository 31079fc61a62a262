from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bsap.errors import BSAPError, ConfigError
from bsap.learning import PromptLearner
from bsap.learning.run_folder import write_bank
from bsap.prompts.banks import Bank, check_learned_bank, load_bank


@dataclass
class Model:
    label: str = "mine"
    weights_sha256: str = "ab" * 32
    dim: int = 4


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    features = torch.randn(3, 4)
    meta = {"name": "run", "model": {"label": "mine", "weights_sha256": "ab" * 32}}
    write_bank(tmp_path / "bank", {"features": features, "context": torch.zeros(3, 2, 6)}, meta)
    bank = load_bank(f"learned:{tmp_path / 'bank'}")
    assert bank.features is not None
    assert torch.equal(bank.features, features)
    assert bank.meta == {"format": "bsap-bank-1", **meta}
    check_learned_bank(bank, [Model()])
    assert json.loads((tmp_path / "bank" / "bank.json").read_text())["format"] == "bsap-bank-1"


def test_a_bank_of_texts_suits_all_models() -> None:
    check_learned_bank(load_bank("generic"), [Model(), Model("other", "cd" * 32)])


@pytest.mark.parametrize(
    ("meta", "models", "message"),
    [
        ({}, [Model()], "does not say which model it was learned with"),
        ({"model": "mine"}, [Model()], "does not say which model"),
        (
            {"model": {"label": "mine", "weights_sha256": "ab" * 32}},
            [Model(), Model("other", "cd" * 32)],
            "was learned with model 'mine' (weights abababababab), not with 'other' (weights cdcdcdcdcdcd)",
        ),
        (
            {"model": {"label": "mine", "weights_sha256": "ab" * 32}},
            [Model(dim=5)],
            "features of length 4, but model 'mine' has 5",
        ),
        (
            {"model": {"label": "mine", "weights_sha256": "ab" * 32}, "query_context": 3},
            [Model()],
            "learned together with context before the queries",
        ),
    ],
)
def test_refused(meta: dict[str, Any], models: list[Model], message: str) -> None:
    bank = Bank(name="run", prompts=(), source="learned", features=torch.ones(2, 4), meta=meta)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_learned_bank(bank, models)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"Cannot write the learned bank to .*another `--run.root`"):
        write_bank(tmp_path / "file", {"features": torch.ones(1, 1)}, {})


@pytest.mark.parametrize("change", [(), ("--model.lr", "0.5")])
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, ...]
) -> None:
    """With the same settings and with others: there is nothing to lose."""

    def die(self: PromptLearner) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(PromptLearner, "on_train_start", die)
        with pytest.raises(RuntimeError, match="power cut"):
            fit()
    assert (tmp_path / "run" / "config.yaml").exists()
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert fit(*change) == 0
    assert load_bank(f"learned:{tmp_path / 'run' / 'bank'}").features is not None


def test_a_run_that_starts_again_leaves_no_bank_of_the_old_one(
    fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit() == 0

    def stop(self: PromptLearner) -> None:
        raise BSAPError("stopped")

    monkeypatch.setattr(PromptLearner, "on_train_start", stop)
    assert fit("--model.lr", "0.5", "--run.overwrite", "true") == 2
    assert not list((tmp_path / "run").glob("bank/*"))
    assert not (tmp_path / "run" / "test.yaml").exists()


HOLD = """
import sys
from pathlib import Path
from bsap.runs.parts import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_processes_on_one_run(fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert fit() == 2
        assert "Another process is writing" in capsys.readouterr().err
        other.stdin.close()
        assert other.wait(60) == 0
    assert fit() == 0


@pytest.mark.parametrize("content", ["", "[]", "a: [", "1", "\x00"])
def test_a_damaged_config_is_not_written_over(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "run" / "bank").mkdir(parents=True)
    (tmp_path / "run" / "bank" / "bank.json").write_text("{}")
    (tmp_path / "run" / "config.yaml").write_text(content)
    assert fit() == 2
    assert "config.yaml is damaged" in capsys.readouterr().err
    assert (tmp_path / "run" / "bank" / "bank.json").exists()
