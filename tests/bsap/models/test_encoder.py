import hashlib
import json
import socket
import subprocess
import sys
import time
import warnings

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.transforms.functional import normalize, to_tensor

from bsap.errors import ConfigError, ModelError
from bsap.models import checkpoint, hub, weights
from bsap.models.encoder import Encoder, EncoderConfig

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": [24, 32], "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear"}


def write_model(folder, *, model=MODEL, state=None, seed=5):
    """A `local-dir:` model; returns its name and weights."""
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS}))
    if state is None:
        state = random_state(f"local-dir:{folder}", seed)
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}", state


def random_state(name, seed=5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {k: v.contiguous() for k, v in open_clip.create_model(name, load_weights=False).state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder(f"local-dir:{folder}")


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (5, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny(monkeypatch):
    """Two built-in architectures that differ in their activation."""
    vision = {**MODEL["vision_cfg"], "image_size": 16}
    for name, quick in (("Tiny-16", False), ("Tiny-16-quickgelu", True)):
        config = {**MODEL, "vision_cfg": vision, "quick_gelu": quick}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    return random_state("Tiny-16")


# --- encoding ---------------------------------------------------------------------------------------------------------


def test_pictures_equal_the_plain_way(encoder, pixels):
    rows = []
    for picture in pixels:
        x = normalize(to_tensor(picture.permute(1, 2, 0).numpy()), PREPROCESS["mean"], PREPROCESS["std"])
        rows.append(F.normalize(encoder.model.visual(x[None]), dim=-1))
    got = encoder.encode_image(pixels)
    assert torch.allclose(got, torch.cat(rows), atol=1e-6)
    raw = encoder.encode_image(pixels, normalize=False)
    assert not torch.allclose(raw, got)
    assert torch.allclose(F.normalize(raw, dim=-1), got)


def test_what_an_encoder_says_of_itself(encoder, folder):
    weights_file = folder / "open_clip_model.safetensors"
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert (encoder.label, encoder.size, encoder.dim, encoder.context_length) == ("tiny", (24, 32), 24, 12)
    assert (encoder.weights_sha256, encoder.weights_hashed, encoder.weights_file) == (digest, "file", weights_file)
    assert encoder.tau == pytest.approx(1 / 0.07, rel=1e-6)
    assert encoder.interpolation == "bilinear"
    assert encoder.fill == pytest.approx((127.5, 102.0, 76.5))
    described = json.loads(json.dumps(encoder.describe()))
    assert described["weights_sha256"] == digest
    assert described["mean"] == PREPROCESS["mean"]


def test_weights_are_the_files(encoder, folder):
    from safetensors.torch import load_file

    state = load_file(folder / "open_clip_model.safetensors")
    own = encoder.model.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in state)


def test_frozen_for_good(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_autocast_runs_the_towers_in_bfloat16_and_returns_float32_unit_vectors(encoder, pixels):
    seen = []
    block = encoder.model.visual.transformer.resblocks[0].mlp.c_fc
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images, texts = encoder.encode_image(pixels), encoder.encode_text(["a dog", "a cat on the left"])
    hook.remove()
    assert seen == [torch.bfloat16]
    for rows, exact in (
        (images, encoder.encode_image(pixels)),
        (texts, encoder.encode_text(["a dog", "a cat on the left"])),
    ):
        assert rows.dtype == torch.float32
        assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-6)
        assert (rows * exact).sum(-1).min() > 0.99


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_image(torch.zeros(0, 3, 24, 32, dtype=torch.uint8)).shape == (0, 24)
    assert encoder.encode_text([]).shape == (0, 24)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 3, 24, 32),
        torch.zeros(1, 3, 32, 24, dtype=torch.uint8),
        torch.zeros(3, 24, 32, dtype=torch.uint8),
    ],
    ids=["float", "turned", "unbatched"],
)
def test_pictures_of_another_kind(encoder, wrong):
    with pytest.raises(ValueError, match=r"`pixels` to be uint8 of shape \(N, 3, 24, 32\), but got torch"):
        encoder.encode_image(wrong)


def test_texts_that_lose_their_end_are_counted_and_said_once(folder):
    encoder = Encoder(f"local-dir:{folder}")
    fits, long = "dog " * 10, "dog " * 11  # with both end tokens: 12, 13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_text([fits, "a dog"])
    assert encoder.truncated == set()
    with pytest.warns(UserWarning, match="reads 12 tokens: texts such as 'dog dog"):
        encoder.encode_text([fits, long])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_text([long, long + "left"])
    assert encoder.truncated == {long, long + "left"}


