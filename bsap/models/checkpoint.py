"""Builds a model from an architecture and a weight file, which must fit each other key by key."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import sys
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bsap.errors import ModelError
from bsap.models.architecture import plain_text_config, read_json
from bsap.models.config import Located
from bsap.models.hub import hub_file, offline, reachable

OPENAI_EXTRA = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI keeps beside the weights."""

_POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


def build(located: Located) -> Any:
    """Build a model in float32 on the CPU and load its weights; seeded random ones where there is no weight file.

    Raises:
        ModelError: the architecture cannot be built, or the file cannot be read, does not fit it key by key, or holds
            numbers that are not finite.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]), quiet_loading(), TemporaryDirectory() as folder:
        torch.manual_seed(0)
        try:
            model = open_clip.create_model(
                located.model,
                load_weights=False,
                force_quick_gelu=located.quickgelu,
                force_preprocess_cfg=dict(located.preprocess),
                pretrained_text=False,
                **_towers(located, Path(folder)),
            )
        except ModelError:
            raise
        except Exception as error:  # a configuration can fail anywhere in open_clip, timm or transformers
            raise ModelError(f"Model {located.label!r} cannot be built: {error}") from error
        if located.file is not None:
            _load(model, located, located.file)
    return model


def _towers(located: Located, folder: Path) -> dict[str, Any]:
    # open_clip gets the settings that were checked, and does not read the file again. A Hugging Face text tower is
    # built from a plain copy of its configuration, because some configurations make `transformers` run code.
    keys = ("vision_cfg", "text_cfg", "multimodal_cfg")
    towers = {key: dict(located.architecture[key]) for key in keys if key in located.architecture}
    if "timm_model_name" in towers["vision_cfg"]:
        towers["vision_cfg"]["timm_model_pretrained"] = False
    if name := towers["text_cfg"].get("hf_model_name"):
        own = Path(name) / "config.json"
        file = own if own.is_file() else hub_file(name, ("config.json",), model=located.label)
        config = plain_text_config(read_json(file), name)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        towers["text_cfg"].update(hf_model_name=str(folder), hf_model_pretrained=False)
    return towers


def _load(model: nn.Module, located: Located, file: Path) -> None:
    from open_clip.convert import load_big_vision_weights

    try:
        if file.suffix in (".npz", ".npy"):
            load_big_vision_weights(model, str(file))  # NumPy refuses pickled objects unless asked for them
        else:
            _fit(model, _read_state(located, file), file, stretch=located.paired)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"Weights {file} do not fit model {located.label!r}: {short(error)}") from error
    check_finite_weights(model, file, located.label)


def check_finite_weights(model: nn.Module, file: Path | None, label: str) -> None:
    """Refuse a model whose weights, from a file, are NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(
                f"Weights {file} of model {label!r} hold numbers that are not finite, first in {name}. Download the "
                "file again, or train the model without overflows."
            )


def _fit(model: Any, state: dict[str, Tensor], file: Path, *, stretch: bool) -> None:
    """Load a state dictionary as ``open_clip.load_checkpoint`` does.

    That function also reads the file itself, and falls back to unpickling everything in it.
    """
    from open_clip import model as towers
    from open_clip.convert import convert_state_dict

    if not stretch:
        _check_positions(model, state, file)
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = towers.convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state and getattr(model, name) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    if model.logit_bias is not None:
        state.setdefault("logit_bias", torch.zeros_like(state["logit_scale"]))
    positions = "text.transformer.embeddings.position_ids"  # older versions of `transformers` stored them
    if not hasattr(model, positions):
        state.pop(positions, None)
    towers.resize_pos_embed(state, model)
    towers.resize_text_pos_embed(state, model)
    model.load_state_dict(state, strict=True)


def short(error: Exception) -> str:
    """An error of another library in one line."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def read_plain(file: Path) -> Any:
    """The tensors and plain values in a file of safetensors or :func:`torch.save`; nothing in the file is executed.

    Raises:
        ModelError: the file is damaged, holds anything else, or is a TorchScript archive.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        if _is_tar(file):
            raise ValueError("torch before 2.6 unpickles what is in a tar, also with `weights_only`")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on archives and protocols that are refused in a moment
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zip archives and safetensors raise errors of many types
        if "TorchScript" in str(error):
            raise ModelError(
                f"Weight file {file} is a TorchScript archive, which is a program. Only OpenAI's own files are read in "
                "that form. Save `model.state_dict()` as safetensors."
            ) from error
        raise _unreadable(file) from error


def _is_tar(file: Path) -> bool:
    # Without decompressing, as torch opens it: a small file could fill the memory.
    try:
        with tarfile.open(file, "r:"):
            return True
    except tarfile.ReadError:
        return False


