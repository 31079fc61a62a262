import json

import pytest
import torch

from bsap.errors import ConfigError, ModelError
from bsap.models.encoder import Encoder
from bsap.models.text import run_text_tower, text_tower
from bsap.prompts.templates import Templates

VISION = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
COCA = {
    "custom_text": True,
    "vision_cfg": {
        **VISION,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

# name: (model, text tower, can run from embeddings, can be trimmed)
TOWERS = {
    "clip": ({}, {}, True, True),
    "clip-quickgelu": ({"quick_gelu": True}, {}, True, True),
    "custom-text": ({"custom_text": True}, {}, True, True),
    "custom-text-eos": ({"custom_text": True}, {"pool_type": "eos", "eos_id": 49407}, True, True),
    "clip-eos": ({}, {"pool_type": "eos", "eos_id": 49407}, True, True),
    "custom-blocks": ({"custom_text": True}, {"qk_norm": True, "scale_fc": True}, True, True),
    "no-projection": ({"custom_text": True, "embed_dim": 32}, {"proj_type": "none"}, True, True),
    "mobileclip": ({"custom_text": True}, {"no_causal_mask": True}, True, False),
    "siglip": (
        {"custom_text": True, "init_logit_bias": -10},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
        True,
        False,
    ),
    "first": ({"custom_text": True}, {"no_causal_mask": True, "pool_type": "first"}, True, False),
    "coca": (COCA, {"embed_cls": True, "output_tokens": True}, False, False),
}
TEXTS = ["a dog", "the left one", "a man in a red jacket beside the tall horse", "dog", "x", "2nd from right, sitting"]


def make_encoder(folder, model=(), text=()):
    config = {"embed_dim": 24, "vision_cfg": VISION, **dict(model), "text_cfg": {**TEXT, **dict(text)}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    encoder = Encoder({"name": f"local-dir:{folder}", "random_init": True})
    generator = torch.Generator().manual_seed(3)
    for name, parameter in encoder.model.named_parameters():
        # open_clip's own start is so small that positions and neighbours would hardly count.
        if "positional_embedding" in name or "cls_emb" in name:
            torch.nn.init.normal_(parameter, generator=generator)
        elif "in_proj_weight" in name or "token_embedding" in name:
            torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return encoder


@pytest.fixture(scope="module")
def encoders():
    return {}


@pytest.fixture
def tower(request, encoders, tmp_path):
    model, text, runs, trims = TOWERS[request.param]
    if request.param not in encoders:
        encoders[request.param] = make_encoder(tmp_path, model, text)
    return encoders[request.param], runs, trims


@pytest.mark.parametrize("tower", TOWERS, indirect=True)
def test_features_equal_open_clips_own(tower):
    encoder, runs, trims = tower
    assert (text_tower(encoder.model) is not None) == runs
    assert encoder.trimmed == trims
    expected = encoder.model.encode_text(encoder.tokenizer(TEXTS), normalize=True)
    for chunk in (256, 2, 1):
        assert torch.allclose(encoder.encode_text(TEXTS, chunk=chunk), expected, atol=1e-5)
    raw = encoder.encode_text(TEXTS, normalize=False)
    assert torch.allclose(raw, encoder.model.encode_text(encoder.tokenizer(TEXTS), normalize=False), atol=1e-5)


@pytest.mark.parametrize("tower", TOWERS, indirect=True)
def test_only_towers_where_it_is_exact_are_trimmed(tower):
    encoder, _, trims = tower
    lengths = []
    transformer = getattr(encoder.model, "text", encoder.model).transformer
    hook = transformer.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    encoder.encode_text(TEXTS, chunk=3)
    hook.remove()
    used = sorted(int((row != 0).sum()) for row in encoder.tokenizer(TEXTS))
    whole = len(getattr(encoder.model, "text", encoder.model).positional_embedding)  # CoCa appends a place
    assert lengths == [used[2], used[5]] if trims else set(lengths) == {whole}


@pytest.mark.parametrize("tower", ["mobileclip"], indirect=True)
def test_trimming_a_tower_that_sees_all_tokens_would_be_wrong(tower, monkeypatch):
    encoder, *_ = tower
    tokens = encoder.tokenizer(["a dog"])
    whole = encoder.model.encode_text(tokens, normalize=True)
    text = encoder.model.text
    monkeypatch.setattr(text, "positional_embedding", torch.nn.Parameter(text.positional_embedding[:4]))
    assert (encoder.model.encode_text(tokens[:, :4], normalize=True) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("tower", ["clip", "custom-text", "siglip"], indirect=True)
def test_gradients_reach_the_embeddings_of_a_frozen_tower(tower):
    encoder, _, trims = tower
    parts = text_tower(encoder.model)
    tokens = encoder.tokenizer(["a red dog"])
    eot = parts.positions(tokens)
    length = 5 if trims else 20
    embeddings = parts.embed(tokens[:, :length]).requires_grad_()
    features = run_text_tower(encoder.model, embeddings, eot)
    assert torch.allclose(features, encoder.model.encode_text(tokens, normalize=False), atol=1e-5)
    features.square().sum().backward()
    assert embeddings.grad.abs().amin(dim=-1).min() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    step = torch.zeros_like(embeddings)
    step[0, 1, 3] = 1e-2
    with torch.no_grad():
        up, down = (run_text_tower(encoder.model, embeddings + s * step, eot).square().sum() for s in (1, -1))
    assert float((up - down) / 2e-2) == pytest.approx(float(embeddings.grad[0, 1, 3]), rel=0.02, abs=1e-4)


def test_hugging_face_towers_run_whole(tmp_path):
    transformers = pytest.importorskip("transformers")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "red"]))
    transformers.BertTokenizerFast(str(vocabulary)).save_pretrained(tmp_path)
    transformers.BertConfig(
        vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(tmp_path)
    text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": "mine", "hf_pooler_type": "mean_pooler"}
    encoder = make_encoder(tmp_path, {"custom_text": True}, text)
    assert text_tower(encoder.model) is None
    texts = ["a dog", "a red red dog", "dog"]
    expected = encoder.model.encode_text(encoder.tokenizer(texts), normalize=True)
    assert torch.allclose(encoder.encode_text(texts, chunk=2), expected, atol=1e-5)


@pytest.mark.parametrize("tower", ["coca"], indirect=True)
def test_coca_cannot_run_from_embeddings(tower):
    with pytest.raises(ModelError, match="not CoCa"):
        run_text_tower(tower[0].model, torch.zeros(1, 20, 32), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("tower", "length", "wanted"), [("clip", 21, "at most 20"), ("siglip", 19, "exactly 20")], indirect=["tower"]
)
def test_lengths_that_do_not_fit(tower, length, wanted):
    with pytest.raises(ValueError, match=f"`embeddings` to be {wanted} .*tokens long, but got {length}"):
        run_text_tower(tower[0].model, torch.zeros(1, length, 32), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{name}", "{}{", ""])
def test_templates_hold_one_place(template):
    with pytest.raises(ConfigError, match=r"Template `bank` must hold exactly one \{\}"):
        Templates(bank=template)
    with pytest.raises(ConfigError, match="Template `query`"):
        Templates(query=template)
