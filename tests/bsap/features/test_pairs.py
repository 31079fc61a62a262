"""Scores of pairs: equal to the model's own forward, whatever stands in the batch, and scored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bsap.datamodules.batch import collate
from bsap.datamodules.own_picture import PictureDataModule
from bsap.errors import ConfigError, ModelError
from bsap.features.ensemble import Ensemble
from bsap.features.pairs import pair_scores
from bsap.features.stored_model import StoredModel
from bsap.models.load import load_model
from bsap.prompts.banks import Bank
from bsap.prompts.templates import Phrases
from bsap.views import make_view

transformers = pytest.importorskip("transformers")
TEXTS = (["a red dog", "the left cat"], ["a bus"])
BANK = Bank(name="two", prompts=("a boat", "the bird"), source="")


@pytest.fixture(scope="module")
def name(tiny_model):
    return {"name": f"hf:{tiny_model('blip')}", "mode": "itm"}


@pytest.fixture(scope="module")
def scorer(name):
    return load_model(name)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Two drawn pictures with three and two regions, and two and one expressions."""
    folder = tmp_path_factory.mktemp("pictures")
    items = []
    boxes_of = ([[0, 0, 40, 30], [5, 5, 60, 50], [20, 0, 60, 60]], [[0, 0, 30, 30], [10, 10, 60, 60]])
    for n, (boxes, texts) in enumerate(zip(boxes_of, TEXTS, strict=True)):
        path = folder / f"{n}.png"
        pixels = np.random.default_rng(n).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)
        data = PictureDataModule(str(path), boxes, list(texts))
        data.setup("predict")
        items.append((data.scenes[0], torch.tensor(np.array(Image.open(path))).permute(2, 0, 1)))
    return collate(items)


@torch.no_grad()
def expected(name, scorer, batch, texts):
    """One pair at a time, by transformers' own forward."""
    folder = name["name"].removeprefix("hf:")
    model = transformers.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    view, found = make_view("crop"), []
    for picture, boxes, some in zip(batch.pictures, batch.boxes.split(batch.counts), texts, strict=True):
        crops = scorer.standardize(view.render(picture, boxes, scorer.size, interpolation=scorer.interpolation))
        rows = []
        for text in some:
            tokens = {k: v for k, v in tokenizer(text, return_tensors="pt").items() if k != "token_type_ids"}
            logits = [model(**tokens, pixel_values=crop[None]).itm_score[0] for crop in crops]
            rows.append([float(match - other) for other, match in logits])
        found.append(torch.tensor(rows))
    return found


@pytest.mark.parametrize("pack", [None, 1, 4])
def test_scores_are_the_log_odds_of_the_models_own_forward(name, scorer, batch, pack):
    texts = [["a red dog", "the left cat", "a red dog"], ["a photo of the woman in the car"]]
    found = pair_scores(batch, texts, scorer, make_view("crop"), pack=pack)
    for ours, theirs in zip(found, expected(name, scorer, batch, texts), strict=True):
        assert theirs.std() > 1e-3
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_ensemble_asks_the_model_for_similarities_directly(name, scorer, batch):
    ensemble = Ensemble([scorer], [make_view("crop")])
    similarities = ensemble.similarities(batch, BANK)
    assert similarities.tau.tolist() == [1.0]
    assert similarities.query.shape == (2, 1, 2, 3)
    assert similarities.bank.shape == (2, 1, 2, 3)
    phrases = [[f"a photo of {text}" for text in some] for some in TEXTS]
    bank = [[f"a photo of {text}" for text in BANK.prompts]] * 2
    for b, (query, prompts) in enumerate(
        zip(expected(name, scorer, batch, phrases), expected(name, scorer, batch, bank), strict=True)
    ):
        assert torch.allclose(similarities.query[b, 0, : len(query), : query.shape[1]], query, atol=1e-5)
        assert torch.allclose(similarities.bank[b, 0, :, : prompts.shape[1]], prompts, atol=1e-5)