def read_state(file: Path, *inside: str) -> dict[str, Tensor]:
    """The state dictionary that :func:`read_plain` finds in a file, or ``inside`` one of these entries of it."""
    content = read_plain(file)
    for key in inside:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(x, Tensor) for x in content.values()):
        raise _unreadable(file)
    return {str(name): tensor for name, tensor in content.items()}


def _unreadable(file: Path) -> ModelError:
    # torch's own message advises to unpickle whatever the file holds.
    return ModelError(
        f"Weight file {file} is not a state dictionary, or is damaged. Save `model.state_dict()` as safetensors, or "
        "download the file again."
    )


def _read_state(located: Located, file: Path) -> dict[str, Tensor]:
    if not located.openai or file.suffix == ".safetensors":
        state = read_state(file, "state_dict")
        wrapped = next(iter(state)).startswith("module.")  # as a model on several devices is saved
        return {name.removeprefix("module."): tensor for name, tensor in state.items()} if wrapped else state
    data = file.read_bytes()  # once, so that what is loaded is what was hashed
    if hashlib.sha256(data).hexdigest() != located.sha256:
        raise ModelError(f"Weight file {file} changed while it was read. Start again.")
    archive: Any = torch.jit.load(io.BytesIO(data), map_location="cpu")
    return {name: tensor for name, tensor in archive.state_dict().items() if name not in OPENAI_EXTRA}


def _check_positions(model: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    # open_clip stretches position embeddings to the model's grid without a warning: a file for another picture
    # size or context length would load and give other numbers.
    own = model.state_dict()
    for name in _POSITIONS:
        expected = own.get(name, own.get(f"text.{name}"))
        if name in state and expected is not None and state[name].shape != expected.shape:
            raise ModelError(
                f"Weights {file} are for another picture size or context length: {name} is "
                f"{tuple(state[name].shape)}, the model's {tuple(expected.shape)}."
            )


def make_tokenizer(located: Located) -> Any:
    """The model's tokenizer: CLIP's own, or a Hugging Face one from the model's folder, the cache or the hub.

    Raises:
        ModelError: the tokenizer's files or the `transformers` package are missing, or the files name code to run.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = located.architecture["text_cfg"]
    context_length, options = text.get("context_length", 77), dict(text.get("tokenizer_kwargs") or {})
    if located.tokenizer is None:
        options.pop("strip_sep_token", None)  # CLIP's own tokenizer has none
        return SimpleTokenizer(context_length=context_length, **options) if options else _clip_tokenizer(context_length)
    options.update(context_length=context_length, tokenizer_mode=text.get("tokenizer_mode"))
    options["trust_remote_code"] = False  # otherwise `transformers` asks on the terminal
    folder = Path(located.tokenizer)
    try:
        if folder.is_dir():
            check_tokenizer_files(folder)
        return HFTokenizer(located.tokenizer, local_files_only=True, **options)
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(f"The tokenizer of model {located.label!r} needs `pip install transformers`.") from error
    except Exception as error:
        if folder.is_dir():
            raise ModelError(f"Tokenizer files in {located.tokenizer} cannot be read: {error}") from error
        if not reachable():
            raise offline(located.label, f"its tokenizer {located.tokenizer}") from error
    try:
        return HFTokenizer(located.tokenizer, **options)
    except Exception as error:
        raise ModelError(f"Tokenizer {located.tokenizer} of model {located.label!r}: {error}") from error


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer whose JSON files name Python code to run."""
    for name in ("tokenizer_config.json", "config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in json.loads(path.read_text(encoding="utf-8-sig")):
            raise ModelError(
                f"{path} names Python code by `auto_map`, which is not executed. Remove the key if a class of "
                "`transformers` reads this tokenizer."
            )


@functools.cache
def _clip_tokenizer(context_length: int) -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)  # reading the vocabulary takes longer than a small model


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dictionary: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the libraries' warnings about what is checked here anyway."""
    # open_clip logs "initialized randomly" on the root logger before our own strict loading, and the first message on
    # an unconfigured root logger installs a handler for the whole program.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    library = sys.modules.get("transformers")
    messages = library.utils.logging if library is not None else None
    shown = messages is not None and messages.is_progress_bar_enabled()
    if messages is not None and shown:
        messages.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # OpenAI's weights are TorchScript archives, which torch will no longer develop.
            warnings.filterwarnings("ignore", message=".*(TorchScript archive|torch.jit.load).*")
            yield
    finally:
        logging.disable(before)
        if messages is not None and shown:
            messages.enable_progress_bar()
