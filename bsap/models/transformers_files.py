"""Files of a `transformers` model: found, checked and read without running anything in them.

A model is built here from a plain copy of its configuration and from weights that were read as tensors only:
`transformers` would follow some settings to Python files, to adapters and to downloaded kernels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsap.errors import ConfigError, ModelError
from bsap.models.architecture import PARAMETERS, plain_config, read_json
from bsap.models.checkpoint import (
    check_finite_weights,
    check_tokenizer_files,
    file_sha256,
    quiet_loading,
    read_state,
    short,
)
from bsap.models.config import EncoderConfig
from bsap.models.hub import hub_file, offline, reachable
from bsap.models.transformers_families import FAMILIES, PREFIX, Family, family_of

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ModelFolder:
    """A folder in the format of `transformers`, what its ``config.json`` holds, and the setting `mode` or ""."""

    folder: Path
    label: str
    config: Mapping[str, Any]
    family: Family
    mode: str


def find_model(config: EncoderConfig) -> ModelFolder:
    """Find the folder of a model ``hf:...``, from the hub's cache or the hub where it is a name."""
    name = config.name.removeprefix(PREFIX)
    for key in ("pretrained", "quickgelu"):
        if getattr(config, key) is not None:
            raise ConfigError(f"Model {config.name!r} brings its own weights and activation. Remove `{key}`.")
    folder, label = Path(name).expanduser(), name
    if folder.is_dir():
        label = folder.resolve().name
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"Model folder {folder} does not exist. Name a folder with config.json and weights.")
    else:
        folder = _download(name, config.name)
    if not (folder / "config.json").is_file():
        raise ModelError(f"Model folder {folder} has no config.json. Use a folder that `save_pretrained` wrote.")
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{folder / 'config.json'} has no `model_type`. Use a folder that `save_pretrained` wrote.")
    family = family_of(kind)
    mode = config.mode or ""
    if family.modes and mode not in family.modes:
        raise ConfigError(
            f"Model {config.name!r} needs `mode`: itc compares one feature of the picture with one of the text, itm "
            f"reads each pair of them by cross-attention and is much slower; got {config.mode!r}."
        )
    if mode and not family.modes:
        raise ConfigError(f"Model {config.name!r} has one mode only. Remove `mode: {mode}`.")
    label = config.label or (f"{label}:{mode}" if mode else label)
    return ModelFolder(folder, f"{label}:random" if config.random_init else label, content, family, mode)


def _download(repo: str, model: str) -> Path:
    fix = f"name a folder that `save_pretrained` wrote, `name: {PREFIX}/FOLDER`."
    folder = hub_file(repo, ("config.json",), model=model, fix=fix).parent
    if all(_has(folder, names) for names in (_WEIGHTS, _TOKENIZERS, _PROCESSORS)):
        return folder
    if not reachable():
        raise offline(model, f"a file of {repo}", fix=fix)
    from huggingface_hub import snapshot_download

    plain = ["*.json", "*.txt", "*.model"]
    try:
        files = snapshot_download(repo, allow_patterns=[*plain, "*.safetensors"], ignore_patterns=["*/*"])
        if not _has(Path(files), _WEIGHTS[:2]):
            files = snapshot_download(repo, allow_patterns=[*plain, "pytorch_model*.bin"], ignore_patterns=["*/*"])
    except Exception as error:  # the hub's client raises types of its HTTP library
        raise ModelError(f"Model {model!r}: cannot download {repo}: {error}") from error
    return Path(files)


def _has(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_file() for name in names)


# --- tokenizer and preprocessing --------------------------------------------------------------------------------------


def load_tokenizer(found: ModelFolder) -> Any:
    """The model's tokenizer, from files that name no code to run."""
    from transformers import AutoTokenizer

    if not _has(found.folder, _TOKENIZERS):  # `transformers` would make an empty tokenizer
        raise ModelError(
            f"Model folder {found.folder} has no tokenizer. Put one of {', '.join(_TOKENIZERS)} there, for example by "
            "`tokenizer.save_pretrained(FOLDER)`."
        )
    try:
        check_tokenizer_files(found.folder)
        with quiet_loading():
            read: Any = AutoTokenizer.from_pretrained
            tokenizer = read(str(found.folder), local_files_only=True, trust_remote_code=False)
        int(tokenizer.model_max_length)  # `transformers` takes anything for it, and fails at the first text
    except ModelError:
        raise
    except Exception as error:  # tokenizers raise what they like
        raise ModelError(f"Tokenizer files in {found.folder} cannot be read: {short(error)}") from error
    return tokenizer


