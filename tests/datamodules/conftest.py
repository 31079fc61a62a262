"""A small root in the REFER layout, drawn again for each test that needs it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Content = dict[str, Any]


@pytest.fixture
def real_data() -> Path:
    """Real annotations and a few real pictures, where the machine has them."""
    folder = os.environ.get("BSAP_TEST_DATA")
    if not folder:
        pytest.skip("BSAP_TEST_DATA is not set: no real annotations here")
    return Path(folder)


def square(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def content() -> Content:
    """Four pictures of 40 x 30 pixels, five objects, five referents of two splits: plain data to be tampered with."""
    boxes = {1: [0, 0, 10, 10], 2: [12, 2, 20, 20], 3: [5, 5, 30, 20.5], 4: [1, 1, 8, 8], 5: [20, 10, 10, 10]}
    image_of = {1: 7, 2: 7, 3: 8, 4: 9, 5: 9}
    category_of = {1: 1, 2: 1, 3: 2, 4: 2, 5: 1}
    refs = [
        # ref_id, ann_id, split, sentences (raw, sent)
        (50, 2, "val", [("The Big Dog!", "the big dog"), ("right", "right")]),
        (51, 3, "val", [("a cat on a mat", "a cat on a mat")]),
        (52, 1, "val", [("left dog", "left dog")]),
        (53, 4, "testA", [("cat", "cat")]),
        (54, 5, "val", [("the only dog here", "the only dog here")]),
    ]
    sent_ids = iter(range(100, 200))
    return {
        "refs": [
            {
                "ref_id": ref_id,
                "ann_id": ann_id,
                "category_id": category_of[ann_id],
                "file_name": f"p_{image_of[ann_id]}_{ann_id}.png",
                "image_id": image_of[ann_id],
                "split": split,
                "sent_ids": [],
                "sentences": [
                    {"raw": raw, "sent": sent, "sent_id": next(sent_ids), "tokens": sent.split()} for raw, sent in said
                ],
            }
            for ref_id, ann_id, split, said in refs
        ],
        "instances": {
            "images": [{"id": n, "file_name": f"p_{n}.png", "width": 40, "height": 30} for n in (7, 8, 9, 10)],
            "annotations": [
                {
                    "id": n,
                    "image_id": image_of[n],
                    "category_id": category_of[n],
                    "bbox": box,
                    "iscrowd": 0,
                    "segmentation": square(*box),
                }
                for n, box in boxes.items()
            ],
            "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        },
    }


@pytest.fixture
def write_root(tmp_path: Path) -> Callable[..., Path]:
    """Write such content as ``root/{dataset}/refs({split_by}).p`` with noise for pictures."""

    def write(content: Content, *, dataset: str = "tiny", split_by: str = "own", protocol: int = 2) -> Path:
        root = tmp_path / "root"
        folder = root / dataset
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(content["refs"], protocol=protocol))
        (folder / "instances.json").write_text(json.dumps(content["instances"]))
        pictures = root / "images" / "train2014"
        pictures.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for n in (7, 8, 9):
            noise = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(pictures / f"p_{n}.png")
        return root

    return write


@pytest.fixture
def root(content: Content, write_root: Callable[..., Path]) -> Path:
    """The untampered root."""
    return write_root(content)
