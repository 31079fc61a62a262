"""What may not survive from one test to the next: half-counted metrics, finished scenes, other precision's features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from bsap import BSAPModule, EncoderConfig, ProposalConfig, RefCOCODataModule, RunConfig
from bsap.cli import main
from bsap.features.cache import FeatureCache
from support.planted import Planted


def trainer(**settings: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, **quiet, **settings)


def module(planted: Planted, **settings: Any) -> BSAPModule:
    encoder = EncoderConfig(f"local-dir:{planted.model}")
    defaults: dict[str, Any] = {
        "encoders": [encoder], "views": ["crop"], "scorers": ["clip"], "run": None, "store": None
    }  # fmt: skip
    return BSAPModule(**{**defaults, **settings})


def data(planted: Planted) -> RefCOCODataModule:
    return RefCOCODataModule(str(planted.root), ProposalConfig("masks", path=str(planted.proposals)), num_workers=0)


def count(model: BSAPModule) -> float:
    return model.results["rec"]["clip"]["n"]


def test_an_interrupted_test_leaves_nothing_counted(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    model = module(planted)
    scenes = data(planted)
    scenes.batch_size = 1
    step = BSAPModule.test_step

    def fail(self: BSAPModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            raise RuntimeError("planted")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(BSAPModule, "test_step", fail)
    with pytest.raises(RuntimeError, match="planted"):
        trainer().test(model, scenes, verbose=False)
    monkeypatch.setattr(BSAPModule, "test_step", step)
    trainer().test(model, scenes, verbose=False)
    assert count(model) == 8


def test_a_finished_run_does_not_empty_the_data_module(planted: Planted, tmp_path: Path) -> None:
    scenes = data(planted)
    run = RunConfig(root=str(tmp_path), name="r")
    for _ in range(2):  # the second only reads what is done
        trainer().test(module(planted, run=run), scenes, verbose=False)
    model = module(planted)
    trainer().test(model, scenes, verbose=False)
    assert count(model) == 8


def test_another_precision_finds_no_features(planted: Planted, tmp_path: Path) -> None:
    model = module(planted, store=str(tmp_path / "features"))
    stored = []
    for precision in ("32-true", "bf16-mixed"):
        trainer(precision=precision).test(model, data(planted), verbose=False)
        assert model.ensemble is not None
        assert model.ensemble.cache is not None
        assert model.ensemble.cache.precision == precision
        stored.append(len(model.ensemble.cache.store))
    assert stored[1] == 2 * stored[0]


def test_a_model_without_a_store_opens_the_pictures_of_one_with(planted: Planted, tmp_path: Path) -> None:
    scenes = data(planted)
    for _ in range(2):
        trainer().test(module(planted, store=str(tmp_path / "features")), scenes, verbose=False)
    model = module(planted)
    trainer().test(model, scenes, verbose=False)
    assert count(model) == 8


def test_an_edited_bank_is_another_run(planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = tmp_path / "mine.yaml"
    bank.write_text("{name: mine, source: a test, prompts: [white]}")
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(planted.config(run={"root": str(tmp_path), "name": "r"}, model={"bank": str(bank)}))
    )
    assert main(["test", "-c", str(config)]) == 0
    bank.write_text("{name: mine, source: a test, prompts: [red]}")
    assert main(["test", "-c", str(config)]) == 2
    assert "bank" in capsys.readouterr().err


def test_corrected_annotations_are_another_run(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    root = tmp_path / "root"
    shutil.copytree(planted.root, root)
    config = tmp_path / "run.yaml"
    settings = planted.config(run={"root": str(tmp_path), "name": "r"}, data={"root": str(root)})
    config.write_text(yaml.safe_dump(settings))
    assert main(["test", "-c", str(config)]) == 0
    file = root / "refcoco" / "instances.json"
    instances = json.loads(file.read_text())
    instances["annotations"][0]["bbox"][2] -= 1
    file.write_text(json.dumps(instances))
    assert main(["test", "-c", str(config)]) == 2
    assert "expressions" in capsys.readouterr().err


def test_another_architecture_finds_no_features(planted: Planted, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(planted.model, folder)
    keys = []
    for heads in (1, 2):
        file = folder / "open_clip_config.json"
        settings = json.loads(file.read_text())
        settings["model_cfg"]["text_cfg"]["heads"] = heads
        file.write_text(json.dumps(settings))
        model = BSAPModule(
            encoders=[{"name": f"local-dir:{folder}"}], views=["crop"], run=None, store=str(tmp_path / "f")
        )
        model.configure_model()
        assert model.ensemble is not None
        assert model.ensemble.cache is not None
        keys.append(model.ensemble.cache.text_key("red", model.members[0].encoder))
    assert keys[0] != keys[1]


def test_a_run_that_failed_before_its_first_record_can_be_mended(planted: Planted, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(planted.config(run={"root": str(tmp_path), "name": "r"})))
    assert main(["test", "-c", str(config), "--model.encoders", "[{name: 'local-dir:/nowhere'}]"]) == 2
    assert main(["test", "-c", str(config)]) == 0


def test_both_towers_run_in_the_precision_of_the_trainer(planted: Planted, tmp_path: Path) -> None:
    seen = []
    model = module(planted, encoders=[EncoderConfig("demo")], store=None)
    model.configure_model()
    encoder: Any = model.encoders[0]
    for name, tower in (("image", encoder.model.visual.transformer), ("text", encoder.model.transformer)):
        tower.resblocks[0].mlp.register_forward_hook(lambda m, x, y, name=name: seen.append((name, y.dtype)))
    trainer(precision="bf16-mixed").test(model, data(planted), verbose=False)
    assert set(seen) == {("image", torch.bfloat16), ("text", torch.bfloat16)}


def test_a_sweep_before_a_run_changes_nothing(planted: Planted, tmp_path: Path) -> None:
    """Texts that a sweep has stored are those that the run would have made, in mixed precision too."""
    config = planted.config(
        run={"root": str(tmp_path), "name": "first"},
        model={"store": "auto", "encoders": [{"name": "demo"}]},
        trainer={"precision": "bf16-mixed"},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    start = ["test", "-c", str(tmp_path / "config.yaml")]
    assert main(start) == 0
    assert main(["sweep", str(tmp_path / "first"), "--banks", "generic"]) == 0
    flags = ["--model.bank", "generic", "--run.name"]
    assert main([*start, *flags, "after"]) == 0
    assert main([*start, *flags, "without", "--model.store", "null"]) == 0
    after, without = ((tmp_path / name / "predictions.jsonl").read_text() for name in ("after", "without"))
    assert after == without


def test_the_annotated_size_is_part_of_a_key(planted: Planted, tmp_path: Path) -> None:
    """It decides whether a picture is turned as its EXIF data say."""
    scenes = data(planted)
    scenes.setup("test")
    scene = scenes.scenes[0]
    turned = replace(scene, width=scene.height, height=scene.width)
    cache = FeatureCache(tmp_path, precision="32-true", resize="squash")
    encoder: Any = module(planted, encoders=[EncoderConfig("demo")])
    encoder.configure_model()
    member = encoder.members[0]
    keys = {cache.region_key(each, member.encoder, member.view, 16) for each in (scene, turned)}
    assert len(keys) == 2
