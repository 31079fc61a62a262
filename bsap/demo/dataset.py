"""The drawn world as a dataset on disk, in the REFER layout that RefCOCO has.

root/demo/refs(drawn).p          referents and their expressions
root/demo/grefs(sets).json       in gRefCOCO's form: the first expression of each referent, and expressions that mean
                                 nothing in their picture or several objects
root/demo/instances.json         pictures and objects in COCO form
root/demo/detections.json        simulated detections: COCO results with boxes
root/demo/masks.json             simulated mask proposals: COCO results with run-length encodings
root/images/train2014/           pictures
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from rich.console import Console
from rich.progress import track

from bsap.demo.draw import DrawnScene, Mask, World, draw_scene
from bsap.demo.kinds import CATEGORIES
from bsap.demo.language import expressions, set_expressions
from bsap.demo.proposals import detect
from bsap.errors import DataError

SIZES: Mapping[str, int] = {"train": 150, "val": 50, "test": 200}
"""Scenes of each split by default."""

DATASET, SPLIT_BY, SETS = "demo", "drawn", "sets"
_SUPERCATEGORIES = {"person": "person", "car": "vehicle", "bus": "vehicle", "boat": "vehicle", "bird": "animal"}
_SOURCES = ("kinds.py", "objects.py", "draw.py", "language.py", "proposals.py", "dataset.py")


def cache_folder() -> Path:
    """Where drawn scenes are kept: ``$BSAP_CACHE``, or ``~/.cache/bsap``."""
    return Path(os.environ.get("BSAP_CACHE") or Path.home() / ".cache" / "bsap").expanduser()


def make_demo_root(folder: Path | None = None, *, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> Path:
    """The folder of the drawn dataset; drawn if it is not there yet.

    The folder's name is a digest of the settings and of the code that draws, so that old scenes are never taken for new
    ones. It appears at once and complete: several processes may ask for it at the same time.

    Args:
        folder: the cache; :func:`cache_folder` if None.
        seed: of the scenes and their expressions.
        sizes: scenes of each split.

    Returns:
        The ``root`` to read with dataset ``demo`` and split_by ``drawn``.

    Raises:
        DataError: if the cache cannot be written.
    """
    folder = cache_folder() if folder is None else folder
    root = folder / f"demo-{_digest(seed, sizes)}"
    if root.is_dir():
        return root
    draft = folder / f".{root.name}-{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        _write(draft, seed, sizes)
        try:
            draft.rename(root)
        except OSError:
            # Another process may have been faster: its scenes are the same.
            if not root.is_dir():
                raise
    except OSError as error:
        raise DataError(
            f"Cannot write the drawn scenes to {folder}: {error}. Set BSAP_CACHE to a folder that can be written."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _digest(seed: int, sizes: Mapping[str, int]) -> str:
    digest = hashlib.sha256(json.dumps([seed, dict(sizes)]).encode())
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


def _write(root: Path, seed: int, sizes: Mapping[str, int]) -> None:
    pictures = root / "images" / "train2014"
    pictures.mkdir(parents=True)
    (root / DATASET).mkdir()
    refs: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    sent_id = 0
    for image_id, (split, scene, rng) in enumerate(_scenes(seed, sizes), start=1):
        name = f"drawn_{image_id:06d}"
        scene.picture.save(pictures / f"{name}.jpg", quality=92)
        width, height = scene.picture.size
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height})
        meant: list[tuple[str, tuple[int, ...]]] = []
        for index, thing in enumerate(scene.things):
            ann_id, category_id = len(annotations) + 1, CATEGORIES.index(thing.category) + 1
            bbox, segmentation = _encode(thing.mask)
            annotation = {"id": ann_id, "image_id": image_id, "category_id": category_id, "bbox": bbox}
            annotations.append(annotation | {"area": thing.area, "iscrowd": 0, "segmentation": segmentation})
            # Some things have no expressions.
            if rng.random() < 0.15:
                continue
            texts = expressions(index, scene.things, rng)
            sentences = [_sentence(text, sent_id + n, _typed(text, rng)) for n, text in enumerate(texts)]
            sent_id += len(texts)
            meant.append((texts[0], (index,)))
            of: dict[str, Any] = {"ref_id": len(refs), "ann_id": ann_id, "category_id": category_id}
            refs.append(of | _said(sentences, f"{name}_{ann_id}.jpg", image_id, split))
        # A generator of its own, so that sets change nothing that was drawn before there were any.
        set_rng = np.random.default_rng((World.DATASET, seed, image_id, 2, 2))
        for text, indices in (*meant, *set_expressions(scene.things, set_rng)):
            things = [annotations[index - len(scene.things)] for index in indices]
            of = {
                "ref_id": len(sets),
                "ann_id": [thing["id"] for thing in things] or [-1],  # -1 stands for none
                "category_id": [thing["category_id"] for thing in things] or [-1],
                "no_target": not things,
            }
            sets.append(of | _said([_sentence(text, len(sets), text)], f"{name}.jpg", image_id, split))
        for found in detect(scene, rng):
            bbox, segmentation = _encode(found.mask)
            category_id = CATEGORIES.index(found.category) + 1
            result = {"image_id": image_id, "category_id": category_id, "score": found.score}
            detections.append(result | {"bbox": list(found.bbox)})
            masks.append(result | {"bbox": bbox, "segmentation": segmentation})
    instances = {
        "info": {"description": "Drawn scenes with referring expressions: a demo, no benchmark."},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": n, "name": name, "supercategory": _SUPERCATEGORIES.get(name, "object")}
            for n, name in enumerate(CATEGORIES, start=1)
        ],
    }
    for file, content in (("instances", instances), ("detections", detections), ("masks", masks)):
        (root / DATASET / f"{file}.json").write_text(json.dumps(content))
    (root / DATASET / f"grefs({SETS}).json").write_text(json.dumps(sets))
    (root / DATASET / f"refs({SPLIT_BY}).p").write_bytes(pickle.dumps(refs, protocol=2))


def _scenes(seed: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, DrawnScene, np.random.Generator]]:
    """Split, scene and random generator for expressions and detections, in order."""
    wanted = [(split, n, index) for n, (split, size) in enumerate(sizes.items()) for index in range(size)]
    console = Console(stderr=True)
    for split, n, index in track(
        wanted, "Drawing scenes", console=console, disable=not console.is_terminal, transient=True
    ):
        number = (World.DATASET, seed, n, index)
        yield split, draw_scene(*number), np.random.default_rng((*number, 1))


def _typed(text: str, rng: np.random.Generator) -> str:
    """A sentence as people type it."""
    return text.capitalize() + "." * int(rng.random() < 0.5) if rng.random() < 0.15 else text


def _sentence(text: str, sent_id: int, raw: str) -> dict[str, Any]:
    """A sentence as REFER files have it: as it was typed, cleaned, and in words."""
    return {"sent_id": sent_id, "raw": raw, "sent": text, "tokens": text.split()}


def _said(sentences: Sequence[Mapping[str, Any]], file_name: str, image_id: int, split: str) -> dict[str, Any]:
    """What referents of RefCOCO and sets of gRefCOCO have in common."""
    sent_ids = [sentence["sent_id"] for sentence in sentences]
    return {"file_name": file_name, "image_id": image_id, "split": split, "sent_ids": sent_ids, "sentences": sentences}


def _encode(mask: Mask) -> tuple[list[float], dict[str, Any]]:
    """The tightest box around a mask, as x, y, width, height, and the mask in COCO's run lengths."""
    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    segmentation = {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
    return coco.toBbox(encoded).tolist(), segmentation
