"""What a feature depends on: the keys under which region and text features are kept.

Keys are made of content only. A feature that was computed on a GPU serves a run on a CPU and the other way round;
precision is part of the key, the device is not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bsap.datamodules.scene import RLE, Scene
from bsap.features.store import FeatureStore, PictureDigests, make_key

if TYPE_CHECKING:
    from bsap.features.regions import Member
    from bsap.models.encoder import Encoder
    from bsap.views import View

RENDERING = 2
"""Raised whenever a view or the resampling draws other pixels than before."""


@dataclass(frozen=True)
class ModelIdentity:
    """What keys need to know of a model; :class:`~bsap.models.encoder.Encoder` has the same attributes.

    Read from a run's ``results.json`` it finds the run's features again without loading the model.
    """

    label: str
    weights_sha256: str
    quickgelu: bool
    context_length: int
    architecture_sha256: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    dim: int
    tau: float

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> ModelIdentity:
        """The identity in one entry of ``models`` in ``results.json``."""
        return cls(**{f.name: description[f.name] for f in fields(cls)})


class FeatureCache:
    """Region and text features of one run, kept in a store.

    Args:
        folder: the store; shared by any number of runs and processes.
        precision: the encoders' precision, for example ``bf16-mixed``.
        resize: how a region becomes the encoder's square.
    """

    def __init__(self, folder: Path, *, precision: str, resize: str) -> None:
        self.store = FeatureStore(folder)
        self.pictures = PictureDigests(folder)
        self.precision, self.resize = precision, resize
        self.hits = self.misses = 0

    def region_key(self, scene: Scene, encoder: Encoder | ModelIdentity, view: View) -> str:
        """Key of the (R, D) features of a scene's regions."""
        return make_key(
            **_encoder_parts(encoder),
            preprocess=[*encoder.size, *encoder.mean, *encoder.std, encoder.interpolation],
            precision=self.precision,
            resize=self.resize,
            rendering=RENDERING,
            view=json.loads(view.key),
            code=view_code(view),
            picture=self.pictures(scene.path),
            shape=[scene.width, scene.height],  # decides whether a picture is turned as its EXIF data say
            regions=regions_digest(scene, with_masks=view.needs_masks),
        )

    def text_key(self, text: str, encoder: Encoder | ModelIdentity, *, normalize: bool = True) -> str:
        """Key of the (D,) feature of a text, template applied."""
        return make_key(**_encoder_parts(encoder), precision=self.precision, text=text, unit=normalize)

    def has_regions(self, scene: Scene, members: Sequence[Member]) -> bool:
        """Whether a scene's features are stored for all members, so that its picture need not be opened."""
        # An empty store has none, and no picture needs to be read to know.
        keys = (self.region_key(scene, member.encoder, member.view) for member in members)
        return len(self.store) > 0 and all(key in self.store for key in keys)

    def get(self, key: str) -> Tensor | None:
        """A stored feature, counted as hit or miss."""
        found = self.store.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: str, feature: Tensor) -> None:
        """Keep a feature."""
        self.store.put(key, feature)

    def flush(self) -> None:
        """Write what is new."""
        self.store.flush()
        self.pictures.flush()


class StoredTexts:
    """An encoder's text side with the store before it.

    Args:
        encoder: what encodes the texts that the store does not have.
        cache: the store.
    """

    def __init__(self, encoder: Encoder, cache: FeatureCache) -> None:
        self.encoder, self.cache = encoder, cache

    @property
    def dim(self) -> int:
        """D."""
        return self.encoder.dim

    @property
    def device(self) -> torch.device:
        """Where features are given."""
        return self.encoder.device

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """(N, D) float32 features of N texts, unit vectors if ``normalize``."""
        keys = [self.cache.text_key(text, self.encoder, normalize=normalize) for text in texts]
        found = [self.cache.get(key) for key in keys]
        todo = [index for index, feature in enumerate(found) if feature is None]
        if len(todo) < len(texts):
            # Tokenised all the same: a text that is cut at the context length is reported, stored or not.
            self.encoder.tokenize([text for text, feature in zip(texts, found, strict=True) if feature is not None])
        if todo:
            new = self.encoder.encode_text([texts[index] for index in todo], normalize=normalize)
            for index, feature in zip(todo, new.cpu(), strict=True):
                found[index] = feature
                self.cache.put(keys[index], feature)
            if len(todo) == len(found):
                return new
        return torch.stack([feature for feature in found if feature is not None]).to(self.device)


def regions_digest(scene: Scene, *, with_masks: bool) -> str:
    """Digest of a scene's boxes, and of its masks for views that look at them."""
    digest = sha256(scene.proposals.boxes.tobytes())
    if with_masks:
        for mask in scene.proposals.masks or ():
            digest.update(masks_bytes(mask))
    return digest.hexdigest()


@cache
def _source_sha256(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return "" if file is None else sha256(Path(file).read_bytes()).hexdigest()


def view_code(view: View) -> str:
    """Digest of the source of a view of one's own; the package's views are told apart by ``RENDERING``."""
    module = type(view).__module__
    return "" if module.startswith("bsap.") else _source_sha256(module)


def masks_bytes(mask: RLE) -> bytes:
    """A mask's content as bytes; the size keeps apart masks whose runs happen to agree."""
    return f"{mask['size'][0]}x{mask['size'][1]}:".encode() + mask["counts"] + b";"


def _encoder_parts(encoder: Encoder | ModelIdentity) -> dict[str, object]:
    return {
        "weights": encoder.weights_sha256,
        "architecture": encoder.architecture_sha256,
        "quickgelu": encoder.quickgelu,
        "context": encoder.context_length,
    }