def test_memory_layout_changes_nothing(folder, encoder, pixels):
    other = Encoder({"name": f"local-dir:{folder}", "channels_last": True})
    assert torch.allclose(other.encode_image(pixels), encoder.encode_image(pixels), atol=1e-6)


def test_own_preprocessing_can_be_replaced(folder):
    encoder = Encoder({"name": f"local-dir:{folder}", "preprocess": {"mean": [0.1, 0.2, 0.3]}})
    assert (encoder.mean, encoder.std) == ((0.1, 0.2, 0.3), tuple(PREPROCESS["std"]))


# --- random weights ---------------------------------------------------------------------------------------------------


def test_random_weights_are_seeded_named_and_leave_the_generator_alone(folder, pixels):
    config = {"name": f"local-dir:{folder}", "random_init": True}
    torch.manual_seed(1)
    first = Encoder(config)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    second = Encoder(config)
    assert torch.equal(first.encode_image(pixels), second.encode_image(pixels))
    assert (first.label, first.weights_hashed, first.weights_file) == ("tiny:random", "state_dict", None)
    assert first.weights_sha256 == second.weights_sha256 != Encoder(f"local-dir:{folder}").weights_sha256


def test_the_hash_of_a_state_sees_names_types_shapes_and_values():
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    variants = [
        {"a": torch.tensor([1.0, 2.5]), "b": torch.tensor(3)},
        {"c": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]).double(), "b": torch.tensor(3)},
    ]
    assert checkpoint.state_sha256(base) == checkpoint.state_sha256(dict(reversed(base.items())))
    assert len({checkpoint.state_sha256(state) for state in [base, *variants]}) == 5


def test_never_random_by_omission(tiny):
    with pytest.raises(ConfigError, match=r"'Tiny-16' needs `pretrained`.*`random_init: true`"):
        Encoder("Tiny-16")
    with pytest.raises(ConfigError, match="exclude each other"):
        Encoder({"name": "Tiny-16", "random_init": True, "pretrained": "openai"})


# --- bad folders ------------------------------------------------------------------------------------------------------


def test_folders_that_are_not_models(tmp_path):
    name = f"local-dir:{tmp_path / 'model'}"
    with pytest.raises(
        ModelError, match=r"model does not exist. `local-dir:` needs a folder with open_clip_config.json"
    ):
        Encoder(name)
    write_model(tmp_path / "model")
    weights_file, config = tmp_path / "model/open_clip_model.safetensors", tmp_path / "model/open_clip_config.json"
    weights_file.rename(tmp_path / "model/one.safetensors")
    (tmp_path / "model/two.pt").touch()
    with pytest.raises(ModelError, match=r"several weight files \(one.safetensors, two.pt\)"):
        Encoder(name)
    (tmp_path / "model/one.safetensors").unlink()
    (tmp_path / "model/two.pt").unlink()
    with pytest.raises(ModelError, match=r"holds no weights. Put open_clip_model.safetensors"):
        Encoder(name)
    config.write_text(json.dumps({"model_cfg": {"embed_dim": 3}}))
    with pytest.raises(ModelError, match="needs a `model_cfg`"):
        Encoder(name)
    config.write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        Encoder(name)
    config.unlink()
    with pytest.raises(ModelError, match=r"has no readable open_clip_config\.json"):
        Encoder(name)


def test_a_folder_brings_its_own_weights(folder):
    with pytest.raises(ConfigError, match=r"brings its own weights. Drop `pretrained: x.pt`"):
        Encoder({"name": f"local-dir:{folder}", "pretrained": "x.pt"})


