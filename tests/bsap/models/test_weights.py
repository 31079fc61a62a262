"""Which weights a configuration means, and what of it is refused before anything is built."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bsap.errors import ConfigError, ModelError
from bsap.models.config import EncoderConfig
from bsap.models.encoder import Encoder
from bsap.models.weights import locate

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "width": 16, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pretrained": 5},
            "Model 'demo': `pretrained` must be a published tag or the path of a file, as text, but is 5",
        ),
        ({"random_init": "false"}, "`random_init` must be true or false, but is 'false'"),
        ({"quickgelu": 1}, "`quickgelu` must be true or false, but is 1"),
        ({"compile": None}, "`compile` must be true, false, or one of default, "),
        ({"preprocess": [0.5]}, "`preprocess` must be a mapping of mean, std, interpolation"),
        (
            {"preprocess": {"mean": [123, 117, 104]}},
            "`mean` in `preprocess` of model 'demo' must be three numbers",
        ),
        ({"preprocess": {"mean": [0.5, 0.5]}}, "from 0 to 1, but is [0.5, 0.5]"),
        ({"preprocess": {"mean": None}}, "from 0 to 1, but is None"),
        ({"preprocess": {"mean": [0.5, 0.5, float("nan")]}}, "from 0 to 1, but is"),
        ({"preprocess": {"std": [0.5, 0.5, 0]}}, "`std` in `preprocess` of model 'demo' must be three numbers above 0"),
        ({"preprocess": {"interpolation": "lanczos"}}, "must be bicubic or bilinear, but is 'lanczos'"),
    ],
)
def test_settings_of_another_kind(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        EncoderConfig.of({"name": "demo", **settings})


def test_a_model_is_a_name_or_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"a mapping with `name` and other keys, but got \['demo'\]"):
        EncoderConfig.of(["demo"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_cfg": {**MODEL, "text_cfg": None}}, "and `vision_cfg` and `text_cfg`, mappings"),
        ({"model_cfg": {**MODEL, "embed_dim": "24"}}, "`embed_dim`, a whole number"),
        ({"model_cfg": MODEL, "preprocess_cfg": [0.5]}, "must be a mapping, but is [0.5]"),
        (
            {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5, 0.5]}},
            "config.json must be three numbers from 0 to 1",
        ),
    ],
)
def test_folders_whose_configuration_is_of_another_kind(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=re.escape(message)):
        locate(EncoderConfig(f"local-dir:{tmp_path}"))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b"not weights at all"),
        lambda file: torch.save(torch.nn.Linear(2, 2), file),
        lambda file: torch.save([torch.ones(2)], file),
        lambda file: file.write_bytes(b""),
    ],
    ids=["text", "module", "list", "empty"],
)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_files_that_are_no_state_dictionaries(tmp_path: Path, write: Callable[[Path], Any], kind: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL}))
    write(tmp_path / f"mine.{kind}")
    with pytest.raises(ModelError, match=rf"mine\.{kind} is not a state dictionary.*safetensors") as caught:
        Encoder(f"local-dir:{tmp_path}")
    assert "weights_only" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_the_nearest_way_to_say_it() -> None:
    hub = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    with pytest.raises(ConfigError, match=f"Hugging Face hub is `name: hf-hub:{hub}`"):
        locate(EncoderConfig(hub))
    with pytest.raises(ConfigError, match=r"'laion2b_s34b_b79k' belongs to model 'ViT-B-32', not to 'ViT-B-32-quick"):
        locate(EncoderConfig("ViT-B-32-quickgelu", "laion2b_s34b_b79k"))
    with pytest.raises(ConfigError, match=r"'ViT-S-32-alt' needs `pretrained`: a weight file; none are published\."):
        locate(EncoderConfig("ViT-S-32-alt"))


def test_clips_own_towers_must_state_their_activation_also_without_a_twin(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    with pytest.raises(ConfigError, match=r"mine.safetensors does not say whether 'ViT-S-32-alt' was trained"):
        locate(EncoderConfig("ViT-S-32-alt", str(file)))
    assert locate(EncoderConfig("ViT-S-32-alt", str(file), quickgelu=True)).quickgelu
    assert not locate(EncoderConfig("ViT-B-16-SigLIP", str(file))).quickgelu  # another library's tower
