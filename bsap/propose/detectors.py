"""Torchvision's object detectors with weights that are really there, behind one small interface."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from bsap.errors import ConfigError, ModelError, unknown
from bsap.models.checkpoint import file_sha256, state_sha256

DEFAULT = "maskrcnn_resnet50_fpn_v2"
_TIMEOUT = 5.0  # seconds for a connection that somebody will otherwise wait for in vain

Found = Callable[[list[Tensor]], Sequence[Mapping[str, Tensor]]]
"""From pictures, float32 (3, H, W) in 0..1, to ``boxes`` (N, 4) xyxy in pixels, ``scores`` (N,), ``labels`` (N,) and
perhaps ``masks`` (N, 1, H, W) in 0..1 for each: what every model of :mod:`torchvision.models.detection` does."""


@dataclass(frozen=True)
class Detector:
    """Something that finds objects, and what it is.

    Attributes:
        name: what records call it.
        find: does the work.
        weights_sha256: of the weight file, or of the state dictionary where there is no file.
        weights: the weight file's name, None for random weights.
        min_size: pixels of the shorter side that the detector sees, None for its own choice.
    """

    name: str
    find: Found
    weights_sha256: str
    weights: str | None = None
    min_size: int | None = None

    def describe(self) -> dict[str, Any]:
        """What decides the detections; plain values."""
        return {
            "detector": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "random_init": self.weights is None,
            "min_size": self.min_size,
        }


def known_detectors() -> list[str]:
    """Names of torchvision's detectors."""
    from torchvision import models

    return list(models.list_models(module=models.detection))


def load_detector(
    name: str = DEFAULT,
    *,
    weights: str | Path = "default",
    random_init: bool = False,
    min_size: int | None = None,
    score: float = 0.5,
    max_per_picture: int = 100,
    device: torch.device | str = "cpu",
) -> Detector:
    """A detector of torchvision, ready to run.

    Args:
        name: a model of :mod:`torchvision.models.detection`. Those named ``maskrcnn`` find masks too.
        weights: ``default``, the published ones, from torch hub's cache or the network; or a weight file, safetensors
            or a state dictionary that torch can read without running code.
        random_init: seeded random weights instead, for tests and benchmarks.
        min_size: pixels of the shorter side that the detector sees; None for the model's own, mostly 800.
        score: lowest score that it need report.
        max_per_picture: the most objects that it need report.
        device: where it runs.

    Raises:
        ConfigError: for an unknown name, or settings that contradict each other.
        ModelError: if the weights are missing, damaged or another model's.

    Example:
        >>> load_detector("maskrcnn_resnet50_fpn_v3")
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: Unknown detector 'maskrcnn_resnet50_fpn_v3'. Did you mean 'maskrcnn_resnet50_fpn_v2'...
    """
    from torchvision import models

    if name not in known_detectors():
        raise unknown("detector", name, known_detectors())
    if random_init and str(weights) != "default":
        raise ConfigError(f"Random weights and the weight file {weights} exclude each other; drop one of them.")
    options: dict[str, Any] = {} if min_size is None else {"min_size": min_size}
    published = models.get_model_weights(name).DEFAULT
    file = None if random_init else _weight_file(name, published.url, weights)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if file is None:
                model = models.get_model(name, weights=None, weights_backbone=None, **options)
            else:
                with _serving(published, _read_state(file)):
                    model = models.get_model(name, weights=published, **options)
    except TypeError as error:
        raise ConfigError(f"The detector {name!r} cannot be built with {options}: {error}.") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"Weights {file} do not fit the detector {name!r}: {reason[:400]}") from error
    sha256 = state_sha256(model.state_dict()) if file is None else file_sha256(file)
    _report(model, score=score, most=max_per_picture)
    try:
        model = model.requires_grad_(False).eval().to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for the device
        raise ConfigError(f"The device {str(device)!r} cannot be used: {error}.") from error
    return Detector(name, model, sha256, None if file is None else file.name, min_size)


def _report(model: nn.Module, *, score: float, most: int) -> None:
    """Make the model report as little as is wanted: masks of what is left out anyway cost most of the time."""
    heads = getattr(model, "roi_heads", model)
    heads.score_thresh, heads.detections_per_img = score, most


def _weight_file(name: str, url: str, weights: str | Path) -> Path:
    if str(weights) != "default":
        file = Path(weights).expanduser()
        if not file.is_file():
            raise ModelError(f"Detector {name!r}: there is no weight file {file}.")
        return file
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    start = file.stem.rpartition("-")[2]  # torchvision's file names end in the beginning of their SHA-256
    if not file.is_file():
        _download(name, url, file, start)
    if not file_sha256(file).startswith(start):
        raise ModelError(
            f"Detector {name!r}: {file} is damaged, its SHA-256 does not begin with {start}. "
            f"Delete it and get it again from {url}."
        )
    return file


def _download(name: str, url: str, file: Path, start: str) -> None:
    missing = (
        f"Detector {name!r}: its weights are not at {file} and {url} cannot be loaded{{}}. "
        f"Without a network, get that file elsewhere and put it there, or name a weight file with `--weights FILE`."
    )
    if not _connects(url):
        raise ModelError(missing.format(""))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(2 * _TIMEOUT)  # for each read: a connection that went dead must not hold for ever
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=start, progress=False)
    except (OSError, RuntimeError) as error:
        raise ModelError(missing.format(f" ({error})")) from error
    finally:
        socket.setdefaulttimeout(before)


def _connects(url: str) -> bool:
    if urllib.request.getproxies():
        return True  # behind a proxy a direct connection says nothing
    try:
        with socket.create_connection((urlsplit(url).hostname or "", 443), timeout=_TIMEOUT):
            return True
    except OSError:
        return False


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's message advises to run the file's code
        raise ModelError(
            f"Weights {file} are not a plain state dictionary of tensors, and no other content of a pickle is read: it "
            "could run any program. Convert the file to safetensors where you trust it, or get it as safetensors."
        ) from None
    except Exception as error:  # zip archives and safetensors have errors of their own
        reason = " ".join(str(error).split())
        raise ModelError(f"Weights {file} cannot be read: {reason[:300]}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]  # as torchvision's own training scripts write it
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ModelError(f"Weights {file} are not a state dictionary of tensors.")
    return state


@contextmanager
def _serving(published: Any, state: dict[str, Tensor]) -> Iterator[None]:
    """Hand a builder of torchvision a state that is read already.

    Builders make a model for published weights in another way than an empty one (frozen batch norms, in the first
    detectors with an epsilon of zero), so they must be told of the weights; but left alone they would unpickle them.
    """
    kind = type(published)
    kind.get_state_dict = lambda self, *args, **options: state
    try:
        yield
    finally:
        del kind.get_state_dict
