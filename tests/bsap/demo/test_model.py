from __future__ import annotations

import gzip
import json

import open_clip
import torch
from safetensors.torch import load_file

from bsap.demo.language import COLOURS, NOUNS, PATTERNS
from bsap.demo.pairs import Check, PairsDataModule
from bsap.demo.train import CONFIG, MODEL_FOLDER
from bsap.demo.vocabulary import unseen_words

WEIGHTS = MODEL_FOLDER / "open_clip_model.safetensors"


def test_the_shipped_files_are_small() -> None:
    raw = WEIGHTS.read_bytes()
    assert len(raw) < 13e6
    assert len(gzip.compress(raw, 6)) < 4e6
    assert all(value.dtype == torch.float16 for value in load_file(WEIGHTS).values())
    assert {path.name for path in MODEL_FOLDER.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}


def test_the_shipped_configuration_is_the_recipes() -> None:
    assert json.loads((MODEL_FOLDER / "open_clip_config.json").read_text()) == CONFIG


def test_open_clip_loads_it_and_it_finds_most_referents() -> None:
    """On true boxes of scenes that training never drew, with no code of ours between model and choice."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{MODEL_FOLDER}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODEL_FOLDER}")
    model.eval()
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][name])[:, None, None] for name in ("mean", "std"))
    right = total = 0
    for check in PairsDataModule(steps=1, checks=30, seed=99, workers=0).val_dataloader():
        assert isinstance(check, Check)
        with torch.inference_mode():
            regions = model.encode_image((check.regions / 255 - mean) / std, normalize=True)
            texts = model.encode_text(tokenizer(check.texts), normalize=True)
        assert regions.shape == (len(check.regions), 128)
        right += int(((texts @ regions.T).argmax(1) == check.targets).sum())
        total += len(check.texts)
    assert right / total > 0.7


def test_it_knows_every_word_of_the_drawn_world() -> None:
    tables = (NOUNS, COLOURS, PATTERNS)
    words = [word for table in tables for synonyms in table.values() for word in synonyms]
    assert unseen_words([*words, "a photo of the", "left right on the"]) == []
    assert unseen_words(["Giraffe, red GIRAFFE and toothbrush"]) == ["giraffe", "toothbrush"]
