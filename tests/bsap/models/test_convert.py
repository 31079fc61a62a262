"""Checkpoints of papers become folders that load, with the features that their own code gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from bsap.models.convert import main
from bsap.models.encoder import Encoder

VISION = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TEXTS = ["a dog", "the left one with a very long description of many more words than usual in it", "x"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-16", config)
    return "Tiny-16"


def model(length: int = 12, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = open_clip.CLIP(24, VISION, {**TEXT, "context_length": length}, quick_gelu=True).eval()
        for parameter in made.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return made


@torch.no_grad()
def test_long_clip(tiny: str, tmp_path: Path) -> None:
    own, other = model(40, seed=1), torch.randn(40, 32)
    state = own.state_dict()
    torch.save({**state, "positional_embedding_res": other}, tmp_path / "longclip.pt")
    files = [str(tmp_path / "longclip.pt"), "--folder", str(tmp_path / "out"), "--architecture", tiny]
    assert main(["longclip", *files]) == 0
    encoder = Encoder(f"local-dir:{tmp_path / 'out'}")
    assert encoder.context_length == 40
    # Its published code adds both tables, each behind a mask.
    first = torch.arange(40)[:, None] < 20
    own.positional_embedding.copy_(own.positional_embedding * first + other * ~first)
    tokens = open_clip.SimpleTokenizer(context_length=40)(TEXTS)
    assert torch.allclose(encoder.encode_text(TEXTS), own.encode_text(tokens, normalize=True), atol=1e-5)


@torch.no_grad()
def test_ovseg(tiny: str, tmp_path: Path) -> None:
    own = model(seed=2)
    content = {f"clip_adapter.clip_model.{name}": x for name, x in own.state_dict().items()}
    torch.save({"model": {**content, "sem_seg_head.weight": torch.zeros(3)}}, tmp_path / "ovseg.pth")
    files = [str(tmp_path / "ovseg.pth"), "--folder", str(tmp_path / "out"), "--architecture", tiny]
    assert main(["ovseg", *files]) == 0
    tokens = open_clip.SimpleTokenizer(context_length=12)(TEXTS[:1])
    encoder = Encoder(f"local-dir:{tmp_path / 'out'}")
    assert torch.allclose(encoder.encode_text(TEXTS[:1]), own.encode_text(tokens, normalize=True), atol=1e-5)


@torch.no_grad()
def test_an_image_tower_with_another_models_text_tower(tiny: str, tmp_path: Path) -> None:
    texts, pictures = model(seed=3), model(seed=4)
    torch.save(texts.state_dict(), tmp_path / "openai.pt")
    torch.save(pictures.state_dict(), tmp_path / "un2clip.pt")
    files = [str(tmp_path / "openai.pt"), str(tmp_path / "un2clip.pt"), "--folder", str(tmp_path / "out")]
    assert main(["image-tower", *files, "--architecture", tiny]) == 0
    encoder = Encoder(f"local-dir:{tmp_path / 'out'}")
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = pictures.encode_image(encoder.standardize(pixels), normalize=True)
    assert torch.allclose(encoder.encode_image(pixels), expected, atol=1e-5)
    tokens = open_clip.SimpleTokenizer(context_length=12)(TEXTS[:1])
    assert torch.allclose(encoder.encode_text(TEXTS[:1]), texts.encode_text(tokens, normalize=True), atol=1e-5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["longclip", "plain.pt"], "no original checkpoint of Long-CLIP"),
        (["ovseg", "plain.pt"], "no checkpoint of OVSeg"),
        (["image-tower", "plain.pt"], "takes 2 files, but got 1"),
        (["image-tower", "plain.pt", "plain.pt"], "no image tower"),
        (["longclip", "none.pt"], "There is no file"),
        (["longclip", "code.pt"], "not a state dictionary"),
        (["longklip", "plain.pt"], "Did you mean 'longclip'"),
    ],
)
def test_what_is_refused(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pt")
    kind, *files = argv
    names = [str(tmp_path / file) for file in files]
    assert main([kind, *names, "--folder", str(tmp_path / "out"), "--architecture", tiny]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_name_in_the_page_of_models_is_known() -> None:
    import re

    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    tags = {f"{name}:{tag}" for name, tag in open_clip.list_pretrained()}
    named = re.findall(r"`((?!hf|local-dir|clip_adapter)[A-Z][\w-]*\d[\w-]*:\w+)`", page)
    assert len(named) >= 8
    assert set(named) <= tags, set(named) - tags
    assert json.dumps(named)
