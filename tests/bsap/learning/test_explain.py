from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bsap.analysis.explain import explained_away
from bsap.cli import main
from bsap.learning.context import FrozenTower
from bsap.learning.words import nearest_words
from bsap.models.encoder import Encoder
from bsap.scoring import BSAP, Similarities


@pytest.fixture
def tested(data: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> Path:
    import yaml

    config = {
        "trainer": {"accelerator": "cpu", "devices": 1},
        "data": data | {"split": "test", "num_workers": 0},
        "model": {
            "encoders": model["encoders"],
            "views": ["crop"],
            "store": model["store"],
            "scorers": ["clip", "bsap"],
        },
        "run": {"root": str(tmp_path), "name": "run"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    return tmp_path / "run"


def test_by_hand() -> None:
    """Two regions, two prompts: the second prompt shouts at the first region, which CLIP prefers for expression 0."""
    query = torch.tensor([[[[0.5, 0.4], [0.1, 0.9]]]])
    bank = torch.tensor([[[[0.1, 0.1], [0.9, 0.0]]]])
    moved, prompt, before, after = explained_away(Similarities(query, bank, torch.tensor([10.0])))
    assert moved.tolist() == [[True, False]]
    assert prompt.tolist() == [[1, 0]]
    assert (before.tolist(), after.tolist()) == ([[0, 1]], [[1, 1]])


def test_the_scorer_decides_what_is_explained() -> None:
    """At a tau of 0.1 the shouting prompt is one of two quiet ones, and CLIP's choice stays."""
    query = torch.tensor([[[[0.9, 0.4]]]])
    bank = torch.tensor([[[[0.1, 0.1], [0.9, 0.0]]]])
    for tau, leaves in ((10.0, True), (0.1, False)):
        moved, *_ = explained_away(Similarities(query, bank, torch.tensor([10.0])), BSAP(tau=tau))
        assert moved.item() is leaves


def test_context_made_of_words_is_read_back(tower: FrozenTower, encoder: Encoder, tmp_path: Path) -> None:
    rows = torch.stack([tower.words("red cup"), 3 * tower.words("left bird")])
    file = tmp_path / "bank.safetensors"
    save_file({"features": torch.zeros(2, 128), "context": rows, "lengths": torch.tensor([2, 1])}, file)
    assert nearest_words(file, tower, 1) == [(("red",), ("cup",)), (("left",),)]
    assert nearest_words(None, tower, 1) == []


def test_the_shares_are_those_of_the_predictions(tested: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Summed over prompts they are the choices that changed, were fixed and were broken."""
    records = [json.loads(line) for line in (tested / "predictions.jsonl").read_text().splitlines()]
    rows = [(r["scorers"]["clip"], r["scorers"]["bsap"]) for r in records]
    moved = [(c["box_iou"] >= 0.5, b["box_iou"] >= 0.5) for c, b in rows if c["region"] != b["region"]]
    assert main(["explain", str(tested)]) == 0
    found = json.loads((tested / "explain.json").read_text())["prompts"]
    assert len(found) == 80
    n = len(records)
    assert sum(p["explains"] for p in found) == pytest.approx(len(moved) / n)
    assert sum(p["fixed"] for p in found) == pytest.approx(sum(not c and b for c, b in moved) / n)
    assert sum(p["broken"] for p in found) == pytest.approx(sum(c and not b for c, b in moved) / n)
    assert found[0]["explains"] == max(p["explains"] for p in found) > 0
    assert "explains" in capsys.readouterr().out


def test_a_learned_bank(
    fit: Any, tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the scorer that it was learned with, in a table that a narrow terminal shows in a few lines a prompt."""
    monkeypatch.setenv("COLUMNS", "80")
    assert fit("--model.lr", "0.05", name="learned", model_={"learn_tau": True}) == 0
    capsys.readouterr()
    assert main(["explain", str(tested), "--bank", f"learned:{tmp_path / 'learned' / 'bank'}", "--nearest", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "by bsap(tau=" in lines[0]
    assert [word for word in ("explains", "fixed", "broken") if word in lines[2]] == ["explains", "fixed", "broken"]
    assert len(lines) < 6 + 3 * 4
    document = json.loads((tested / "explain.json").read_text())
    meta = json.loads((tmp_path / "learned" / "bank" / "bank.json").read_text())
    assert document["scorer"]["init_args"]["tau"] == pytest.approx(meta["learned"]["tau"], abs=1e-6)
    found = document["prompts"]
    assert {p["prompt"] for p in found} == {"#0", "#1", "#2"}
    assert all(len(p["words"]) == 3 and {len(w) for w in p["words"]} == {2} for p in found)
    assert not [word for p in found for words in p["words"] for word in words if "_of_text>" in word]
    assert all(len(p["expressions"]) == 2 for p in found)


def test_a_bank_of_each_scene_is_refused(tested: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tested), "--bank", "scene"]) == 2
    assert "differs from expression to expression" in capsys.readouterr().err
