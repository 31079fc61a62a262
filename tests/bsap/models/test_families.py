"""The contract of :class:`DualEncoder`, which every family passes, and what is refused in files of transformers."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from bsap.errors import BSAPError, ConfigError, ModelError
from bsap.models.encoder import Encoder
from bsap.models.load import load_model
from bsap.views import make_view

transformers = pytest.importorskip("transformers")

FAMILIES = ["clip", "long_clip", "siglip", "siglip2", "metaclip_2", "align", "blip", "chinese_clip"]
TEXTS = ["a dog", "the left red cat", "a photo of a woman in the car on the right", "dog"]
BLIP = {"mode": "itc", "tau": 20.0}


def settings(folder, **more):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return {"name": f"hf:{folder}", **(BLIP if kind == "blip" else {}), **more}


def load(folder, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the adapter for other models
        return load_model(settings(folder, **more))


@pytest.fixture(scope="module", params=[*FAMILIES, "open_clip"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(family, tiny_model):
    return Encoder("demo") if family == "open_clip" else load(tiny_model(family))


@pytest.fixture(scope="module")
def theirs(family, tiny_model):
    """transformers' own model, tokenizer and processor."""
    if family == "open_clip":
        pytest.skip("compared with open_clip in test_encoder.py and test_text.py")
    folder = str(tiny_model(family))
    cls = transformers.BlipForImageTextRetrieval if family == "blip" else transformers.AutoModel
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return cls.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder), processor


def drawn(size, seed=0):
    """A smooth coloured picture, as uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def pixels_of(encoder, count=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *encoder.size), dtype=torch.uint8, generator=generator)


def theirs_image(model, inputs):
    """Image features by transformers' forward."""
    if isinstance(model, transformers.BlipForImageTextRetrieval):
        return model.vision_proj(model.vision_model(**inputs).last_hidden_state[:, 0])
    found = model.get_image_features(**inputs)
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@torch.no_grad()
def test_cosines_and_scale_are_those_of_transformers_own_forward(encoder, theirs, family):
    model, tokenizer, processor = theirs
    picture = drawn(encoder.size[::-1])
    inputs = processor(images=picture, return_tensors="pt")
    whole = {"align": 64, "siglip2": 48}.get(family, encoder.context_length)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=whole, truncation=True, return_tensors="pt")
    ours = torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None]
    cosines = encoder.encode_image(ours) @ encoder.encode_text(TEXTS).T
    if family == "blip":
        tokens.pop("token_type_ids", None)
        expected = model(**tokens, pixel_values=inputs["pixel_values"], use_itm_head=False).itm_score
    elif family.startswith("siglip"):
        expected = (model(**tokens, **inputs).logits_per_image - model.logit_bias) / encoder.tau
    else:
        expected = model(**tokens, **inputs).logits_per_image / encoder.tau
    assert cosines.std() > 1e-3, "the tiny model tells texts apart"
    assert torch.allclose(cosines, expected.float(), atol=1e-5)
    features = F.normalize(theirs_image(model, dict(inputs)), dim=-1)
    assert torch.allclose(encoder.encode_image(ours), features, atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 90), (20, 20), (96, 64), (50, 75)])
def test_pixels_are_those_of_the_models_own_processor(encoder, theirs, family, shape):
    *_, processor = theirs
    resize = "shortest" if family in ("clip", "long_clip", "metaclip_2") else "squash"  # as the family's processor does
    if family == "siglip2" and shape[0] != shape[1]:
        pytest.skip("the processor keeps the shape of the picture, and bsap makes a square of it")
    picture = drawn(shape)
    expected = processor(images=picture, return_tensors="pt")["pixel_values"]
    view = make_view("crop")
    whole = torch.tensor([[0.0, 0.0, *shape]])
    tensor = torch.tensor(np.asarray(picture)).permute(2, 0, 1)
    drawn_by_us = view.render(
        tensor, whole, encoder.size, resize=resize, interpolation=encoder.interpolation, fill=encoder.fill
    )
    ours = encoder.standardize(drawn_by_us)
    if family == "siglip2":
        from bsap.models.transformers_encoder import patchify

        ours = patchify(ours, 8)["pixel_values"]
        grey = torch.tensor(encoder.std).repeat(64)
    else:
        grey = torch.tensor(encoder.std).view(3, 1, 1)
    assert ours.shape == expected.shape
    assert ((ours - expected) * grey * 255).abs().max() <= 2.001


