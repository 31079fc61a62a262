"""Finds the architecture and the weights that a configuration means, without guessing.

open_clip guesses where an evaluation must not: it returns random weights when a download fails, runs OpenAI's weights
with the wrong activation, and uses the default preprocessing for a weight file without a configuration. :func:`locate`
decides on file, activation and preprocessing before anything is built, or says which setting is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bsap.errors import ConfigError, ModelError, unknown
from bsap.models.architecture import check_architecture, read_json
from bsap.models.checkpoint import file_sha256
from bsap.models.config import EncoderConfig, Located, check_preprocess
from bsap.models.hub import hub_file

LOCAL, HUB = "local-dir:", "hf-hub:"
_CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
_TAGGED = ("mean", "std", "interpolation")

OPENAI = {
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762": "RN50",
    "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599": "RN101",
    "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd": "RN50x4",
    "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa": "RN50x16",
    "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c": "RN50x64",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336",
}
"""SHA-256 of OpenAI's published weight files, as their download addresses contain it, and what each holds."""


def locate(config: EncoderConfig) -> Located:
    """Find what a configuration means; downloads weights that are not in the cache.

    Raises:
        ConfigError: an unknown name or tag, or settings that contradict each other.
        ModelError: weights that are missing, unreachable or ambiguous.
    """
    name = config.name
    if config.random_init and config.pretrained:
        raise ConfigError(f"Model {name!r}: `random_init: true` and `pretrained` exclude each other. Drop one of them.")
    if name == "demo":
        name = f"{LOCAL}{Path(__file__).parents[1] / 'demo' / 'model'}"
    if name.startswith("hf:"):
        raise ConfigError(
            f"Model {name!r} is in the format of transformers, and this needs a model of open_clip: an architecture "
            f"with `pretrained`, `{HUB}NAME` or `{LOCAL}FOLDER`."
        )
    if config.mode is not None or config.tau is not None:
        raise ConfigError(f"`mode` and `tau` are settings of BLIP only. Remove them from model {name!r}.")
    if not name.startswith((LOCAL, HUB)):
        return _named(config)
    if config.pretrained:
        raise ConfigError(f"Model {name!r} brings its own weights. Drop `pretrained: {config.pretrained}`.")
    return _folder(config, name) if name.startswith(LOCAL) else _hub(config, name)


def _folder(config: EncoderConfig, name: str) -> Located:
    folder = Path(name.removeprefix(LOCAL)).expanduser()
    if not folder.is_dir():
        raise ModelError(f"Model folder {folder} does not exist. `{LOCAL}` needs a folder with {_CONFIG} and weights.")
    architecture, preprocess = _read_config(folder / _CONFIG)
    file = None if config.random_init else _weights_in(folder)
    label = config.name if config.name == "demo" else folder.resolve().name
    return _settled(config, f"{LOCAL}{folder}", label, architecture, file, preprocess=preprocess, tokenizer=str(folder))


def _weights_in(folder: Path) -> Path:
    found = [folder / file for file in _FILES if (folder / file).is_file()]
    kinds = ("*.safetensors", "*.bin", "*.pt", "*.pth")  # a pipe or a device would be read for ever
    found = found or sorted(path for kind in kinds for path in folder.glob(kind) if path.is_file())
    if not found:
        raise ModelError(f"Model folder {folder} holds no weights. Put {_FILES[0]} beside {_CONFIG}.")
    if len(found) > 1 and found[0].name not in _FILES:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"Model folder {folder} holds several weight files ({names}). Call the right one {_FILES[0]}.")
    return found[0]


def _hub(config: EncoderConfig, name: str) -> Located:
    repo = name.removeprefix(HUB)
    folder = hub_file(repo, (_CONFIG,), model=name).parent
    architecture, preprocess = _read_config(folder / _CONFIG)
    file = None if config.random_init else hub_file(repo, _FILES[:2], model=name)
    # The snapshot in the cache is a model folder, so that open_clip has nothing left to fetch.
    return _settled(config, f"{LOCAL}{folder}", repo, architecture, file, preprocess=preprocess, paired=True)


def _named(config: EncoderConfig) -> Located:
    import open_clip

    name, tag = config.name.replace("/", "-"), config.pretrained
    if name not in open_clip.list_models():
        if "/" in config.name:
            raise ConfigError(
                f"Unknown model {config.name!r}. A repository of the Hugging Face hub is `name: {HUB}{config.name}`, a "
                f"folder `name: {LOCAL}{config.name}`; `bsap list models` knows the architectures."
            )
        raise unknown("model", config.name, ["demo", *open_clip.list_models()])
    architecture = open_clip.get_model_config(name)
    if config.random_init:
        return _settled(config, name, name, architecture, None)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag is None:
        known = f"a weight file, or one of {', '.join(tags)}" if tags else "a weight file; none are published"
        raise ConfigError(
            f"Model {name!r} needs `pretrained`: {known}. Random weights are for benchmarks only, by "
            "`random_init: true`."
        )
    published = open_clip.get_pretrained_cfg(name, tag)
    if published:
        return _tagged(config, name, tag, published)
    file = Path(tag).expanduser()
    if file.is_file():
        return _file(config, name, file, architecture)
    if file.suffix or len(file.parts) > 1 or not tags:
        raise ModelError(f"Model {name!r}: there is no weight file {file}. Published tags: {', '.join(tags) or '-'}.")
    base = name.removesuffix("-quickgelu")
    if tag in open_clip.list_pretrained_tags_by_model(base):
        raise ConfigError(
            f"Tag {tag!r} belongs to model {base!r}, not to {name!r}, which runs QuickGELU. Name {base!r}."
        )
    raise unknown(f"tag of model {name!r}", tag, tags)