def load_image_processor(found: ModelFolder) -> Any:
    """The model's own preprocessing of pictures, computed by PIL."""
    import transformers

    if not _has(found.folder, _PROCESSORS):
        raise ModelError(
            f"Model folder {found.folder} has no preprocessor_config.json, which states size, mean and standard "
            "deviation. Save it with `image_processor.save_pretrained(FOLDER)`."
        )
    with_pil = {"backend": "pil"} if int(transformers.__version__.partition(".")[0]) >= 5 else {"use_fast": False}
    try:
        with quiet_loading():
            read: Any = transformers.AutoImageProcessor.from_pretrained
            return read(str(found.folder), local_files_only=True, trust_remote_code=False, **with_pil)
    except Exception as error:  # processors raise what they like
        raise ModelError(f"Preprocessing of model {found.label!r} cannot be read: {short(error)}") from error


# --- configuration and weights ----------------------------------------------------------------------------------------


def build_model(found: ModelFolder, *, random_init: bool) -> tuple[Any, Path | None, str]:
    """Build the model in float32 on the CPU and load its weights, or seeded random ones.

    Returns:
        The model, its weight file (the index where there are several) and the SHA-256 of its weights; None and "" for
        random weights.

    Raises:
        ModelError: the model cannot be built, has no features, or the weights do not fill it completely.
    """
    config, cls = _configuration(found)
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in cls(config).parameters())
            if size > PARAMETERS:
                raise ModelError(f"Model {found.label!r} has {size:,} parameters. Correct the sizes in config.json.")
            if random_init:
                return cls(config).float(), None, ""
            state, file, sha256 = _read_weights(found)
            model, report = cls.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32
            )
        except ModelError:
            raise
        except Exception as error:  # a configuration can fail anywhere in `transformers`
            raise ModelError(f"Model {found.label!r} cannot be built from {found.folder}: {short(error)}") from error
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ModelError(
            f"Weights {file} do not fill model {found.label!r}: {len(lacking)} tensors are missing or have another "
            f"shape, first {lacking[0]:.100}. They belong to another architecture or were not saved completely; save "
            "the whole model with `save_pretrained`."
        )
    check_finite_weights(model, file, found.label)
    return model, file, sha256


def _configuration(found: ModelFolder) -> tuple[Any, Any]:
    import transformers
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    kind, named = str(found.config["model_type"]), found.config.get("architectures")
    known = ", ".join(family.kind for family in FAMILIES)
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"Model {found.label!r} is of the kind {kind!r:.60}, which transformers {transformers.__version__} does "
            f"not know. bsap reads {known} and other models with `get_image_features` and `get_text_features`."
        )
    try:
        usual = CONFIG_MAPPING[kind]()
        with quiet_loading():
            config = type(usual).from_dict(plain_config(found.config, usual.to_dict(), found.folder / "config.json"))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{found.folder / 'config.json'} is not a configuration: {short(error)}") from error
    name = found.family.architecture
    cls: Any = getattr(transformers, name) if name else MODEL_MAPPING.get(type(config), None)
    if not (name or (hasattr(cls, "get_image_features") and hasattr(cls, "get_text_features"))):
        raise ModelError(
            f"Model {found.label!r} is of the kind {kind!r}, which has no features for pictures and texts. Choose a "
            f"model that compares them, of the kind {known}."
        )
    if isinstance(named, list) and named and cls.__name__ not in named:
        raise ModelError(
            f"Model {found.label!r} holds the weights of {', '.join(map(str, named))[:80]}, not of {cls.__name__}. "
            f"Choose a model that compares pictures and texts, such as {found.family.example or FAMILIES[0].example}."
        )
    return config, cls


def _read_weights(found: ModelFolder) -> tuple[dict[str, Tensor], Path, str]:
    file = next((found.folder / name for name in _WEIGHTS if (found.folder / name).is_file()), None)
    if file is None:
        raise ModelError(f"Model folder {found.folder} holds no weights. Put {_WEIGHTS[0]} beside config.json.")
    if file.suffix != ".json":
        return read_state(file), file, file_sha256(file)
    parts = read_json(file).get("weight_map")
    names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
    if not names or any(Path(name).name != name or not (found.folder / name).is_file() for name in names):
        raise ModelError(f"{file} must name weight files of its own folder. Fetch the model again.")
    state: dict[str, Tensor] = {}
    for name in names:
        state.update(read_state(found.folder / name))
    digest = hashlib.sha256("".join(file_sha256(found.folder / name) for name in names).encode()).hexdigest()
    return state, file, digest