def test_features_are_unit_vectors_whatever_stands_in_the_batch(encoder):
    pixels = pixels_of(encoder)
    images, texts = encoder.encode_image(pixels), encoder.encode_text(TEXTS)
    for features, alone in (
        (images, [encoder.encode_image(pixels[i : i + 1]) for i in range(len(pixels))]),
        (texts, [encoder.encode_text([text]) for text in TEXTS]),
        (texts, [encoder.encode_text(TEXTS, chunk=3)]),
    ):
        assert features.dtype == torch.float32
        assert features.shape[1] == encoder.dim
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)), atol=1e-6)
        assert torch.allclose(features, torch.cat(alone), atol=1e-5)
    raw = encoder.encode_text(TEXTS, normalize=False)
    assert torch.allclose(F.normalize(raw, dim=-1), texts, atol=1e-6)
    assert not torch.allclose(raw, texts, atol=1e-3)


def test_bfloat16_is_near_and_leaves_as_float32(encoder):
    pixels = pixels_of(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images, texts = encoder.encode_image(pixels), encoder.encode_text(TEXTS)
    for rows, exact in ((images, encoder.encode_image(pixels)), (texts, encoder.encode_text(TEXTS))):
        assert rows.dtype == torch.float32
        assert (rows * exact).sum(-1).min() > 0.98


def test_texts_beyond_the_context_are_counted(family, tiny_model):
    encoder = Encoder("demo") if family == "open_clip" else load(tiny_model(family))
    long = "dog " * encoder.context_length
    assert encoder.tokenize(["a dog"]).shape[1] <= encoder.context_length
    assert encoder.truncated == set()
    with pytest.warns(UserWarning, match=f"reads {encoder.context_length} tokens"):
        encoder.encode_text(["a dog", long])
    assert encoder.truncated == {long}


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_image(pixels_of(encoder, 0)).shape == (0, encoder.dim)
    assert encoder.encode_text([]).shape == (0, encoder.dim)


def test_an_encoder_is_frozen_and_says_what_it_is(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    described = json.loads(json.dumps(encoder.describe()))
    assert described["size"] == list(encoder.size)
    assert described["tau"] == encoder.tau > 0
    assert encoder.label in repr(encoder)


def test_the_fingerprint_changes_with_any_weight(family, tiny_model, tmp_path):
    if family == "open_clip":
        pytest.skip("in test_encoder.py")
    folder = tmp_path / family
    shutil.copytree(tiny_model(family), folder)
    first = load(folder)
    state = load_file(folder / "model.safetensors")
    for name in (min(state), max(state)):
        changed = {key: tensor.clone() for key, tensor in state.items()}
        changed[name].view(-1)[0] += 1e-3
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        assert load(folder).weights_sha256 != first.weights_sha256
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).architecture_sha256 != first.architecture_sha256


def test_views_that_look_into_the_encoder_name_what_they_need(encoder, family):
    view = make_view({"class_path": "GlobalLocal", "init_args": {"block": 0}})
    if family == "open_clip":
        view.check(encoder, resize="squash")
    else:
        with pytest.raises(ModelError, match="need one of open_clip's own vision transformers"):
            view.check(encoder, resize="squash")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model, tmp_path):
    shutil.copytree(tiny_model("clip"), tmp_path / "clip")
    return tmp_path / "clip"


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def remove(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def half_initialised(folder):
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "layers.1" not in k}, folder / "model.safetensors", {"format": "pt"})


