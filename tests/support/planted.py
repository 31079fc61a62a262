"""A planted world: a real CLIP whose weights are set by hand, so that every cosine is known without running it.

Regions are filled with one of the eight corner colours of the RGB cube. After normalisation a colour is a corner of
the cube {-1, 1}^3, and so is each colour word's embedding; an image's feature is its colour's corner and a sentence's
feature is the normalised sum of the corners of its colour words. Cosines are 1, 1/3, -1/3 or -1 for single words.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

CORNERS = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "pink": (1, -1, 1),
    "sky": (-1, 1, 1),
    "white": (1, 1, 1),
    "black": (-1, -1, -1),
}
TAU = 10.0


def planted_model(folder: Path) -> Path:
    """Write an open_clip ``local-dir:`` model with hand-set weights: width 6, one text block, no image block."""
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 16, "vocab_size": 49408, "width": 6, "heads": 1, "layers": 1}
    vision = {"image_size": 8, "layers": 0, "width": 6, "head_width": 6, "patch_size": 8, "pool_type": "avg"}
    model = open_clip.CLIP(3, vision, text)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    state["logit_scale"] = torch.tensor(TAU).log()
    # Mirroring a corner into (c, -c) makes LayerNorm leave its direction alone: mean 0, constant variance.
    mirror = torch.cat([torch.eye(3), -torch.eye(3)])
    state["visual.conv1.weight"] = mirror[:, :, None, None].expand(6, 3, 8, 8) / 64
    state["visual.proj"] = mirror.clone()
    state["text_projection"] = mirror.clone()
    for key in state:
        if key.split(".")[-2:-1] and key.endswith("weight") and "ln" in key:
            state[key] = torch.ones_like(state[key])
    # Zero queries and keys attend uniformly; values and output pass through: the last token sees the words' mean.
    prefix = "transformer.resblocks.0.attn."
    state[prefix + "in_proj_weight"] = torch.cat([torch.zeros(12, 6), torch.eye(6)])
    state[prefix + "out_proj.weight"] = torch.eye(6)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    for word, corner in CORNERS.items():
        (token,) = tokenizer.encode(word)
        state["token_embedding.weight"][token] = mirror @ torch.tensor(corner, dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"embed_dim": 3, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@dataclass(frozen=True)
class Planted:
    """Where the planted files are."""

    root: Path
    model: Path
    proposals: Path
    bank: Path

    def config(self, **changes: Any) -> dict[str, Any]:
        """A configuration of `bsap test`; keyword arguments like ``model={"bank": ...}`` change sections."""
        config: dict[str, Any] = {
            "trainer": {"accelerator": "cpu", "devices": 1},
            "data": {
                "root": str(self.root),
                "dataset": "refcoco",
                "split_by": "unc",
                "split": "val",
                "num_workers": 0,
                "batch_size": 2,
                "proposals": {"source": "detections", "path": str(self.proposals)},
            },
            "model": {
                "tasks": ["rec", "ris"],
                "encoders": [{"name": f"local-dir:{self.model}"}],
                "views": ["crop"],
                "templates": {"query": "{}", "bank": "{}"},
                "bank": str(self.bank),
                "scorers": ["clip", "bsap", "bsap_h"],
                "store": None,
            },
        }
        for section, values in changes.items():
            config.setdefault(section, {}).update(values)
        return config


# Each picture: size; regions (colour, and the xyxy box that it fills: what a detector found, box and mask); referents
# (the object's box and mask as annotated, and its expressions).
SCENES: list[dict[str, Any]] = [
    {
        "size": (60, 40),
        "regions": [("red", (0, 0, 20, 20)), ("green", (20, 0, 40, 20)), ("blue", (40, 0, 60, 20))],
        "referents": [
            {"box": (0, 0, 20, 20), "words": ["red", "the red one"]},  # IoU 1 and I/U 1
            {"box": (20, 0, 40, 10), "words": ["green"]},  # half: IoU 0.5 exactly
        ],
    },
    {
        "size": (50, 50),
        # Cosines with the sentence: white 0.526, red 0.226. With `white` they are 1 and -1/3, so that BSAP prefers red.
        "regions": [("white", (0, 0, 10, 10)), ("red", (20, 20, 30, 40))],
        "referents": [{"box": (20, 20, 30, 40), "words": ["yellow yellow yellow yellow white"]}],
    },
    {"size": (30, 30), "regions": [], "referents": [{"box": (5, 5, 15, 15), "words": ["pink"]}]},  # no proposal at all
    {
        "size": (64, 32),
        "regions": [("red", (0, 0, 8, 8)), ("sky", (32, 0, 64, 32))],
        "referents": [
            {"box": (32, 0, 64, 24), "words": ["sky", "sky thing"]},  # 768 of 1024: 0.75
            {"box": (0, 0, 8, 8), "words": ["sky"]},  # a wrong name, wrong for every scorer
        ],
    },
]


def rectangle(box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    """RLE of a filled rectangle, counts as text for JSON."""
    width, height = size
    dense = np.zeros((height, width), np.uint8, order="F")
    dense[box[1] : box[3], box[0] : box[2]] = 1
    rle = coco_mask.encode(dense)
    return {"size": [height, width], "counts": rle["counts"].decode()}


def xywh(box: tuple[int, int, int, int]) -> list[float]:
    """The same box as COCO files write it."""
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def plant(root: Path) -> Planted:
    """Write the planted world to a folder: REFER files, pictures, mask proposals, model and bank."""
    (root / "refcoco").mkdir()
    (root / "images" / "train2014").mkdir(parents=True)
    images, annotations, refs, proposals = [], [], [], []
    sentence = 0
    for number, scene in enumerate(SCENES, 1):
        name = f"COCO_train2014_{number:012d}.png"
        picture = Image.new("RGB", scene["size"], (128, 128, 128))
        draw = ImageDraw.Draw(picture)
        for colour, box in scene["regions"]:
            rgb = tuple(255 if value > 0 else 0 for value in CORNERS[colour])
            draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=rgb)
            proposals.append(
                {
                    "image_id": number,
                    "bbox": xywh(box),
                    "score": 0.9,
                    "category_id": 1,
                    "segmentation": rectangle(box, scene["size"]),
                }
            )
        picture.save(root / "images" / "train2014" / name)
        images.append({"id": number, "file_name": name, "width": scene["size"][0], "height": scene["size"][1]})
        for referent in scene["referents"]:
            ann = len(annotations) + 1
            box = referent["box"]
            annotations.append(
                {
                    "id": ann,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": xywh(box),
                    "area": (box[2] - box[0]) * (box[3] - box[1]),
                    "iscrowd": 0,
                    "segmentation": rectangle(box, scene["size"]),
                }
            )
            sentences = []
            for words in referent["words"]:
                sentences.append({"raw": words, "sent": words, "sent_id": sentence, "tokens": words.split()})
                sentence += 1
            refs.append(
                {
                    "ref_id": ann,
                    "ann_id": ann,
                    "category_id": 1,
                    "file_name": f"{name[:-4]}_{ann}.png",
                    "image_id": number,
                    "split": "val",
                    "sent_ids": [s["sent_id"] for s in sentences],
                    "sentences": sentences,
                }
            )
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patch"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (root / "proposals.json").write_text(json.dumps(proposals))
    (root / "bank.yaml").write_text("name: white\nsource: planted for the tests\nprompts: [white]\n")
    return Planted(root, planted_model(root / "model"), root / "proposals.json", root / "bank.yaml")
