from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bsap.demo.train import CONFIG, ContrastiveModule, export, main, train

SMALL = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": CONFIG["preprocess_cfg"],
}


def test_the_recipe_runs_and_leaves_a_model_that_open_clip_loads(tmp_path: Path) -> None:
    data = {"scenes": 2, "pairs": 4, "checks": 2, "workers": 0}
    weights = []
    for name in ("one", "two"):
        accuracy = train(tmp_path / name, steps=2, seed=3, warmup=1, trainer={"limit_val_batches": 2}, **data)
        assert 0 <= accuracy <= 1
        weights.append(load_file(tmp_path / name / "open_clip_model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items()), "same seed, same model"
    assert all(value.dtype == torch.float16 for value in weights[0].values())
    rows = weights[0]["token_embedding.weight"].any(dim=1)
    assert 2 < rows.sum() < 40, "only tokens that were seen are kept"
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'one'}")
    assert torch.equal(model.state_dict()["visual.proj"].half(), weights[0]["visual.proj"])


def test_learning_lowers_the_loss_of_one_batch() -> None:
    torch.manual_seed(0)
    module = ContrastiveModule(SMALL)
    pictures = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    texts = ["red cup", "blue cup", "a bird", "a house", "the car", "one kite"]
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = module.training_step((pictures, texts), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    module = ContrastiveModule(SMALL)
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    pictures = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    texts = ["red cup", "blue cup", "a bird"]
    with torch.no_grad():
        scores = module.model.logit_scale.exp() * module.embed_pictures(pictures) @ module.embed_texts(texts).T
    by_hand = 0.0
    for n in range(3):
        by_hand -= float(scores[n, n] - torch.log(sum(torch.exp(scores[n, k]) for k in range(3)))) / 6
        by_hand -= float(scores[n, n] - torch.log(sum(torch.exp(scores[k, n]) for k in range(3)))) / 6
    assert module.training_step((pictures, texts), 0).item() == pytest.approx(by_hand, rel=1e-5)


def test_pictures_are_normalised_as_the_configuration_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ContrastiveModule(SMALL).eval()
    export(module, tmp_path)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    picture = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(64, 64, 3).permute(2, 0, 1)
    with torch.inference_mode():
        ours = module.embed_pictures(pixels[None])
        theirs = model.eval().encode_image(preprocess(picture)[None], normalize=True)
    assert torch.allclose(ours, theirs, atol=2e-3)


def test_the_command_says_what_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--steps", "--seed", "--folder", "--precision"))
