"""A dataset for measuring: REFER files over drawn or real pictures, with any number of proposals and expressions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

WORDS = [
    "man",
    "woman",
    "dog",
    "cat",
    "car",
    "bus",
    "bird",
    "chair",
    "table",
    "red",
    "blue",
    "green",
    "left",
    "right",
    "big",
]


def sentence(rng: np.random.Generator) -> str:
    """Three to six words, as RefCOCO's expressions have."""
    return "the " + " ".join(rng.choice(WORDS, size=int(rng.integers(2, 6))))


def drawn_picture(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Smooth colours with edges: JPEG and resampling cost what they cost on photographs."""
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    texture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(picture, texture.filter(ImageFilter.GaussianBlur(1)), 0.15)


def boxes_in(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    """(count, 4) xywh boxes, a tenth to half of the picture's sides."""
    share = rng.uniform(0.1, 0.5, (count, 2))
    extent = share * (width, height)
    corner = rng.uniform(0, 1, (count, 2)) * ((width, height) - extent)
    return np.concatenate([corner, extent], 1).round(2)


def diamond(x: float, y: float, width: float, height: float) -> list[float]:
    """The polygon between the middles of a box's sides."""
    middle, centre = x + width / 2, y + height / 2
    return [middle, y, x + width, centre, middle, y + height, x, centre]


def make_world(
    folder: Path, *, pictures: int, proposals: int, expressions: int, seed: int = 0, photographs: Path | None = None
) -> Path:
    """Write ``refcoco/refs(unc).p``, ``instances.json``, pictures and ``proposals.json``.

    Args:
        folder: an empty folder.
        pictures: scenes, all of split ``val``.
        proposals: boxes of each scene.
        expressions: sentences of each scene, over one referent.
        seed: of everything drawn.
        photographs: a folder of JPEGs to use instead of drawn pictures, in turn.
    """
    rng = np.random.default_rng(seed)
    images, annotations, refs, found = [], [], [], []
    target = folder / "images" / "train2014"
    target.mkdir(parents=True)
    (folder / "refcoco").mkdir()
    real = sorted(photographs.glob("*.jpg")) if photographs is not None else []
    for number in range(1, pictures + 1):
        name = f"COCO_train2014_{number:012d}.jpg"
        if real:
            (target / name).write_bytes(real[number % len(real)].read_bytes())
            with Image.open(target / name) as picture:
                width, height = picture.size
        else:
            width, height = (640, 480) if number % 3 else (427, 640)
            drawn_picture(rng, (width, height)).save(target / name, quality=90)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        boxes = boxes_in(rng, proposals, width, height).tolist()
        # The masks of RIS: diamonds in the boxes. REC leaves them out.
        shapes = [[diamond(*box)] for box in boxes]
        found += [
            {"image_id": number, "bbox": box, "segmentation": shape, "score": 0.9, "category_id": 1}
            for box, shape in zip(boxes, shapes, strict=True)
        ]
        own = {"bbox": boxes[0], "segmentation": shapes[0]}
        annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, **own})
        texts = [sentence(rng) for _ in range(expressions)]
        keys = range(number * expressions, (number + 1) * expressions)
        refs.append(
            {
                "ref_id": number, "ann_id": number, "category_id": 1, "file_name": name, "image_id": number,
                "split": "val", "sent_ids": list(keys),
                "sentences": [
                    {"raw": t, "sent": t, "sent_id": k, "tokens": t.split()} for k, t in zip(keys, texts, strict=True)
                ],
            }
        )  # fmt: skip
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (folder / "refcoco" / "instances.json").write_text(json.dumps(document))
    (folder / "proposals.json").write_text(json.dumps(found))
    return folder
