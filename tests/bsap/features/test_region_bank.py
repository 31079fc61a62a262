"""The region bank: what is drawn, what is encoded, what scorers get of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bsap.cli import main
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.batch import collate
from bsap.datamodules.picture_files import scene_picture
from bsap.demo.dataset import make_demo_root
from bsap.errors import ConfigError, DataError, ModelError
from bsap.features.ensemble import Ensemble
from bsap.features.region_bank import RegionBankConfig, draw_region_bank, load_region_bank
from bsap.models.encoder import Encoder
from bsap.prompts.banks import load_bank
from bsap.runs.saved import read_run
from bsap.scoring import SCORERS
from bsap.sweep.sweep import Sweep, scorer_grid
from bsap.views import make_view


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn world of a few pictures."""
    return make_demo_root(tmp_path_factory.mktemp("world"), sizes={"train": 4, "test": 3})


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("demo")


def data(root: Path, **settings: Any) -> RefCOCODataModule:
    found = RefCOCODataModule(
        str(root), ProposalConfig("ground_truth"), dataset="demo", split_by="drawn", split="test", **settings
    )
    found.setup("test")
    return found


def test_drawing_is_uniform_seeded_and_without_repetition(world: Path) -> None:
    scenes = data(world).load_split("train", unfiltered=True)
    total = sum(len(scene.proposals) for scene in scenes)
    counts: dict[tuple[str, int], int] = {}
    for seed in range(200):
        bank = draw_region_bank(scenes, RegionBankConfig(size=3, seed=seed))
        drawn = [(s.image_id, place) for s, places in zip(bank.scenes, bank.drawn, strict=True) for place in places]
        assert len(bank) == len(set(drawn)) == 3
        for key in drawn:
            counts[key] = counts.get(key, 0) + 1
    assert len(counts) == total
    assert max(counts.values()) < 60  # 200 * 3 / total = 25 is expected
    first, again = (draw_region_bank(scenes, RegionBankConfig(size=3, seed=7)).describe() for _ in range(2))
    assert first == again
    assert first["digest"] != draw_region_bank(scenes, RegionBankConfig(size=3, seed=8)).describe()["digest"]
    whole = draw_region_bank(scenes, RegionBankConfig(size=None))
    assert (len(whole), whole.whole, whole.transductive) == (total, True, False)
    assert draw_region_bank(scenes, RegionBankConfig(size=total + 5)).whole


def test_a_shared_picture_makes_it_transductive(world: Path) -> None:
    found = data(world)
    config = RegionBankConfig("train", size=None)
    scenes = found.load_split("train", unfiltered=True)
    assert not draw_region_bank(scenes, config, tested=found.scenes).transductive
    assert draw_region_bank(scenes, config, tested=[*found.scenes, scenes[2]]).transductive
    assert draw_region_bank(scenes, config, same_split=True).transductive


