"""`bsap test` with models of transformers, on drawn scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bsap.cli import main

pytest.importorskip("transformers")
from bsap.models.transformers_encoder import BLIPPairScorer

SETTINGS: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip2": {},
    "blip": {"mode": "itc", "tau": 20.0},
    "blip-itm": {"mode": "itm"},
}


def write(drawn: dict[str, Any], folder: Path, encoder: dict[str, Any], **model: Any) -> list[str]:
    config = drawn | {
        "data": drawn["data"] | {"limit": 12},
        "model": drawn["model"] | {"encoders": [encoder], "bank": "generic", **model},
        "run": {"root": str(folder), "name": "run"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return ["test", "-c", str(folder / "run.yaml")]


@pytest.mark.parametrize("family", SETTINGS)
def test_a_run_with_each_kind_of_model(
    family: str, tiny_model: Any, drawn: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_model(family.partition("-")[0])
    encoder = {"name": f"hf:{folder}", **SETTINGS[family]}
    assert main(write(drawn, tmp_path, encoder)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (model,) = results["models"]
    assert results["counts"]["seen"] == 12
    assert model["name"] == f"hf:{folder}"
    assert model["tau"] == (1.0 if family == "blip-itm" else 20.0 if family == "blip" else pytest.approx(20.0855, 1e-4))
    printed = capsys.readouterr().err
    assert ("pairs of region and text to score" in printed) == (family == "blip-itm")
    assert main(["score", str(tmp_path / "run")]) == 0


def test_pairs_are_stored_and_give_the_same_run_again(
    tiny_model: Any, drawn: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = {"name": f"hf:{tiny_model('blip')}", "mode": "itm"}
    argv = write(drawn, tmp_path, encoder, store=str(tmp_path / "store"))
    assert main(argv) == 0
    first = (tmp_path / "run" / "predictions.jsonl").read_text()
    monkeypatch.setattr(BLIPPairScorer, "score", lambda self, states, texts: pytest.fail("a pair was scored again"))
    assert main([*argv, "--run.overwrite", "true"]) == 0
    assert (tmp_path / "run" / "predictions.jsonl").read_text() == first


def test_features_that_overflow_are_one_clear_error(
    tiny_model: Any, drawn: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "loud"
    shutil.copytree(tiny_model("clip"), folder)
    state = load_file(folder / "model.safetensors")
    state["visual_projection.weight"] = torch.full_like(state["visual_projection.weight"], 3e38)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    argv = write(drawn, tmp_path, {"name": f"hf:{folder}"})
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert "Model 'loud' gives features that are not finite" in message
    assert "32-true" in message
    assert "Traceback" not in message
