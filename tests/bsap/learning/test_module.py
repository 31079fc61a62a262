"""Learning from end to end: what trains, what is saved, what stops it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from safetensors.torch import load_file, save_file

from bsap.cli import main
from bsap.datamodules import RefCOCODataModule
from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.scene import Expression, Proposals, Referent, Scene
from bsap.errors import DataError
from bsap.features.ensemble import Ensemble
from bsap.learning import LearningDataModule, PromptConfig, PromptLearner, TextConfig
from bsap.learning.scene_features import stored_regions
from bsap.models.encoder import Encoder
from bsap.prompts.templates import Templates
from bsap.runs.settings import RunConfig
from bsap.views import make_view

Fit = Callable[..., int]


def learner(model: dict[str, Any], **changes: Any) -> PromptLearner:
    prompts = PromptConfig(**model["prompts"])
    return PromptLearner(**{**model, "prompts": prompts, "run": None, **changes})


def trainer(folder: Path, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    plain = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "default_root_dir": folder}
    return Trainer(**{**quiet, **plain, **settings})  # type: ignore[arg-type]


def bank(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_file(folder / "bank" / "bank.safetensors"), json.loads((folder / "bank" / "bank.json").read_text())


def commands(printed: str) -> list[list[str]]:
    """The words of each printed command, without the first."""
    return [shlex.split(line)[1:] for line in printed.splitlines() if line.startswith("  bsap test ")]


@pytest.mark.parametrize(
    ("changes", "learns"),
    [
        ({}, {"prompts.context"}),
        (
            {"learn_tau": True, "templates": Templates("the {}", "{}")},
            {"prompts.context", "log_tau"},
        ),
        ({"scorer": "bsap_h", "learn_lam": True}, {"prompts.context", "lam_logit"}),
    ],
)
def test_only_what_should_learn_has_gradients(
    data: dict[str, Any], model: dict[str, Any], tmp_path: Path, changes: dict[str, Any], learns: set[str]
) -> None:
    module = learner(model, **changes)
    graded: set[str] = set()

    class Watch(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            graded.update(n for n, p in pl_module.learner.named_parameters() if p.grad is not None and p.grad.any())
            assert all(p.grad is None for p in pl_module.encoder.parameters())

    before = Encoder("demo").model.transformer.state_dict()
    fitter = trainer(tmp_path, callbacks=[Watch()], enable_checkpointing=True)
    fitter.fit(module, datamodule=LearningDataModule(**data))
    assert graded == learns
    assert {name.removeprefix("learner.") for name, _ in module.named_parameters()} == learns
    after = module.encoder.model.transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    fitter.save_checkpoint(tmp_path / "c.ckpt")
    state = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {f"learner.{name}" for name in learns} | {"learner.prompts.lengths"}, "nothing of CLIP's"
    assert (tmp_path / "c.ckpt").stat().st_size < 100_000


def test_learning_learns(data: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    class Losses(Callback):
        found: list[float]

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.found = [*getattr(self, "found", []), float(trainer.callback_metrics["train/loss"])]

    losses = Losses()
    fitter = trainer(tmp_path, max_epochs=15, callbacks=[losses], enable_checkpointing=False)
    fitter.fit(learner(model), datamodule=LearningDataModule(**data))
    assert losses.found[-1] < losses.found[0] - 0.02


def test_a_bank_saved_loaded_and_tested_twice(
    fit: Fit, data: dict[str, Any], model: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed command works as it stands, and its accuracy on val is the one that training saw."""
    assert fit() == 0
    printed = capsys.readouterr().out
    tensors, meta = bank(tmp_path / "run")
    assert tensors["features"].shape == (3, 128)
    assert tensors["context"].shape == (3, 3, 96)
    assert meta["seed"] == 0
    assert meta["data"]["train_split"] == "train"
    assert set(meta["sources"]) == {"train", "val"}
    words = [word.replace("TEST_SPLIT", "val") for word in commands(printed)[0]]
    results = []
    for name in ("one", "two"):
        flags = ["--run.root", str(tmp_path), "--run.name", name, "--model.store", model["store"]]
        assert main([*words, *flags, "--trainer.accelerator", "cpu"]) == 0
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["metrics"]["rec"]["bsap"]["acc@0.5"] == pytest.approx(meta["val"], abs=1e-6)
    assert main(["sweep", str(tmp_path / "one"), "--banks", f"learned:{tmp_path / 'run' / 'bank'}", "generic"]) == 0
    rows = json.loads((tmp_path / "one" / "sweep" / "sweep.json").read_text())["rows"]
    (row,) = [r for r in rows if r["scorer"] == "bsap" and str(r["bank"]).startswith("learned")]
    assert row["metrics"]["rec/acc@0.5"] == results[0]["metrics"]["rec"]["bsap"]["acc@0.5"]

    # another model: the same architecture with one weight changed
    other = tmp_path / "other"
    shutil.copytree(Path(Encoder("demo").weights_file or "").parent, other)
    state = load_file(other / "open_clip_model.safetensors")
    state["text_projection"][0, 0] += 1
    save_file(state, other / "open_clip_model.safetensors")
    flags = ["--run.root", str(tmp_path), "--run.name", "three", "--trainer.accelerator", "cpu"]
    capsys.readouterr()
    assert main([*words, *flags, "--model.encoders", json.dumps([{"name": f"local-dir:{other}"}])]) == 2
    assert "was learned with model 'demo'" in capsys.readouterr().err


