"""Banks of the query: every expression with prompts of its own, against one expression at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bsap.datamodules.batch import SceneBatch, collate
from bsap.datamodules.own_picture import PictureDataModule
from bsap.features.bank_texts import scene_bank_mask
from bsap.features.ensemble import Ensemble
from bsap.models.load import load_model
from bsap.prompts.banks import load_bank
from bsap.prompts.templates import Templates
from bsap.scoring import make_scorer
from bsap.views import make_view

TEXTS = (["red dog", "left cat there", "bus"], ["bird"])


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> SceneBatch:
    """Two pictures with three and two regions, three and one expressions."""
    folder, items = tmp_path_factory.mktemp("pictures"), []
    boxes_of = ([[0, 0, 40, 30], [5, 5, 60, 50], [20, 0, 60, 60]], [[0, 0, 30, 30], [10, 10, 60, 60]])
    for n, (boxes, texts) in enumerate(zip(boxes_of, TEXTS, strict=True)):
        path = folder / f"{n}.png"
        pixels = np.random.default_rng(n).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        data = PictureDataModule(str(path), boxes, list(texts))
        data.setup("predict")
        items.append((data.scenes[0], torch.from_numpy(pixels.copy()).permute(2, 0, 1)))
    return collate(items)


@torch.no_grad()
@pytest.mark.parametrize("bank", ["negated", "dropped_words", ["not {}", "a cat"]])
@pytest.mark.parametrize("family", ["demo", "blip"])
def test_each_expression_is_scored_against_its_own_prompts(
    family: str, bank: Any, batch: SceneBatch, tiny_model: Any
) -> None:
    if family == "blip":
        pytest.importorskip("transformers")
    encoder = load_model("demo" if family == "demo" else {"name": f"hf:{tiny_model('blip')}", "mode": "itm"})
    templates = Templates("a photo of {}", "one {}")
    ensemble = Ensemble([encoder], [make_view("crop"), make_view("blur")], templates=templates)
    found = load_bank(bank)
    ensemble.prepare(batch.scenes, found)
    similarities = ensemble.similarities(batch, found)
    scores = make_scorer("bsap")(similarities)
    for b, scene in enumerate(batch.scenes):
        for e, expression in enumerate(scene.expressions):
            # The prompts, written out, as a list that is the same for all: then the template is applied here.
            own = [
                f"{(found.template or templates.bank).format(prompt)}" for prompt in found.prompts_of(expression.text)
            ]
            alone = Ensemble(
                [encoder], [make_view("crop"), make_view("blur")], templates=Templates(templates.query, "{}")
            )
            part = batch.select([b])
            part = replace(part, scenes=(replace(part.scenes[0], expressions=(expression,)),))
            count = len(scene.proposals)
            if not own:
                expected = make_scorer("clip")(alone.similarities(part, None)).rank[0, 0]
            else:
                expected = make_scorer("bsap")(alone.similarities(part, load_bank(own))).rank[0, 0]
            torch.testing.assert_close(scores.rank[b, e, :count], expected, atol=2e-4, rtol=1e-5)
    assert ensemble.cost(batch.scenes, found) is None or family == "blip"


def test_a_part_of_a_sentence_never_competes_with_the_sentence(batch: SceneBatch) -> None:
    scene = batch.scenes[0]
    part = replace(scene.expressions[1], text="left cat", part_of="left cat there")
    asked = replace(scene, expressions=(*scene.expressions, part))
    mask = scene_bank_mask([asked], load_bank("scene"))
    assert mask is not None
    assert mask[0].tolist() == [[False, True, True], [True, False, True], [True, True, False], [True, False, True]]


def test_a_query_equal_to_its_prompt_is_left_out(batch: SceneBatch) -> None:
    mask = scene_bank_mask(batch.scenes, load_bank(["{}", "Bus", "not {}"]))
    assert mask is not None
    assert mask.shape == (2, 3, 3)
    assert mask[0].tolist() == [[False, True, True], [False, True, True], [False, True, False]]
    assert mask[1].tolist() == [[False, True, True], [False, False, False], [False, False, False]]
