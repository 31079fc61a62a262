from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bsap.errors import ConfigError
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