def test_learned_tau_and_lam_are_part_of_the_printed_command(
    fit: Fit, model: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"scorer": "bsap_h", "learn_tau": True, "learn_lam": True, "resize": "longest"}
    assert fit("--model.lr", "0.05", model_=changes) == 0
    meta = bank(tmp_path / "run")[1]
    assert set(meta["learned"]) == {"tau", "lam"}
    assert abs(meta["learned"]["lam"] - 0.5) > 1e-3
    assert abs(meta["learned"]["tau"] - meta["model"]["tau"]) > 1e-2
    (words,) = commands(capsys.readouterr().out)
    flags = ["--run.root", str(tmp_path), "--run.name", "test", "--trainer.accelerator", "cpu", "--data.split", "val"]
    assert main([*words, *flags, "--model.store", model["store"]]) == 0
    results = json.loads((tmp_path / "test" / "results.json").read_text())
    assert results["protocol"]["resize"] == "longest"
    (name,) = set(results["metrics"]["rec"]) - {"clip"}
    assert results["metrics"]["rec"][name]["acc@0.5"] == pytest.approx(meta["val"], abs=1e-6)
    flags += ["--run.overwrite", "true", "--model.store", model["store"], "--model.scorers", '["clip", "bsap_h"]']
    with pytest.warns(UserWarning, match="was learned with a tau or lam of its own, which no scorer of this run uses"):
        assert main([*words, *flags]) == 0


