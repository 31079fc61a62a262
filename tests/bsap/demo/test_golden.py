"""The shipped model's cosines on a few committed pictures, against drift of weights, libraries or preprocessing.

After new weights: ``python tests/bsap/demo/test_golden.py --regenerate``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from bsap import BSAPModule, EncoderConfig, PictureDataModule, Templates
from bsap.demo.draw import World, draw_scene
from bsap.demo.language import expressions
from bsap.demo.vocabulary import MODEL_FOLDER
from bsap.prompts.banks import load_bank

GOLDEN = Path(__file__).parent / "golden"
SCENES, EXPRESSIONS = 4, 20


def cosines(picture: Image.Image, boxes: list[list[int]], texts: list[str]) -> list[list[float]]:
    """(E, R), with nothing between model and numbers but open_clip itself."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MODEL_FOLDER}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODEL_FOLDER}")
    model.eval()
    crops = torch.stack([preprocess(picture.crop(tuple(box))) for box in boxes])
    with torch.inference_mode():
        regions = model.encode_image(crops, normalize=True)
        words = model.encode_text(tokenizer([f"a photo of {text}" for text in texts]), normalize=True)
    found: list[list[float]] = (words @ regions.T).tolist()
    return found


def golden() -> list[dict[str, Any]]:
    file = GOLDEN / "golden.json"
    return json.loads(file.read_text()) if file.exists() else []


def test_there_are_enough_expressions_on_small_pictures() -> None:
    assert sum(len(entry["texts"]) for entry in golden()) == EXPRESSIONS
    assert all((GOLDEN / entry["picture"]).stat().st_size < 20_000 for entry in golden())


@pytest.mark.parametrize("entry", golden(), ids=lambda entry: str(entry["picture"]))
def test_cosines_and_choices_are_those_on_record(entry: dict[str, Any]) -> None:
    with Image.open(GOLDEN / entry["picture"]) as picture:
        found = np.array(cosines(picture.convert("RGB"), entry["boxes"], entry["texts"]))
    expected = np.array(entry["cosines"])
    assert np.abs(found - expected).max() < 1e-4
    assert (found.argmax(1) == expected.argmax(1)).all()


def plain_scores(regions: Any, queries: Any, bank: Any, tau: float) -> dict[str, Any]:
    """(E, R) of each scorer in float64, one region and one sentence at a time."""
    scores = {name: np.zeros((len(queries), len(regions))) for name in ("clip", "bsap", "bsap_h")}
    for e, query in enumerate(queries):
        q, p = np.zeros(len(regions)), np.zeros(len(regions))
        for r, region in enumerate(regions):
            q[r] = np.exp(tau * (region @ query))
            p[r] = q[r] / (q[r] + sum(np.exp(tau * (region @ prompt)) for prompt in bank))
        q /= q.sum()
        scores["clip"][e], scores["bsap"][e], scores["bsap_h"][e] = q, p, 0.5 * p / p.sum() + 0.5 * q
    return scores


@pytest.mark.parametrize("entry", golden(), ids=lambda entry: str(entry["picture"]))
def test_the_whole_way_gives_the_scores_of_a_plain_loop(entry: dict[str, Any]) -> None:
    """From picture to score by `trainer.predict`, beside PIL, open_clip and numpy: tau, templates, bank and scorers."""
    bank, query_form, bank_form = "colours", "there is {} here", "the colour {}"
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MODEL_FOLDER}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODEL_FOLDER}")
    model.eval()
    with Image.open(GOLDEN / entry["picture"]) as picture, torch.inference_mode():
        crops = [preprocess(picture.convert("RGB").crop(tuple(box))) for box in entry["boxes"]]
        regions = model.encode_image(torch.stack(crops), normalize=True).double().numpy()
        sides = [
            model.encode_text(tokenizer([form.format(text) for text in texts]), normalize=True).double().numpy()
            for form, texts in ((query_form, entry["texts"]), (bank_form, load_bank(bank).prompts))
        ]
    expected = plain_scores(regions, *sides, float(model.logit_scale.detach().exp()))

    module = BSAPModule(
        encoders=[EncoderConfig("demo")], views=["crop"], bank=bank, templates=Templates(query_form, bank_form),
        scorers=["clip", "bsap", "bsap_h"], run=None, store=None,
    )  # fmt: skip
    data = PictureDataModule(str(GOLDEN / entry["picture"]), entry["boxes"], entry["texts"])
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    (records,) = Trainer(accelerator="cpu", devices=1, **quiet).predict(module, data)
    for e, record in enumerate(records):
        for name, values in expected.items():
            row = record["scorers"][name]
            # torch resamples within a grey level or two of PIL, which moves tau times a cosine by about 0.02.
            assert row["score"] == pytest.approx(values[e, row["region"]], rel=0.05), (name, record["text"])
            assert values[e, row["region"]] >= 0.95 * values[e].max(), (name, record["text"])


def regenerate() -> None:
    """Draw the pictures, at half size and in few colours so that they stay small, and record the cosines."""
    GOLDEN.mkdir(exist_ok=True)
    entries = []
    for index in range(SCENES):
        scene = draw_scene(World.CHECKING, 0, 1000 + index)
        size = tuple(side // 2 for side in scene.picture.size)
        picture = scene.picture.resize(size, Image.Resampling.BOX).quantize(48, dither=Image.Dither.NONE)
        name = f"scene{index}.png"
        picture.save(GOLDEN / name, optimize=True)
        boxes = [[int(edge / 2) for edge in thing.box] for thing in scene.things]
        rng = np.random.default_rng((World.CHECKING, 0, 1000 + index, 1))
        said = [text for at in range(len(scene.things)) for text in expressions(at, scene.things, rng)]
        texts = said[:: max(1, len(said) // (EXPRESSIONS // SCENES))][: EXPRESSIONS // SCENES]
        values = cosines(picture.convert("RGB"), boxes, texts)
        entries.append({"picture": name, "boxes": boxes, "texts": texts, "cosines": np.round(values, 6).tolist()})
    lines = ",\n".join(f" {json.dumps(entry)}" for entry in entries)
    (GOLDEN / "golden.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__" and "--regenerate" in sys.argv:
    regenerate()
