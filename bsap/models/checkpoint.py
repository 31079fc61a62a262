"""Building a model from an architecture and a weight file: strictly, quietly, and with the file's identity."""

from __future__ import annotations

import functools
import hashlib
import logging
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bsap.errors import ModelError
from bsap.models.hub import offline, reachable

if TYPE_CHECKING:
    from bsap.models.weights import Located

_POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


def build(located: Located, *, seed: int = 0) -> Any:
    """Build a model in float32 on the CPU and load its weights.

    Args:
        located: architecture and weights, from :func:`bsap.models.weights.locate`.
        seed: of the initialisation where there is no weight file.

    Raises:
        ModelError: the architecture cannot be built, or the file cannot be read, does not fit it key by key, or holds
            numbers that are not finite.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(
                located.model,
                load_weights=False,
                force_quick_gelu=located.quickgelu,
                force_preprocess_cfg=dict(located.preprocess),
                pretrained_text=False,
            )
        except Exception as error:  # a configuration can fail anywhere in open_clip, timm or transformers
            raise ModelError(f"Model {located.label!r} cannot be built: {error}") from error
        if located.file is not None:
            _load(model, located, located.file)
    return model


def _load(model: nn.Module, located: Located, file: Path) -> None:
    import open_clip

    try:
        if not located.paired:
            _check_positions(model, _shapes(file), file)
        # torch refuses `weights_only` for TorchScript archives, and hands them to a reader that runs no pickles.
        open_clip.load_checkpoint(model, str(file), strict=True, weights_only=not is_torchscript(file))
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise _unreadable(file) from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"Weights {file} do not fit model {located.label!r}: {reason[:400]}") from error
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(
                f"Weights {file} of model {located.label!r} hold numbers that are not finite, first in {name}; fetch "
                "the file again, or train without overflows."
            )


def _unreadable(file: Path) -> ModelError:
    # torch's own message advises to unpickle whatever the file holds.
    return ModelError(
        f"Weight file {file} is not a state dictionary, or is damaged; save `model.state_dict()` as safetensors, or "
        "fetch the file again."
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        return _read_shapes(file)
    except Exception as error:  # torch, pickle, safetensors and open_clip raise what they like
        raise _unreadable(file) from error


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from open_clip.factory import load_state_dict
    from safetensors import safe_open

    if file.suffix in (".npz", ".npy"):
        return {}  # big_vision's own format, whose conversion refuses positions of another size
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    torchscript = is_torchscript(file)
    state = load_state_dict(str(file), "cpu" if torchscript else "meta", weights_only=not torchscript)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_positions(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    # open_clip stretches position embeddings to the model's grid without a word: a file for another picture size or
    # context length would load, and give other numbers.
    own = model.state_dict()
    for name in _POSITIONS:
        expected = own.get(name, own.get(f"text.{name}"))
        if name in shapes and expected is not None and shapes[name] != expected.shape:
            raise ModelError(
                f"Weights {file} are for another picture size or context length: {name} is "
                f"{shapes[name]}, the model's {tuple(expected.shape)}."
            )


def make_tokenizer(located: Located) -> Any:
    """The model's tokenizer: CLIP's own, or a Hugging Face one from the model's folder, the cache or the hub.

    Raises:
        ModelError: the tokenizer's files or the `transformers` package are missing.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = located.architecture["text_cfg"]
    context_length, options = text.get("context_length", 77), dict(text.get("tokenizer_kwargs") or {})
    if located.tokenizer is None:
        return SimpleTokenizer(context_length=context_length, **options) if options else _clip_tokenizer(context_length)
    options.update(context_length=context_length, tokenizer_mode=text.get("tokenizer_mode"))
    try:
        return HFTokenizer(located.tokenizer, local_files_only=True, **options)
    except ImportError as error:
        raise ModelError(f"The tokenizer of model {located.label!r} needs `pip install transformers`.") from error
    except Exception as error:
        if Path(located.tokenizer).is_dir():
            raise ModelError(f"Tokenizer files in {located.tokenizer} cannot be read: {error}") from error
        if not reachable():
            raise offline(located.label, f"its tokenizer {located.tokenizer}") from error
    try:
        return HFTokenizer(located.tokenizer, **options)
    except Exception as error:
        raise ModelError(f"Tokenizer {located.tokenizer} of model {located.label!r}: {error}") from error


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


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive, the form in which OpenAI publishes its weights."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(Path(entry).name == "constants.pkl" for entry in archive.namelist())


@contextmanager
def _quiet() -> Iterator[None]:
    # open_clip logs "initialized randomly" on the root logger before our own strict loading, and the first message on
    # an unconfigured root logger installs a handler for the whole program.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # OpenAI's weights come as TorchScript archives, whatever becomes of the rest of TorchScript.
            warnings.filterwarnings("ignore", message=".*(TorchScript archive|torch.jit.load).*")
            yield
    finally:
        logging.disable(before)
