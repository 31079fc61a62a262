"""What a feature depends on: the keys under which region and text features are kept.

Keys are made of content only. Precision and the size of packs are part of the key, because they change how features are
rounded; the device is not: a feature that was computed on a GPU serves a run on a CPU with packs of the same size.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from bsap.datamodules.scene import RLE, Scene
from bsap.features.store import FeatureStore, PictureDigests, make_key
from bsap.features.stored_model import Model
from bsap.views import View

RENDERING = 2
"""Raised whenever a view or the resampling draws other pixels than before."""


class FeatureCache:
    """Region and text features of one run, kept in a store.

    Args:
        folder: the store; shared by any number of runs and processes.
        precision: the encoders' precision, for example ``bf16-mixed``.
        resize: how a region becomes the encoder's square.
        by_content: read every picture to find its features, instead of trusting its file's size and times.
    """

    def __init__(self, folder: Path, *, precision: str, resize: str, by_content: bool = False) -> None:
        self.store = FeatureStore(folder)
        self.pictures = PictureDigests(folder, by_content=by_content)
        self.precision, self.resize = precision, resize
        self._region_keys: dict[tuple[Any, ...], str] = {}

    def region_key(self, scene: Scene, encoder: Model, view: View, pack: int) -> str:
        """Key of the (R, D) features of a scene's regions, encoded in packs of ``pack`` regions."""
        # Asked for twice, by the loader and by the encoder: comparing its parts is cheaper than making the key again.
        masks = tuple(mask["counts"] for mask in scene.proposals.masks or ()) if view.needs_masks else ()
        regions = (scene.path, scene.width, scene.height, scene.proposals.boxes.tobytes(), masks)
        parts = (id(encoder), id(view), pack, *regions)
        if parts not in self._region_keys:
            self._region_keys[parts] = make_key(
                **_encoder_parts(encoder),
                preprocess=[*encoder.size, *encoder.mean, *encoder.std, encoder.interpolation],
                precision=self.precision,
                pack=pack,  # kernels round by shape
                resize=self.resize,
                rendering=RENDERING,
                view=json.loads(view.key),
                code=view_code(view),
                picture=self.pictures(scene.path),
                shape=[scene.width, scene.height],  # decides whether a picture is turned as its EXIF data say
                regions=regions_digest(scene, with_masks=view.needs_masks),
            )
        return self._region_keys[parts]

    def text_key(self, text: str, encoder: Model, *, normalize: bool = True) -> str:
        """Key of the (D,) feature of a text, template applied."""
        return make_key(**_encoder_parts(encoder), precision=self.precision, text=text, unit=normalize)

    def flush(self) -> None:
        """Write what is new."""
        self.store.flush()
        self.pictures.flush()


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


def _encoder_parts(encoder: Model) -> dict[str, object]:
    return {
        "weights": encoder.weights_sha256,
        "architecture": encoder.architecture_sha256,
        "quickgelu": encoder.quickgelu,
        "context": encoder.context_length,
    }