def test_an_empty_region_bank_is_refused(world: Path) -> None:
    scene = data(world).scenes[0]
    none = replace(scene, proposals=type(scene.proposals)(np.zeros((0, 4), np.float32)))
    with pytest.raises(ConfigError, match="region bank is empty: the split 'train' has 1 pictures and no proposals"):
        draw_region_bank([none], RegionBankConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "`region_bank.size` must be a whole number of at least 1, but got 0"),
        ({"seed": -1}, "`region_bank.seed` must be a whole number"),
        ({"split": ""}, "`region_bank.split` must be the name of a split"),
        ({"splits": "train"}, "`region_bank` takes split, size and seed"),
        ("{split: train, sizes: 3}", "`region_bank` takes split, size and seed"),
        ("[]", "`region_bank` takes split, size and seed"),
        (3, "`region_bank.split` must be the name of a split"),
    ],
)
def test_settings_are_checked(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegionBankConfig.of(settings)


@pytest.mark.parametrize("stored", ["nothing", "pictures", "drawn regions"])
def test_similarities_hold_the_cosines_of_the_drawn_regions(
    world: Path, encoder: Encoder, tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = data(world)
    scenes, bank = found.load_split("train", unfiltered=True), load_bank(["a dog", "a cat"])
    region_bank = draw_region_bank(scenes, RegionBankConfig(size=5))
    settings: dict[str, Any] = {} if stored == "nothing" else {"store": tmp_path}
    if stored != "nothing":
        earlier = Ensemble([encoder], [make_view("crop"), make_view("gray")], **settings)
        if stored == "pictures":
            earlier.regions(collate([(scene, scene_picture(scene)) for scene in scenes]))
        else:
            earlier.fit(None, region_bank)
        earlier.keep()
        earlier.flush()
        monkeypatch.setattr("bsap.datamodules.batch.scene_picture", lambda scene: pytest.fail("opened"))
    ensemble = Ensemble([encoder], [make_view("crop"), make_view("gray")], **settings)
    ensemble.fit(None, region_bank)
    batch = collate([(scene, scene_picture(scene)) for scene in found.scenes[:2]])
    s = ensemble.similarities(batch, bank)
    assert s.region_bank is not None
    assert s.region_pairs is not None
    for n, view in enumerate((make_view("crop"), make_view("gray"))):
        rows = []
        for scene, places in zip(region_bank.scenes, region_bank.drawn, strict=True):
            boxes = torch.from_numpy(scene.proposals.boxes)
            pixels = view.render(
                scene_picture(scene), boxes, encoder.size, interpolation=encoder.interpolation, fill=encoder.fill
            )
            rows.append(encoder.encode_image(pixels)[list(places)])
        others = torch.cat(rows)
        texts = encoder.encode_text(["a photo of a dog", "a photo of a cat"])
        for b, scene in enumerate(batch.scenes):
            asked = encoder.encode_text([f"a photo of {e.text}" for e in scene.expressions])
            torch.testing.assert_close(s.region_bank.query[b, n, : len(asked)], asked @ others.T, atol=1e-5, rtol=0)
            torch.testing.assert_close(s.region_bank.bank[b, n], texts @ others.T, atol=1e-5, rtol=0)
            own = ensemble.regions(batch)[n].split(batch.counts)[b]
            torch.testing.assert_close(s.region_pairs[b, n, :, : len(own)], others @ own.T, atol=1e-5, rtol=0)
    assert s.region_bank.valid is None


def test_regions_of_the_own_picture_do_not_count(world: Path, encoder: Encoder) -> None:
    found = data(world)
    ensemble = Ensemble([encoder], [make_view("crop")])
    region_bank = load_region_bank(found, RegionBankConfig("test", size=None), SCORERS)
    assert region_bank is not None
    assert region_bank.transductive
    ensemble.fit(None, region_bank)
    s = ensemble.similarities(collate([(scene, scene_picture(scene)) for scene in found.scenes]), None)
    assert s.region_bank is not None
    assert s.region_bank.valid is not None
    total = sum(len(scene.proposals) for scene in found.scenes)
    assert s.region_bank.valid.sum(1).tolist() == [total - len(scene.proposals) for scene in found.scenes]


def test_features_that_are_not_finite_are_refused_and_not_stored(
    world: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = Ensemble([encoder], [make_view("crop")], store=tmp_path)
    region_bank = load_region_bank(
        data(world), RegionBankConfig("train", size=2), SCORERS | {"sinkhorn_split": SCORERS["clip"]}
    )
    monkeypatch.setattr(encoder, "encode_image", lambda pixels, **k: torch.full((len(pixels), 128), torch.nan))
    with pytest.raises(ModelError, match="Model 'demo' gives features that are not finite"):
        ensemble.fit(None, region_bank)
    ensemble.flush()
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_is_missing_is_said_before_anything_is_encoded(world: Path) -> None:
    found, config = data(world, limit=3), RegionBankConfig("train", size=4)
    assert load_region_bank(found, config, {"clip": SCORERS["clip"]}) is None
    with pytest.raises(ConfigError, match=r"are needed for dbsn, dual_is\. .* `--model.region_bank train`"):
        load_region_bank(found, None, {name: SCORERS[name] for name in ("clip", "dbsn", "dual_is")})
    for some in (config, RegionBankConfig("test", size=4), RegionBankConfig("train", size=None)):
        with pytest.raises(ConfigError, match=r"needed for sinkhorn_split: set `--model.region_bank.split test`"):
            load_region_bank(found, some, {"sinkhorn_split": SCORERS["sinkhorn_split"]})
    # The filters choose what is tested, not what the bank is drawn from.
    whole = load_region_bank(found, RegionBankConfig("test", size=None), {"dbsn": SCORERS["dbsn"]})
    assert whole is not None
    assert len(whole.scenes) == 3 > len(found.scenes)
    with pytest.raises(ConfigError, match="SceneDataModule has no split 'train' to draw a region bank from"):
        load_region_bank(SceneDataModule(), config, {"dbsn": SCORERS["dbsn"]})


NAMES = ["clip", "sinkhorn", "dbsn", "dual_is", "dual_dis"]


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a region bank, its features stored."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "data": {"root": str(world), "dataset": "demo", "split_by": "drawn", "split": "test", "num_workers": 0,
                 "proposals": {"source": "ground_truth"}},
        "model": {"encoders": ["demo"], "views": ["crop"], "scorers": NAMES, "region_bank": {"size": 6}},
        "run": {"root": str(folder), "name": "run"},
        "trainer": {"accelerator": "cpu"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["test", "-c", str(folder / "config.yaml")]) == 0
    return folder / "run"


def test_results_say_which_regions(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    said = results["protocol"]["region_bank"]
    assert {k: said[k] for k in ("split", "size", "seed", "regions", "transductive")} == {
        "split": "train", "size": 6, "seed": 0, "regions": 6, "transductive": False
    }  # fmt: skip
    assert results["transductive"] is False
    assert set(results["metrics"]["rec"]) == set(NAMES)


def test_a_sweep_takes_the_region_bank_from_the_store(run: Path, world: Path, tmp_path: Path) -> None:
    saved = read_run(run)
    rows = list(Sweep(saved).rows(scorer_grid(NAMES), [saved.settings["model"]["bank"]], ["before"]))
    expected = json.loads((run / "results.json").read_text())["metrics"]["rec"]
    assert {row.scorer: row.metrics for row in rows} == {
        name: {f"rec/{key}": value for key, value in expected[name].items()} for name in NAMES
    }
    saved.settings["model"]["region_bank"]["seed"] = 5
    with pytest.raises(DataError, match=r"region bank are not stored for \d of \d pictures"):
        list(Sweep(saved).rows(scorer_grid(["dbsn"]), ["generic"], ["before"]))


def test_the_split_under_test_is_transductive(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--run.root", str(tmp_path), "--run.name", "r", "--model.scorers", "[clip,sinkhorn_split]"]
    bank = ["--model.region_bank.split", "test", "--model.region_bank.size", "null"]
    assert main(["test", "-c", str(run.parent / "config.yaml"), *where, *bank]) == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    capsys.readouterr()
    assert main(["table", str(tmp_path / "r"), str(run), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    rows = rows if isinstance(rows, list) else rows["rows"]
    marked = {(row["run"], row["scorer"]): "transductive" in row["marks"] for row in rows}
    swept = Sweep(read_run(tmp_path / "r")).rows(scorer_grid(["clip", "sinkhorn_split"]), ["generic"], ["before"])
    assert [row.transductive for row in swept] == [False, True]
    assert marked["r", "sinkhorn_split"]
    assert not marked["r", "clip"]
    assert not any(marked["run", name] for name in NAMES if ("run", name) in marked)
    assert "6 of train" in json.dumps(rows)
    assert results["transductive"]
    assert results["protocol"]["region_bank"]["transductive"]


def test_the_command_line_names_a_missing_region_bank(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--run.root", str(tmp_path), "--model.region_bank", "null"]
    assert main(["test", "-c", str(run.parent / "config.yaml"), *where]) == 2
    assert "Regions of other pictures are needed for dbsn, dual_is, dual_dis." in capsys.readouterr().err


def test_the_command_line_names_a_wrong_setting(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in (
        ("{split: train, size: 0}", "`region_bank.size` must be a whole number of at least 1, but got 0."),
        ("{split: train, sizes: 3}", "`region_bank` takes split, size and seed"),
    ):
        where = ["--run.root", str(tmp_path), "--model.region_bank", given]
        assert main(["test", "-c", str(run.parent / "config.yaml"), *where]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