def test_weights_must_fit_key_by_key(tmp_path):
    name, state = write_model(tmp_path / "model")
    missing = {key: value for key, value in state.items() if key != "ln_final.weight"}
    write_model(tmp_path / "model", state=missing)
    with pytest.raises(ModelError, match=r"do not fit model 'model'.*ln_final.weight"):
        Encoder(name)
    write_model(tmp_path / "model", state={**state, "extra": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"do not fit model 'model'.*extra"):
        Encoder(name)


def test_numbers_that_are_not_finite_are_named(tmp_path):
    name, state = write_model(tmp_path / "model")
    state["visual.proj"][3, 4] = torch.nan
    write_model(tmp_path / "model", state=state)
    with pytest.raises(ModelError, match=r"safetensors of model 'model' hold.*not finite, first in visual.proj"):
        Encoder(name)


@pytest.mark.parametrize(
    ("key", "rows"), [("visual.positional_embedding", 26), ("positional_embedding", 8)], ids=["picture", "context"]
)
def test_positions_are_never_stretched_to_fit(tmp_path, key, rows):
    name, state = write_model(tmp_path / "model")
    write_model(tmp_path / "model", state={**state, key: torch.randn(rows, 32)})
    with pytest.raises(ModelError, match=f"for another picture size or context length: {key} is"):
        Encoder(name)


def test_an_architecture_that_cannot_be_built(tmp_path):
    name, _ = write_model(tmp_path / "model")
    broken = {**MODEL, "vision_cfg": {"timm_model_name": "no_such_tower", "image_size": 32}}
    (tmp_path / "model/open_clip_config.json").write_text(json.dumps({"model_cfg": broken}))
    with pytest.raises(ModelError, match=r"'model' cannot be built.*no_such_tower"):
        Encoder(name)


# --- names, tags, settings --------------------------------------------------------------------------------------------


def test_unknown_names_tags_and_keys():
    with pytest.raises(ConfigError, match=r"Unknown model 'ViT-B32'. Did you mean 'ViT-B-32'"):
        Encoder({"name": "ViT-B32", "pretrained": "openai"})
    with pytest.raises(ConfigError, match=r"Unknown tag of model 'ViT-B-32' 'opnai'. Did you mean 'openai'"):
        Encoder({"name": "ViT-B-32", "pretrained": "opnai"})
    with pytest.raises(ModelError, match=r"there is no weight file dir/w.pt"):
        Encoder({"name": "ViT-B-32", "pretrained": "dir/w.pt"})
    with pytest.raises(ConfigError, match=r"Unknown key of a model 'pretraind'. Did you mean 'pretrained'"):
        Encoder({"name": "ViT-B-32", "pretraind": "openai"})
    with pytest.raises(ConfigError, match="needs a `name`"):
        Encoder({"pretrained": "openai"})
    with pytest.raises(ConfigError, match="Unknown key of `preprocess` 'size'"):
        EncoderConfig("demo", preprocess={"size": 3})


# --- QuickGELU --------------------------------------------------------------------------------------------------------


def openai_archive(state, path):
    """A weight file as OpenAI publishes them: a TorchScript archive in half precision, with three extra numbers."""
    root = torch.nn.Module()
    for key, value in state.items():
        *parents, leaf = key.split(".")
        node = root
        for name in parents:
            if not hasattr(node, name):
                node.add_module(name, torch.nn.Module())
            node = getattr(node, name)
        node.register_parameter(leaf, torch.nn.Parameter(value.half()))
    for key in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(key, torch.tensor(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))


def activation(encoder):
    return type(encoder.model.visual.transformer.resblocks[0].mlp.gelu).__name__


def test_openai_tags_run_quickgelu(monkeypatch, tmp_path):
    dummy = tmp_path / "dummy.safetensors"
    dummy.touch()
    asked = []
    monkeypatch.setattr(weights, "hub_file", lambda *args, **options: asked.append(args) or dummy)
    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "ViT-B/32"):
        located = weights.locate(EncoderConfig(name, "openai"))
        assert (located.model, located.label, located.quickgelu) == (
            "ViT-B-32-quickgelu",
            "ViT-B-32-quickgelu:openai",
            True,
        )
    assert not weights.locate(EncoderConfig("ViT-B-32", "laion2b_s34b_b79k")).quickgelu
    assert weights.locate(EncoderConfig("ViT-L-14", "laion2b_s32b_b82k")).preprocess["mean"] == (0.5, 0.5, 0.5)
    assert all(repo.count("/") == 1 and "open_clip_model.safetensors" in names for repo, names in asked)
    with pytest.raises(ConfigError, match="were trained with quickgelu: True"):
        weights.locate(EncoderConfig("ViT-B-32", "openai", quickgelu=False))
    with pytest.raises(ConfigError, match="were trained with quickgelu: False"):
        weights.locate(EncoderConfig("ViT-B-32", "laion2b_s34b_b79k", quickgelu=True))