def test_beside_a_dual_encoder_each_keeps_its_own_numbers(scorer, batch):
    demo, view = load_model("demo"), make_view("crop")
    both = Ensemble([demo, scorer], [view]).similarities(batch, BANK)
    for place, encoder in enumerate((demo, scorer)):
        alone = Ensemble([encoder], [view]).similarities(batch, BANK)
        assert torch.allclose(both.query[:, place], alone.query[:, 0], atol=1e-6)
        assert torch.allclose(both.bank[:, place], alone.bank[:, 0], atol=1e-6)


def test_known_pairs_are_neither_scored_nor_encoded_again(scorer, batch, tmp_path, monkeypatch):
    asked: list[int] = []
    score, encode = scorer.score, scorer.encode_image
    monkeypatch.setattr(scorer, "score", lambda states, texts: asked.append(len(texts)) or score(states, texts))
    first = Ensemble([scorer], [make_view("crop")], store=tmp_path / "store")
    expected = first.similarities(batch, BANK)
    first.flush()
    assert sum(asked) == 3 * (2 + 2) + 2 * (1 + 2)
    asked.clear()
    monkeypatch.setattr(scorer, "encode_image", lambda *args, **kwargs: pytest.fail("a picture was encoded"))
    again = Ensemble([scorer], [make_view("crop")], store=tmp_path / "store")
    found = again.similarities(batch, BANK)
    assert asked == []
    assert torch.equal(found.query, expected.query)
    assert torch.equal(found.bank, expected.bank)
    monkeypatch.setattr(scorer, "encode_image", encode)
    again.similarities(batch, Bank(name="other", prompts=("a boat", "a thing"), source=""))
    assert sum(asked) == 5, "one new text for each of five regions"


def test_the_cost_is_known_before_the_run(scorer, batch):
    ensemble = Ensemble([scorer], [make_view("crop")])
    assert f"at most {3 * 4 + 2 * 3} pairs of region and text to score, 6 for each" in str(
        ensemble.cost(batch.scenes, BANK)
    )
    assert Ensemble([load_model("demo")], [make_view("crop")]).cost(batch.scenes, BANK) is None


def test_what_needs_features_is_refused(name, scorer, batch):
    ensemble = Ensemble([scorer], [make_view("crop")])
    learned = Bank(name="mine", prompts=(), source="", features=torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="holds learned features"):
        ensemble.similarities(batch, learned)
    with pytest.raises(ConfigError, match="noun phrases"):
        Ensemble([scorer], [make_view("crop")], phrases=Phrases(weight=0.5, parser=None))
    with pytest.raises(ModelError, match="open_clip's own vision transformers"):
        Ensemble([scorer], [make_view("global_local")])
    with pytest.raises(ConfigError, match="stores no features"):
        StoredModel.of({"label": "blip:itm"}, name)
    with pytest.raises(ConfigError, match="has no features"):
        ensemble.members[0].prompts(["a dog"])


def test_a_score_that_is_not_finite_is_an_error_and_never_stored(name, batch, tmp_path):
    broken = load_model(name)
    broken.model.itm_head.bias.data[1] = float("inf")
    ensemble = Ensemble([broken], [make_view("crop")], store=tmp_path / "store")
    with pytest.raises(ModelError, match=r"'blip:itm' gives scores that are not finite.*32-true"):
        ensemble.similarities(batch, BANK)
    ensemble.flush()
    assert len(ensemble.cache.store) == 0


@pytest.mark.parametrize("part", ["encode_image", "encode_text"])
def test_features_that_are_not_finite_name_the_model(batch, part, tmp_path):
    demo = load_model("demo")
    tower = demo.model.visual if part == "encode_image" else demo.model
    projection = tower.proj if part == "encode_image" else tower.text_projection
    projection.data[0, 0] = float("nan")
    ensemble = Ensemble([demo], [make_view("crop")], store=tmp_path / "store")
    with pytest.raises(ModelError, match=r"Model 'demo' gives .*features that are not finite.*32-true"):
        ensemble.similarities(batch, BANK)
    ensemble.flush()
    assert len(ensemble.cache.store) == {"encode_image": len(TEXTS[0]) + len(TEXTS[1]) + 2, "encode_text": 0}[part]


def test_pictures_without_regions_cost_nothing(scorer, batch, tmp_path):
    nothing = batch.select([])
    assert pair_scores(nothing, [], scorer, make_view("crop")) == []
    assert Path(batch.scenes[0].path).exists()
