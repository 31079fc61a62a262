"""The shipped protocols, through the command line: what they set, and that later files and flags win."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsap.cli import main
from bsap.views import GlobalLocal, make_view
from support.planted import Planted

PROTOCOLS = ["default", "reclip", "ref_l4", "zero_shot_ris"]


@pytest.fixture(scope="module")
def wordy(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted root, where a sentence as typed is not the cleaned sentence."""
    root = tmp_path_factory.mktemp("wordy") / "root"
    shutil.copytree(planted.root, root, ignore=shutil.ignore_patterns("model"))
    path = root / "refcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    for ref in refs:
        for sentence in ref["sentences"]:
            sentence["raw"] = f"{sentence['sent'].upper()}, Please"
    path.write_bytes(pickle.dumps(refs, protocol=2))
    return root


@pytest.fixture
def mine(planted: Planted, wordy: Path, tmp_path: Path) -> Path:
    """A user's own file: the data, the regions and a model at hand, and nothing that a protocol sets."""
    config = planted.config(data={"root": str(wordy)}, run={"root": str(tmp_path), "name": "run"})
    model = config["model"]
    config["model"] = {key: model[key] for key in ("encoders", "bank", "store")}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def evaluate(mine: Path, *args: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results and predictions of a test run."""
    assert main(["test", *args]) == 0
    folder = mine.parent / "run"
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), records


def resolved(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The configuration that a test run would have."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(["test", *args, "--print_config"])
    assert exit.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


NEEDED = ("--data.root", "x", "--data.proposals.source", "detections", "--data.proposals.path", "y")


def test_the_default_is_what_leaving_it_out_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert resolved(capsys, "-c", "bsap:protocols/default.yaml", *NEEDED) == resolved(capsys, *NEEDED)


def test_reclip_sets_its_protocol(mine: Path) -> None:
    results, records = evaluate(mine, "-c", "bsap:protocols/reclip.yaml", "-c", str(mine))
    protocol = results["protocol"]
    assert protocol["hit"] == "IoU > 0.5"
    assert protocol["views"] == ["crop", "blur"]
    assert protocol["templates"] == {"query": "a photo of {}", "bank": "a photo of {}"}
    assert (protocol["tasks"], protocol["resize"], protocol["aggregate"]) == (["rec"], "squash", "before")
    assert protocol["proposals"]["empty"] == "whole_image"
    assert protocol["proposals"]["source"] == "detections"
    assert results["settings"]["data"]["text"] == "raw"
    assert results["settings"]["data"]["lowercase"] is True
    assert records[1]["text"] == "the red one, please"
    assert [record["n_regions"] for record in records] == [3, 3, 3, 2, 1, 2, 2, 2]
    assert records[4]["status"] == "ok"
    assert records[4]["scorers"]["clip"]["box"] == [0, 0, 30, 30], "the whole picture"
    assert results["counts"]["no_proposals"] == 0


def test_reclip_names_its_two_models(capsys: pytest.CaptureFixture[str]) -> None:
    config = resolved(capsys, "-c", "bsap:protocols/reclip.yaml", *NEEDED)
    encoders = [(encoder["name"], encoder["pretrained"]) for encoder in config["model"]["encoders"]]
    assert encoders == [("RN50x16-quickgelu", "openai"), ("ViT-B-32-quickgelu", "openai")]


def test_zero_shot_ris_skips_pictures_without_regions(mine: Path) -> None:
    config = yaml.safe_load(mine.read_text())
    protocol = yaml.safe_load((Path(__file__).parents[3] / "configs" / "protocols" / "zero_shot_ris.yaml").read_text())
    # The planted model has no blocks to fade tokens in; another encoder brings its own preprocessing.
    config["model"]["views"] = ["masked_crop"]
    config["model"]["encoders"][0]["preprocess"] = protocol["model"]["encoders"][0]["preprocess"]
    mine.write_text(yaml.safe_dump(config))
    results, records = evaluate(mine, "-c", "bsap:protocols/zero_shot_ris.yaml", "-c", str(mine))
    assert list(results["metrics"]) == ["ris"]
    assert len(records) == 7
    assert all(record["n_regions"] for record in records)
    assert (results["counts"]["skipped"], results["partial"], results["complete"]) == (1, True, False)
    assert results["protocol"]["templates"] == {"query": "{}", "bank": "{}"}
    assert results["protocol"]["views"] == ["masked_crop"]
    assert results["models"][0]["std"] == [0.229, 0.224, 0.225]
    assert results["models"][0]["interpolation"] == "bilinear"


def test_zero_shot_ris_normalises_as_its_authors_do(capsys: pytest.CaptureFixture[str]) -> None:
    (encoder,) = resolved(capsys, "-c", "bsap:protocols/zero_shot_ris.yaml", *NEEDED)["model"]["encoders"]
    assert encoder["name"] == "ViT-B-32-quickgelu"
    assert encoder["preprocess"] == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
    }


def test_zero_shot_ris_draws_as_its_authors_do(capsys: pytest.CaptureFixture[str]) -> None:
    (view,) = resolved(capsys, "-c", "bsap:protocols/zero_shot_ris.yaml", *NEEDED)["model"]["views"]
    made = make_view(view)
    assert made == GlobalLocal(v=0.95, block=9, background="published", resampling="published")


def test_later_files_and_flags_win(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load(mine.read_text())
    config["model"] |= {"strict": False, "views": ["crop"]}
    config["data"]["proposals"]["empty"] = "miss"
    mine.write_text(yaml.safe_dump(config))
    protocol = ("-c", "bsap:protocols/reclip.yaml")
    later = resolved(capsys, *protocol, "-c", str(mine))
    assert (later["model"]["strict"], later["model"]["views"]) == (False, ["crop"])
    assert later["data"]["proposals"]["empty"] == "miss"
    assert later["data"]["text"] == "raw", "what the later file does not say stays"
    earlier = resolved(capsys, "-c", str(mine), *protocol)
    assert (earlier["model"]["strict"], earlier["model"]["views"]) == (True, ["crop", "blur"])
    assert earlier["data"]["proposals"]["empty"] == "whole_image"
    assert earlier["data"]["proposals"]["path"] == config["data"]["proposals"]["path"]
    results, _ = evaluate(mine, *protocol, "-c", str(mine), "--model.strict", "true", "--data.lowercase", "false")
    assert results["protocol"]["hit"] == "IoU > 0.5"
    assert results["settings"]["data"]["lowercase"] is False
    assert results["settings"]["model"]["views"] == ["crop"]


def test_clip_chooses_alike_by_mean_and_by_sum(mine: Path) -> None:
    protocol = ("-c", "bsap:protocols/reclip.yaml", "-c", str(mine))
    choices = []
    for aggregate in ("before", "sum"):
        _, records = evaluate(mine, *protocol, "--model.aggregate", aggregate, "--run.overwrite", "true")
        choices.append([record["scorers"]["clip"]["region"] for record in records])
    assert choices[0] == choices[1]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_protocol_chooses_the_regions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["test", "-c", f"bsap:protocols/{name}.yaml", "--data.root", "x"])
    assert exit.value.code == 2
    assert "source" in capsys.readouterr().err


def test_an_unknown_protocol_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "-c", "bsap:protocols/recllip.yaml"]) == 2
    assert "Did you mean 'protocols/reclip.yaml'" in capsys.readouterr().err
