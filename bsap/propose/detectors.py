"""Torchvision's object detectors with weights whose origin is known, behind one small interface."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from bsap.datamodules.files import what_is
from bsap.errors import ConfigError, ModelError, check_names
from bsap.models.checkpoint import file_sha256, read_state, short, state_sha256
from bsap.propose.first_stage import FirstStage

DEFAULT = "maskrcnn_resnet50_fpn_v2"

Found = Callable[[list[Tensor]], Sequence[Mapping[str, Tensor]]]
"""A detector as a function of pictures, float32 (3, H, W) in 0..1. For each picture it returns ``boxes`` (N, 4) xyxy in
pixels, ``scores`` (N,), ``labels`` (N,) and, if it finds masks, ``masks`` (N, 1, H, W) in 0..1. Every model of
:mod:`torchvision.models.detection` is such a function."""


@dataclass(frozen=True)
class Detector:
    """An object detector and what identifies it.

    Attributes:
        name: its name in records.
        find: detects objects in pictures.
        weights_sha256: SHA-256 of the weight file, or of the state dictionary if there is no file.
        weights: the weight file's name, None for random weights.
        min_size: to how many pixels the shorter side is resized, None for the model's own value.
    """

    name: str
    find: Found
    weights_sha256: str
    weights: str | None = None
    min_size: int | None = None

    def describe(self) -> dict[str, Any]:
        """The settings that decide the detections, as plain values."""
        return {
            "detector": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "random_init": self.weights is None,
            "min_size": self.min_size,
        }


def load_detector(
    name: str = DEFAULT,
    *,
    weights: str | Path = "default",
    random_init: bool = False,
    min_size: int | None = None,
    score: float = 0.5,
    max_per_picture: int = 100,
    class_agnostic: bool = False,
    device: torch.device | str = "cpu",
) -> Detector:
    """Build a detector of torchvision and load its weights.

    Args:
        name: a model of :mod:`torchvision.models.detection`. Those named ``maskrcnn`` also find masks.
        weights: ``default`` for torchvision's published weights, from torch hub's cache or the network; or a weight
            file: safetensors, or a state dictionary that ``torch.load`` can read with ``weights_only=True``.
        random_init: use seeded random weights, for tests and benchmarks.
        min_size: to how many pixels the shorter side is resized; None for the model's own value, mostly 800.
        score: the lowest score that the detector returns.
        max_per_picture: the most objects that the detector returns for a picture.
        class_agnostic: take the regions of the detector's first stage instead, which are of objects of any class.
        device: the device to run on.

    Raises:
        ConfigError: for an unknown name, or settings that contradict each other.
        ModelError: if the weights are missing, damaged, or do not fit the model.

    Example:
        >>> load_detector("maskrcnn_resnet50_fpn_v3")
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: Unknown detector 'maskrcnn_resnet50_fpn_v3'. Did you mean 'maskrcnn_resnet50_fpn_v2'...
    """
    from torchvision import models

    check_names("detector", [name], models.list_models(module=models.detection))
    if random_init and str(weights) != "default":
        raise ConfigError("Random weights and a weight file exclude each other: drop --random-init or --weights.")
    options: dict[str, Any] = {} if min_size is None else {"min_size": min_size}
    published = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(published.url).path).name)
    digits = cached.stem.rpartition("-")[2]  # torchvision's file names end with the first digits of their SHA-256
    given = None if str(weights) == "default" else Path(weights).expanduser()
    if given is not None and not given.is_file():
        raise ModelError(f"Detector {name!r}: {given} {what_is(given)}. Set --weights to a file that exists.")
    if given is not None and file_sha256(given).startswith(digits):
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, cached)
        given = None
    file = None if random_init else given or cached
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if file == cached:
                # torchvision builds a model for published weights in its own way, with frozen batch norms.
                with _from_hub(name, cached, digits, published.url):
                    model = models.get_model(name, weights=published, progress=False, **options)
            else:
                model = models.get_model(name, weights=None, weights_backbone=None, **options)
                if file is not None:
                    model.load_state_dict(read_state(file, "model"))  # as torchvision's training scripts write it
    except TypeError as error:
        raise ConfigError(f"The detector {name!r} cannot be built with {options}: {error}.") from error
    except RuntimeError as error:
        raise ModelError(f"The weights {file} do not fit the detector {name!r}: {short(error)}") from error
    sha256 = state_sha256(model.state_dict()) if file is None else file_sha256(file)
    # Masks of objects that are dropped later would cost most of the time.
    heads: Any = getattr(model, "roi_heads", model)
    heads.score_thresh, heads.detections_per_img = score, max_per_picture
    if class_agnostic:
        if not hasattr(model, "rpn"):
            raise ConfigError(f"The detector {name!r} finds classes in one stage. Name a fasterrcnn or maskrcnn.")
        name, model = f"{name}, first stage", FirstStage(model, score=score, most=max_per_picture)
    try:
        model = model.requires_grad_(False).eval().to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for the device
        raise ConfigError(f"The device {str(device)!r} cannot be used: {error}.") from error
    return Detector(name, model, sha256, None if file is None else file.name, min_size)


@contextmanager
def _from_hub(name: str, file: Path, digits: str, url: str) -> Iterator[None]:
    """Let torchvision download and read published weights: without executing a pickle, and without waiting forever."""
    # Torch hub checks the digest of a file that it downloads, but not of one in its cache.
    if file.exists() and not file_sha256(file).startswith(digits):
        raise ModelError(
            f"Detector {name!r}: {file} is damaged, its SHA-256 does not begin with {digits}. Delete the file and run "
            "the command again to download it."
        )
    timeout = socket.getdefaulttimeout()
    forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    try:
        socket.setdefaulttimeout(10.0)
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        yield
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise ModelError(
            f"Detector {name!r}: its weights are not at {file}, and {url} cannot be downloaded ({error}). Without a "
            "network, download that file elsewhere and set --weights to it."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = forced