def another_size(folder):
    state = load_file(folder / "model.safetensors")
    state["text_projection.weight"] = torch.zeros(7, 32)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder):
    state = load_file(folder / "model.safetensors")
    state["text_projection.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def scale_overflows(folder):
    state = load_file(folder / "model.safetensors")
    state["logit_scale"] = torch.tensor(100.0)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"model": torch.nn.Linear(1, 1)}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("model.safetensors"), "holds no weights"),
        (half_initialised, "do not fill model .* tensors are missing .*layers.1"),
        (another_size, "do not fill model|size mismatch|cannot be built"),
        (not_finite, "not finite, first in text_projection"),
        (scale_overflows, "logit scale inf, which is not a positive number"),
        (pickled, "not a state dictionary"),
        (remove("tokenizer.json"), "has no tokenizer"),
        (remove("preprocessor_config.json"), "has no preprocessor_config.json"),
        (remove("config.json"), "has no config.json"),
        (lambda f: edit(f / "config.json", model_type=None), "has no `model_type`"),
        (lambda f: edit(f / "config.json", model_type="gpt2", architectures=["GPT2Model"]), "no features for pictures"),
        (lambda f: edit(f / "config.json", model_type="unheard"), "'unheard', which transformers .* does not know"),
        (lambda f: edit(f / "config.json", architectures=["CLIPVisionModel"]), "weights of CLIPVisionModel, not of"),
        (lambda f: edit(f / "config.json", model_type="siglip", architectures=None), "do not fill|cannot be built"),
        (lambda f: edit(f / "config.json", projection_dim=1 << 40), "`projection_dim` .* at most"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": "x.Y"}), "auto_map"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"pad_'), "Tokenizer files in .* cannot be read"),
        (lambda f: edit(f / "tokenizer_config.json", model_max_length=[16]), "Tokenizer files in .* cannot be read"),
        (lambda f: edit(f / "tokenizer_config.json", pad_token=None), "tokenizer of model .*fails: .*pad"),
        (lambda f: edit(f / "preprocessor_config.json", size={}, crop_size={}), "preprocessing .*fails|cannot be read"),
        (lambda f: edit(f / "preprocessor_config.json", crop_size={"height": 48, "width": 48}), "32 x 32 pixels, but"),
        (lambda f: edit(f / "preprocessor_config.json", resample=0), "`resample: 0`"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(folder, change, message):
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(f"hf:{folder}")
    assert str(folder) in str(caught.value) or "'clip'" in str(caught.value)


def test_one_mean_for_all_colours(folder):
    edit(folder / "preprocessor_config.json", image_mean=0.5, image_std=[0.25, 0.25, 0.25])
    encoder = load_model(f"hf:{folder}")
    assert (encoder.mean, encoder.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pretrained": "openai"}, "Remove `pretrained`"),
        ({"quickgelu": True}, "Remove `quickgelu`"),
        ({"mode": "itm"}, "one mode only. Remove `mode: itm`"),
        ({"mode": "match"}, "Unknown mode of a model 'match'"),
        ({"tau": 50.0}, "its own logit scale 20.09. Remove `tau: 50.0`"),
        ({"tau": -1.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit(folder, more, message):
    with pytest.raises(BSAPError, match=message):
        load_model({"name": f"hf:{folder}", **more})


def test_blip_needs_a_mode_and_for_features_a_temperature(tiny_model):
    name = f"hf:{tiny_model('blip')}"
    with pytest.raises(ConfigError, match="needs `mode`: itc"):
        load_model(name)
    with pytest.raises(ModelError, match=r"has no learned temperature. Set `tau`"):
        load_model({"name": name, "mode": "itc"})


def test_a_generative_blip_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model("blip"), tmp_path / "blip")
    edit(tmp_path / "blip" / "config.json", architectures=["BlipForConditionalGeneration"])
    with pytest.raises(ModelError, match=r"BlipForConditionalGeneration.*such as hf:Salesforce/blip-itm"):
        load_model(settings(tmp_path / "blip"))


def test_names_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="does not exist"):
        load_model(f"hf:{tmp_path / 'none'}")
    monkeypatch.setattr("bsap.models.hub.reachable", lambda: False)
    with pytest.raises(ModelError, match=r"hub cannot be reached.*`name: hf:/FOLDER`"):
        load_model("hf:nobody/no-such-model-for-this-test")


def test_weights_in_several_files_and_as_a_plain_pickle_of_tensors(folder, tiny_model):
    expected = load(tiny_model("clip")).encode_text(TEXTS)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(load(folder).encode_text(TEXTS), expected)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: state[name] for name in some}, folder / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load(folder).encode_text(TEXTS), expected)
    index["weight_map"][names[0]] = "../a.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="weight files of its own folder"):
        load(folder)


def test_an_unlisted_kind_is_called_untested(tiny_model):
    with pytest.warns(UserWarning, match="'chinese_clip', which bsap is not tested with"):
        load_model(f"hf:{tiny_model('chinese_clip')}")


def test_an_open_clip_class_refuses_a_name_of_transformers(folder):
    with pytest.raises(ConfigError, match="needs a model of open_clip"):
        Encoder(f"hf:{folder}")


def test_models_that_are_already_built(tiny_model):
    import open_clip

    from bsap.models.transformers_encoder import TransformersEncoder

    folder = str(tiny_model("clip"))
    built = TransformersEncoder.from_model(
        transformers.CLIPModel.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        label="mine",
        preprocess=transformers.AutoImageProcessor.from_pretrained(folder),
    )
    expected = load(tiny_model("clip"))
    assert torch.equal(built.encode_text(TEXTS), expected.encode_text(TEXTS))
    assert (built.mean, built.size, built.tau, built.label) == (expected.mean, expected.size, expected.tau, "mine")
    demo = Encoder("demo")
    tokenizer = open_clip.SimpleTokenizer(context_length=demo.context_length)
    again = Encoder.from_model(demo.model, tokenizer, label="again")
    assert torch.equal(again.encode_text(TEXTS), demo.encode_text(TEXTS))
    assert torch.equal(again.encode_image(pixels_of(demo)), demo.encode_image(pixels_of(demo)))