def test_a_weight_file_must_state_its_activation(tiny, tmp_path):
    file = tmp_path / "mine.pt"
    torch.save({"state_dict": {f"module.{key}": value for key, value in tiny.items()}}, file)
    with pytest.raises(ConfigError, match=r"mine.pt does not say whether 'Tiny-16' was trained with QuickGELU"):
        Encoder({"name": "Tiny-16", "pretrained": str(file)})
    plain = Encoder({"name": "Tiny-16", "pretrained": str(file), "quickgelu": False})
    quick = Encoder({"name": "Tiny-16", "pretrained": str(file), "quickgelu": True})
    named = Encoder({"name": "Tiny-16-quickgelu", "pretrained": str(file)})
    assert [activation(e) for e in (plain, quick, named)] == ["GELU", "QuickGELU", "QuickGELU"]
    assert plain.label == "Tiny-16:mine"
    with pytest.raises(ConfigError, match=r"uses QuickGELU, but `quickgelu` is false. Name 'Tiny-16'"):
        Encoder({"name": "Tiny-16-quickgelu", "pretrained": str(file), "quickgelu": False})


def test_openai_files_are_known_by_their_hash(tiny, tmp_path, monkeypatch):
    archive, file = tmp_path / "archive.pt", tmp_path / "state.safetensors"
    openai_archive(tiny, archive)
    save_file(tiny, file)
    for path in (archive, file):
        monkeypatch.setitem(weights.OPENAI, checkpoint.file_sha256(path), "Tiny-16")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder = Encoder({"name": "Tiny-16", "pretrained": str(path)})
        assert activation(encoder) == "QuickGELU"
        assert torch.allclose(encoder.model.visual.proj, tiny["visual.proj"], atol=1e-3)
        with pytest.raises(ConfigError, match="is one of OpenAI's, which use QuickGELU"):
            Encoder({"name": "Tiny-16", "pretrained": str(path), "quickgelu": False})


def test_openai_weights_in_a_folder_without_the_activation(folder, monkeypatch):
    monkeypatch.setitem(weights.OPENAI, checkpoint.file_sha256(folder / "open_clip_model.safetensors"), "ViT-B-32")
    with pytest.raises(ConfigError, match="lacks `quick_gelu: true`"):
        Encoder(f"local-dir:{folder}")


def test_a_folder_that_contradicts_the_settings(folder):
    with pytest.raises(ConfigError, match=r"is configured with quickgelu: False. Drop `quickgelu`"):
        Encoder({"name": f"local-dir:{folder}", "quickgelu": True})