def _tagged(config: EncoderConfig, name: str, tag: str, published: Mapping[str, Any]) -> Located:
    import open_clip

    quickgelu = bool(published.get("quick_gelu", False))
    if config.quickgelu is not None and config.quickgelu != quickgelu:
        raise ConfigError(f"Weights {name}:{tag} were trained with quickgelu: {quickgelu}. Drop `quickgelu`.")
    if quickgelu and f"{name}-quickgelu" in open_clip.list_models():
        name = f"{name}-quickgelu"
    repo, _, file = str(published.get("hf_hub", "")).rpartition("/")
    if not repo:
        raise ModelError(
            f"Weights {name}:{tag} are not on the hub. Download {published.get('url')} and give `pretrained: FILE`."
        )
    # Where a tag names no file, open_clip's two standard names hold; a safetensors twin is safer to read than a pickle.
    files = (str(Path(file).with_suffix(".safetensors")), file) if file else _FILES[:2]
    architecture = {**open_clip.get_model_config(name), "quick_gelu": quickgelu}
    path = hub_file(repo, files, model=f"{name}:{tag}")
    return _settled(config, name, f"{name}:{tag}", architecture, path, preprocess=_kept(published), paired=True)


def _file(config: EncoderConfig, name: str, file: Path, architecture: Mapping[str, Any]) -> Located:
    import open_clip

    sha256, label = file_sha256(file), f"{name}:{file.stem}"
    if sha256 in OPENAI:  # all of their models use QuickGELU and one preprocessing
        if config.quickgelu is False:
            raise ConfigError(f"Weight file {file} is one of OpenAI's, which use QuickGELU. Drop `quickgelu: false`.")
        architecture = {**architecture, "quick_gelu": True}
        return _settled(config, name, label, architecture, file, sha256=sha256)
    base = name.removesuffix("-quickgelu")
    own = bool(architecture.get("quick_gelu", False))
    if own and config.quickgelu is False:
        raise ConfigError(f"Model {name!r} uses QuickGELU, but `quickgelu` is false. Name {base!r} instead.")
    # Towers of other libraries have an activation of their own; CLIP's may need either where none is named.
    unsaid = "quick_gelu" not in architecture and "timm_model_name" not in architecture["vision_cfg"]
    twin = f"{base}-quickgelu" in open_clip.list_models()
    if config.quickgelu is None and not own and (twin or unsaid):
        raise ConfigError(
            f"Weight file {file} does not say whether {name!r} was trained with QuickGELU. Set `quickgelu: true` "
            "(OpenAI, DFN, MetaCLIP and their descendants) or `quickgelu: false`."
        )
    tags = open_clip.list_pretrained_tags_by_model(name) or open_clip.list_pretrained_tags_by_model(base)
    known = [_kept(open_clip.get_pretrained_cfg(base, tag)) for tag in tags]
    stated = set(config.preprocess or ())
    if any(entry != known[0] for entry in known) and not {"mean", "std"} <= stated:
        raise ConfigError(
            f"Weights of {name!r} are published with different pixel statistics. Set `preprocess: {{mean: [...], "
            f"std: [...]}}` for {file}."
        )
    architecture = {**architecture, "quick_gelu": own or bool(config.quickgelu)}
    preprocess = known[0] if known else {}
    return _settled(config, name, label, architecture, file, preprocess=preprocess, sha256=sha256)


def _settled(
    config: EncoderConfig,
    model: str,
    label: str,
    architecture: Mapping[str, Any],
    file: Path | None,
    *,
    preprocess: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    sha256: str = "",
    paired: bool = False,
) -> Located:
    quickgelu = bool(architecture.get("quick_gelu", False))
    if file is None:
        label, quickgelu = f"{label}:random", quickgelu or bool(config.quickgelu)
    else:
        sha256 = sha256 or file_sha256(file)
        if sha256 in OPENAI and not quickgelu:
            raise ConfigError(f"{file} holds OpenAI's weights, but its {_CONFIG} lacks `quick_gelu: true`.")
    if config.quickgelu is not None and config.quickgelu != quickgelu:
        raise ConfigError(f"Model {config.name!r} is configured with quickgelu: {quickgelu}. Drop `quickgelu`.")
    hugging_face = architecture["text_cfg"].get("hf_tokenizer_name")
    return Located(
        model=model,
        label=config.label or label,
        architecture=architecture,
        quickgelu=quickgelu,
        file=file,
        sha256=sha256,
        preprocess={**(preprocess or {}), **(config.preprocess or {})},
        tokenizer=(tokenizer or hugging_face) if hugging_face else None,
        paired=paired,
        openai=sha256 in OPENAI,
    )


def _read_config(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    content = read_json(path)
    model = content.get("model_cfg")
    parts = (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict))
    if not isinstance(model, dict) or not all(isinstance(model.get(key), kind) for key, kind in parts):
        raise ModelError(
            f"{path} needs a `model_cfg` with `embed_dim`, a whole number, and `vision_cfg` and `text_cfg`, mappings."
        )
    check_architecture(model, path)
    preprocess = content.get("preprocess_cfg") or {}
    if not isinstance(preprocess, dict):
        raise ModelError(f"`preprocess_cfg` in {path} must be a mapping, but is {preprocess!r}.")
    kept = _kept(preprocess)
    check_preprocess(kept, f"`preprocess_cfg` of {path}", ModelError)
    return model, kept


def _kept(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    return {key: preprocess[key] for key in _TAGGED if preprocess.get(key) is not None}