def test_the_same_seed_gives_the_same_bank_and_another_seed_another(fit: Fit, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert fit("--seed_everything", str(seed), name=name) == 0
    a, b, c = (bank(tmp_path / name)[0]["features"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_resuming_goes_where_it_would_have_gone(data: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    class Die(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    def train(name: str, ckpt: Path | None = None, **settings: Any) -> torch.Tensor:
        torch.manual_seed(0)
        module = learner(model, run=RunConfig(root=str(tmp_path), name=name))
        trainer(tmp_path, max_epochs=4, **settings).fit(module, datamodule=LearningDataModule(**data), ckpt_path=ckpt)
        saved = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["epoch"] == 3
        context: torch.Tensor = saved["state_dict"]["learner.prompts.context"]
        return context

    whole = train("whole")
    assert len(json.loads((tmp_path / "whole" / "history.json").read_text())) == 4
    with pytest.raises(RuntimeError, match="power cut"):
        train("broken", callbacks=[Die()])
    torch.testing.assert_close(train("broken", tmp_path / "broken" / "checkpoints" / "last.ckpt"), whole)
    history = json.loads((tmp_path / "broken" / "history.json").read_text())
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]


def test_a_run_folder_is_not_written_over(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    assert fit() == 2
    assert "Continue it with `--ckpt_path last`" in capsys.readouterr().err
    assert fit("--model.lr", "0.5") == 2
    assert "model.lr: 0.01 -> 0.5" in capsys.readouterr().err
    assert fit("--model.lr", "0.5", "--run.overwrite", "true") == 0


def test_a_run_is_continued_from_its_own_checkpoint_and_from_no_other_pickle(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    assert fit() == 0
    assert fit("--ckpt_path", "last") == 0
    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    capsys.readouterr()
    assert fit("--ckpt_path", str(tmp_path / "evil.ckpt")) == 2
    assert "evil.ckpt is no checkpoint that `bsap fit` wrote. Name another one." in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_missing_features_say_how_to_store_them(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proposals = {"source": "detections", "path": "demo/detections.json", "min_score": 0.1, "top_k": 5}
    given: Any = {"data_": {"proposals": proposals, "max_words": 6}, "precision": "bf16-mixed"}
    given["model_"] = {"features": "stored", "store": str(tmp_path / "empty")}
    assert fit(**given) == 2
    message = capsys.readouterr().err
    assert "10 of 10 train pictures are not stored for model 'demo'" in message
    assert "Add `--model.features pictures`" in message
    assert fit("--model.features", "pictures", **given, name="encode") == 0
    monkeypatch.setattr("bsap.datamodules.batch.scene_picture", None)
    assert fit(**given) == 0


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_number_that_is_not_finite_stops(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """In training the second batch sees it; with one batch an epoch validation is the first to see it."""
    flags = ["--model.learn_tau", "true"] if where == "training" else ["--data.batch_size", "64"]
    assert fit("--model.lr", "1e30", *flags) == 2
    message = capsys.readouterr().err
    assert "bsap: Training stopped:" in message
    assert "is not finite at step 1, learning rate" in message
    assert "batch drawn_" in message
    if where == "training":
        assert "learning rate 9.33013e+29" in message, "the cosine's value at this step"
    assert not (tmp_path / "run" / "bank").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "clip"}, "uses no bank, so there is nothing to learn"),
        ({"scorer": "dbsn"}, "needs regions of other pictures, which learning does not use"),
        ({"learn_lam": True}, "has no weight `lam`"),
        ({"encoders": ["hf:openai/clip-vit-base-patch32"]}, "learned for models of open_clip, but 'hf:openai/clip"),
        ({"encoders": [{"name": "demo"}, {"name": "demo"}]}, "one model at a time, but `encoders` lists 2"),
        ({"prompts": {"length": 30}}, "30 context tokens do not fit"),
        ({"prompts": {"noise": -1.0}}, "`model.prompts.noise` must be a number of at least 0, but got -1.0"),
        ({"lr": -1.0}, "`model.lr` must be a number greater than 0, but got -1.0"),
        ({"weight_decay": -1.0}, "`model.weight_decay` must be a number of at least 0"),
        ({"text": {"regions": 0}}, "`model.text.regions` must be a number of at least 2"),
        ({"text": {"gap": "regionz"}}, "Did you mean 'regions'?"),
    ],
)
def test_wrong_settings(fit: Fit, capsys: pytest.CaptureFixture[str], changes: Any, message: str) -> None:
    assert fit(model_=changes) == 2
    assert message in capsys.readouterr().err


def test_other_text_towers_are_refused_before_a_picture_is_encoded(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsap.learning.context.text_tower", lambda model: None)
    monkeypatch.setattr("bsap.learning.examples.Examples.read", lambda *a, **k: pytest.fail("features were read"))
    assert fit(model_={"features": "pictures"}) == 2
    assert "causal text transformers only" in capsys.readouterr().err


def test_mixed_precision(fit: Fit, tmp_path: Path) -> None:
    assert fit(precision="bf16-mixed") == 0
    tensors, meta = bank(tmp_path / "run")
    assert meta["precision"] == "bf16-mixed"
    assert tensors["features"].dtype == torch.float32
    torch.testing.assert_close(tensors["features"].norm(dim=1), torch.ones(3))


def test_text_alone(data: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    """With the gap ignored, the bank's own answer to the gap is next to nothing; without it, it is not."""
    found = {}
    for gap in ("regions", "none"):
        module = learner(model, text=TextConfig(regions=4, gap=gap, mu=1e6))
        items = LearningDataModule(**data, text_only=True, gap_expressions=40 if gap == "regions" else 0)
        trainer(tmp_path, enable_checkpointing=False).fit(module, datamodule=items)
        found[gap] = module.learned_bank()[0]["features"]
        if gap == "regions":
            encoder = Encoder("demo")
            texts_ = [t for s in items.train_texts for g in s.referents for t in g]
            ensemble = Ensemble([encoder], [make_view("crop")], store=Path(model["store"]))
            seen = stored_regions(items.gap_scenes, ensemble, stage="gap")
            texts = encoder.encode_text([f"a photo of {text}" for text in texts_])
            direction = torch.cat([rows[0] for rows in seen.values()]).mean(0) - texts.mean(0)
    assert float((found["regions"] @ direction).abs().max()) < 1e-3
    assert float((found["none"] @ direction).abs().max()) > 1e-2


def test_a_text_file_learns_without_any_data_set(fit: Fit, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"the {c} {n}\n" for c in ("red", "blue", "green") for n in ("cup", "bird", "dog", "car")))
    gone = {"root": "", "proposals": None, "text_file": str(file)}
    assert fit(data_=gone, model_={"text": {"regions": 4, "gap": "none"}}) == 0
    _, meta = bank(tmp_path / "run")
    assert meta["text_only"] is True
    assert meta["projector"] is False


def test_a_gap_without_regions(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(data_={"text_only": True}, model_={"text": {"gap": "regions"}}) == 2
    assert "Set `data.gap_expressions`" in capsys.readouterr().err


class Own(SceneDataModule):
    """A data module of a user's own: scenes made in Python, with the numbers of their regions as texts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(batch_size=2)
        self.folder = folder

    def setup(self, stage: str) -> None:
        self.train_scenes = [self.scene(f"train{n}", n) for n in range(6)]
        self.val_scenes = [self.scene(f"val{n}", n) for n in range(3)]
        self.scenes = [self.scene(f"test{n}", n) for n in range(3)]
        self.texts = [text for scene in self.scenes for text in scene.texts]

    def scene(self, name: str, number: int) -> Scene:
        path = self.folder / f"{name}.png"
        if not path.exists():
            noise = np.random.default_rng(number).integers(0, 255, (32, 48, 3), np.uint8)
            Image.fromarray(noise).save(path)
        boxes = np.array([[0, 0, 16, 32], [16, 0, 32, 32], [32, 0, 48, 32]], np.float32)
        target = Referent(f"{name}-1", ("1",), boxes[1:2], (None,))
        texts = ("the middle", "second of three")
        expressions = tuple(Expression(f"{name}/{i}", i, text, target) for i, text in enumerate(texts))
        return Scene(name, path, 48, 32, Proposals(boxes), expressions, texts)


def test_a_data_module_of_ones_own(model: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    module = learner(model, run=RunConfig(root=str(tmp_path), name="own"), store=None)
    fitter, own = trainer(tmp_path, max_epochs=20), Own(tmp_path)
    fitter.fit(module, datamodule=own)
    tensors, meta = bank(tmp_path / "own")
    assert tensors["features"].shape == (3, 128)
    (tested,) = fitter.test(module, datamodule=own, verbose=False)
    assert tested["test/acc@0.5"] == pytest.approx(meta["val"], abs=1e-6), "the same pictures under other names"


def test_a_data_module_without_scenes_to_learn_from(
    model: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    other = RefCOCODataModule(**data)
    with pytest.raises(DataError, match="has no train scenes: its setup\\(\\) must set `train_scenes`"):
        trainer(tmp_path).fit(learner(model), datamodule=other)


@pytest.mark.parametrize(
    ("changes", "trainer_", "message"),
    [
        ({}, {"max_epochs": 0}, "No training step was made"),
        ({"root": "", "proposals": None, "text_file": "words.txt"}, {}, "None of the 3 texts of stage 'train' can be"),
        ({"root": "", "proposals": None, "text_file": "last.txt"}, {}, "None of the 1 texts of stage 'val' can be"),
        (
            {"proposals": {"source": "detections", "path": "far.json"}},
            {},
            "nothing to learn from: none of the",
        ),
    ],
)
def test_what_learned_nothing_is_no_bank(
    fit: Fit,
    data: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: Any,
    trainer_: Any,
    message: str,
) -> None:
    """Nor a history that is no JSON."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("cup\nbird\ndog\ncar\n")
    (tmp_path / "last.txt").write_text("red cup\nblue bird\ndog\n")
    scenes = LearningDataModule(**data)
    scenes.setup("fit")
    both = [*scenes.train_scenes, *scenes.val_scenes]
    far = [{"image_id": s.image_id, "bbox": [0, 0, 2, 2], "score": 0.5} for s in both]
    (tmp_path / "far.json").write_text(json.dumps(far))
    text = {"text": {"gap": "none", "regions": 2}}
    assert fit(data_=changes, model_=text, **trainer_) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "bank").exists()
    assert not (tmp_path / "run" / "history.json").exists()