def test_a_bare_file_does_not_tell_pixel_statistics_that_differ_between_publications(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.touch()
    config = {"name": "ViT-L-14", "pretrained": str(file), "quickgelu": False}
    with pytest.raises(ConfigError, match=r"published with different pixel statistics. Set `preprocess"):
        weights.locate(EncoderConfig.of(config))
    stated = {**config, "preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    assert weights.locate(EncoderConfig.of(stated)).preprocess["std"] == [0.5] * 3
    siglip = weights.locate(EncoderConfig("ViT-B-16-SigLIP", str(file)))
    assert siglip.preprocess["mean"] == (0.5, 0.5, 0.5)


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import constants

    def refuse(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return huggingface_hub


@pytest.mark.parametrize(
    "config",
    [
        {"name": "ViT-B-32-quickgelu", "pretrained": "openai"},
        {"name": "ViT-B-16-SigLIP", "pretrained": "webli"},
        {"name": "hf-hub:timm/vit_base_patch32_clip_224.openai"},
    ],
    ids=lambda config: config["name"],
)
def test_offline_is_said_in_seconds_with_two_ways_out(no_network, config):
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        Encoder(config)
    assert time.monotonic() - start < 5
    for part in (config["name"], "cannot be reached", "local-dir:FOLDER", "pretrained: FILE"):
        assert part in str(caught.value)


def test_a_tokenizer_that_is_not_there(no_network, tmp_path):
    pytest.importorskip("transformers")
    file = tmp_path / "w.safetensors"
    file.touch()
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"its tokenizer timm/ViT-B-16-SigLIP is not cached"):
        Encoder({"name": "ViT-B-16-SigLIP", "pretrained": str(file)})
    assert time.monotonic() - start < 20  # `import transformers` is most of it


def test_a_repository_without_weights_is_no_random_model(monkeypatch, folder):
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    calls = []

    def download(repo, name, *, local_files_only=False, **options):
        calls.append((name, local_files_only))
        if name == "open_clip_config.json":
            return str(folder / name)
        raise LocalEntryNotFoundError("not cached") if local_files_only else EntryNotFoundError("no such file")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    with pytest.raises(ModelError, match=r"repository me/mine has none of open_clip_model.safetensors, "):
        Encoder("hf-hub:me/mine")
    assert ("open_clip_config.json", False) not in calls  # what is cached is not asked for again


def test_a_repository_is_a_folder_once_it_is_here(monkeypatch, folder, encoder, pixels):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, **options: str(folder / name))
    other = Encoder("hf-hub:me/mine")
    assert other.label == "me/mine"
    assert torch.equal(other.encode_image(pixels), encoder.encode_image(pixels))
    monkeypatch.undo()
    with pytest.raises(ModelError, match="Repo id must"):
        Encoder("hf-hub:a/b/c")


# --- tokenizers -------------------------------------------------------------------------------------------------------

WORDS = ["<pad>", "</s>", "<unk>", "a", "dog", "left", "cat", "red"]


def siglip_folder(folder, *, pad="</s>", vocab_size=8):
    """A model with a tokenizer of SigLIP's kind: no start token, an end token that also pads, lower case."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    raw = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    text = {
        **MODEL["text_cfg"],
        "context_length": 8,
        "vocab_size": vocab_size,
        "hf_tokenizer_name": "me/siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
    }
    name, _ = write_model(folder, model={**MODEL, "custom_text": True, "text_cfg": text})
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return name


@pytest.mark.parametrize("pad", ["</s>", "<pad>"])
def test_a_tokenizer_of_siglips_kind(tmp_path, pad):
    encoder = Encoder(siglip_folder(tmp_path / "siglip", pad=pad))
    fill = WORDS.index(pad)
    assert encoder.tokenize(["A Dog!"]).tolist() == [[3, 4, 1] + [fill] * 5]
    assert not encoder.trimmed
    texts = ["a dog", "red cat left"]
    expected = encoder.model.encode_text(encoder.tokenizer(texts), normalize=True)
    assert torch.allclose(encoder.encode_text(texts), expected, atol=1e-5)
    encoder.tokenize(["a dog " * 3 + "left"])  # 7 words and the end fill the 8 places
    assert not encoder.truncated
    with pytest.warns(UserWarning, match="reads 8 tokens"):
        encoder.tokenize(["a dog " * 4])
    assert encoder.truncated == {"a dog " * 4}


def test_a_tokenizer_that_is_not_the_models(tmp_path):
    encoder = Encoder(siglip_folder(tmp_path / "siglip", vocab_size=6))
    with pytest.raises(ModelError, match="gives ids up to 7, the model knows 6"):
        encoder.encode_text(["a red cat"])


def test_a_folder_without_its_tokenizer(tmp_path):
    name = siglip_folder(tmp_path / "siglip")
    for file in (tmp_path / "siglip").glob("token*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"Tokenizer files in .*siglip cannot be read"):
        Encoder(name)


# --- everything open_clip has -----------------------------------------------------------------------------------------

FAMILIES = [
    "RN50",
    "ViT-B-32-quickgelu",
    "coca_ViT-B-32",
    "ViT-B-16-SigLIP",
    "EVA02-B-16",
    "convnext_base",
    "MobileCLIP-S1",
    "PE-Core-B-16",
    "ViT-H-14-CLIPA",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_representative_of_each_family_runs(name):
    pytest.importorskip("timm")
    encoder = Encoder({"name": name, "random_init": True})
    rng = np.random.default_rng(0)
    picture = torch.from_numpy(rng.integers(0, 256, (2, 3, *encoder.size), dtype=np.uint8))
    images = encoder.encode_image(picture)
    assert images.shape == (2, encoder.dim)
    assert torch.allclose(images.norm(dim=-1), torch.ones(2), atol=1e-5)
    if encoder._located.tokenizer is not None:  # its files are on the hub
        encoder._tokenizer = lambda texts, context_length=None: torch.tensor([[5, 6, 7, 1] + [0] * 200] * len(texts))[
            :, : context_length or encoder.context_length
        ]
    texts = encoder.encode_text(["a dog", "the dog on the left"])
    expected = encoder.model.encode_text(encoder.tokenizer(["a dog", "the dog on the left"]), normalize=True)
    assert torch.allclose(texts, expected, atol=1e-5)


def test_an_unknown_way_to_compile_is_refused(folder):
    with pytest.raises(ConfigError, match="Did you mean 'reduce-overhead'"):
        EncoderConfig(f"local-dir:{folder}", compile="reduce_overhead")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_a_compiled_tower_gives_the_same(folder, encoder, pixels, mode):
    other = Encoder({"name": f"local-dir:{folder}", "compile": mode})
    assert torch.allclose(other.encode_image(pixels), encoder.encode_image(pixels), atol=1e-5)


def test_importing_is_light():
    heavy = "{'open_clip', 'transformers', 'lightning', 'spacy'}"
    code = f"import sys, bsap.models.encoder, bsap.prompts.phrases; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
