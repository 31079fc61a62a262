"""`bsap bias` on a run over the planted world, whose cosines are known by hand."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsap.analysis.bias import Bias, Changes, measure_bias
from bsap.analysis.comparison import read_records
from bsap.cli import main
from bsap.runs.saved import read_run


@pytest.fixture(scope="module")
def stored(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose features are stored."""
    root = tmp_path_factory.mktemp("biased")
    config = planted.config(run={"root": str(root), "name": "run"}, model={"store": "auto"})
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(root / "config.yaml")]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def bias(stored: Path) -> Bias:
    return measure_bias(read_run(stored))


def test_what_was_measured(bias: Bias) -> None:
    assert bias.texts == 7, "two expressions have the same text"
    assert (bias.regions, bias.pictures) == (7, 3), "the picture without proposals has nothing to prefer"
    assert list(bias.scorers) == ["clip", "bsap", "bsap_h"]


def test_similarities_are_those_of_the_planted_features(bias: Bias) -> None:
    """The bank is the one prompt `white`: cosine 1 with white, 1/3 with sky, -1/3 with single primaries."""
    cosines = [-1 / 3, -1 / 3, -1 / 3, 1, -1 / 3, -1 / 3, 1 / 3]
    assert bias.similarity["bank"]["mean"] == pytest.approx(sum(cosines) / 7, abs=1e-5)
    assert bias.similarity["bank"]["spread"] == bias.similarity["bank"]["range"] == 0, "one prompt has no spread"
    assert bias.similarity["split"]["range"] > 1


def test_every_region(stored: Path, tmp_path: Path, bias: Bias) -> None:
    """Regions of one colour, so that cosines with the texts `red`, `blue`, ... are those of corners of a cube."""
    file = tmp_path / "regions.csv"
    assert main(["bias", str(stored), "--regions", str(file)]) == 0
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    cosines = [-1 / 3, -1 / 3, -1 / 3, 1, -1 / 3, -1 / 3, 1 / 3]
    found = sorted(float(row["bank.mean"]) for row in rows)
    assert found == pytest.approx(sorted(cosines), abs=1e-5), "as in the test above"
    assert sum(int(row["clip.best"]) for row in rows) == bias.texts * bias.pictures
    for one, other in zip(rows, bias.by_region, strict=True):
        assert float(one["bsap.range"]) == other["bsap.range"]
    for row in rows:
        assert float(row["bsap.range"]) == pytest.approx(10 * float(row["clip.range"]), rel=1e-4), (
            "BSAP moves all scores of a region by one constant"
        )


def test_wrong_choices_by_hand(bias: Bias) -> None:
    """Of 7 expressions with regions CLIP gets 2 wrong, BSAP 1, as in the tests of `bsap show`."""
    clip, bsap = bias.scorers["clip"], bias.scorers["bsap"]
    assert clip.wrong == pytest.approx(2 / 7)
    assert bsap.wrong == pytest.approx(1 / 7)
    assert clip.wrong_by_chance == clip.wrong_on_popular, "each of the wrong choices had one wrong region to fall on"


def test_wins_and_losses_by_the_place_of_clip_s_choice(stored: Path, bias: Bias) -> None:
    """By a plain loop over the predictions; BSAP's one win is over the most popular region, a white one."""
    records = [json.loads(line) for line in (stored / "predictions.jsonl").read_text().splitlines()]
    popular = {}
    for row in sorted(bias.by_region, key=lambda row: row["popularity"]):
        popular[row["image_id"]] = row["region"]
    expected = {True: [0, 0, 0, 0], False: [0, 0, 0, 0]}
    for record in records:
        clip, bsap = (record["scorers"][name] for name in ("clip", "bsap"))
        if clip["region"] is not None:
            was, now = clip["box_iou"] >= 0.5, bsap["box_iou"] >= 0.5
            counts = [1, was, now and not was, was and not now]
            place = expected[clip["region"] == popular[record["image_id"]]]
            place[:] = [a + b for a, b in zip(place, counts, strict=True)]
    found = bias.scorers["bsap"]
    assert list(astuple(found.popular_changed)) == expected[True]
    assert list(astuple(found.others_changed)) == expected[False]
    assert (found.popular_changed.wins, found.popular_changed.losses) == (1, 0)
    assert bias.scorers["clip"].popular_changed.choices == 0


def test_without_clip_in_the_run_nothing_is_said_of_its_choices(stored: Path, bias: Bias) -> None:
    run = read_run(stored)
    records = read_records(run)
    for record in records:
        del record["scorers"]["clip"]
    found = measure_bias(run, records=records).scorers["bsap"]
    assert found.wrong == bias.scorers["bsap"].wrong
    assert found.popular_changed == found.others_changed == Changes()


def test_the_scorer_takes_from_what_the_bank_likes(bias: Bias) -> None:
    assert str(bias.scorers["clip"].correction) == "nan", "nothing is corrected"
    assert bias.scorers["bsap"].popularity_share != bias.scorers["clip"].popularity_share


def test_the_command(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bias: Bias) -> None:
    assert main(["bias", str(stored)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| run | scorer | popularity share | range variation |")
    assert lines[2].startswith(f"| run | clip | {100 * bias.scorers['clip'].popularity_share:.1f} |")
    assert any(line.startswith("| run | background | area |") for line in lines)
    assert any(line.endswith("| modality gap |") for line in lines)
    assert main(["bias", str(stored), "--format", "json", "--output", str(tmp_path / "bias.json")]) == 0
    found = json.loads((tmp_path / "bias.json").read_text())["run"]
    assert found["scorers"]["bsap"]["wrong"] == bias.scorers["bsap"].wrong
    assert found["scorers"]["clip"]["correction"] is None


def test_fewer_texts(stored: Path) -> None:
    assert measure_bias(read_run(stored), texts=3).texts == 3


def test_a_run_without_a_store(planted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = planted.config(run={"root": str(tmp_path), "name": "run"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    assert main(["bias", str(tmp_path / "run")]) == 2
    assert "kept no features: run it again with `--model.store auto --run.overwrite true`" in capsys.readouterr().err


def test_features_that_are_gone(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(stored, tmp_path / "run")
    assert main(["bias", str(tmp_path / "run")]) == 2
    assert "bsap test" in capsys.readouterr().err
