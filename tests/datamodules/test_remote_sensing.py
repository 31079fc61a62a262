"""RRSIS-D's layout, and RefSegRS by the recipe of docs/data.md."""

from __future__ import annotations

import json
import pickle
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.check import check_root
from bsap.errors import DataError


def drawn(seed: int, height: int = 20, width: int = 20) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[seed : seed + 6, 3:11] = 1
    return mask


def encoded(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_rrsis_d(tmp_path: Path) -> None:
    """Other folders, a list of one or two encodings for a mask, and a picture a pixel larger than annotated."""
    pictures = tmp_path / "images" / "rrsisd" / "JPEGImages"
    pictures.mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(pictures / "00001.jpg")
    Image.new("RGB", (20, 21)).save(pictures / "00002.jpg")
    parts = [[drawn(2)], [drawn(2), drawn(12)]]
    images = [{"id": n, "file_name": f"0000{n}.jpg", "width": 20, "height": 20} for n in (1, 2)]
    annotations = [
        {
            "id": n, "image_id": n, "category_id": 0, "bbox": [3, 2, 8, 16 if n == 2 else 6],
            "segmentation": [encoded(part) for part in parts[n - 1]],
        }
        for n in (1, 2)
    ]  # fmt: skip
    sentence = {"sent": "the ship", "raw": "The ship", "tokens": ["the", "ship"]}
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": n, "category_id": 0, "split": "val", "file_name": f"0000{n}.jpg",
         "sent_ids": [n], "sentences": [{**sentence, "sent_id": n}]}
        for n in (1, 2)
    ]  # fmt: skip
    folder = tmp_path / "rrsisd"
    folder.mkdir()
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "ship"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    where = "images/rrsisd/JPEGImages"
    settings: dict[str, Any] = {"dataset": "rrsisd", "images": where, "num_workers": 0}
    data = RefCOCODataModule(str(tmp_path), ProposalConfig("ground_truth"), **settings, size_tolerance=1)
    data.setup("test")
    loaded = [np.array(picture) for batch in data.test_dataloader() for picture in batch.pictures]
    assert [picture.shape for picture in loaded] == [(3, 20, 20)] * 2
    for scene, given in zip(data.scenes, parts, strict=True):
        (mask,) = scene.expressions[0].referent.masks
        np.testing.assert_array_equal(coco_mask.decode(mask), np.maximum.reduce(given))
    assert check_root(tmp_path, images=where, size_tolerance=1).ok
    data = RefCOCODataModule(str(tmp_path), ProposalConfig("ground_truth"), **settings)
    data.setup("test")
    with pytest.raises(DataError, match=r"`data\.size_tolerance`"):
        data.test_dataloader()


def test_the_recipe_for_refsegrs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phrases = {"train": ["a_1 road"], "val": ["a_1 paved road", "a_2 the cars on the road"], "test": ["a_2 car"]}
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n, name in enumerate(("a_1", "a_2")):
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / f"{name}.tif")
        Image.fromarray(drawn(n) * 255).save(tmp_path / "masks" / f"{name}.tif")
    for split, rows in phrases.items():
        (tmp_path / f"output_phrase_{split}.txt").write_text("\n".join(rows) + "\n")
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (recipe,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "output_phrase" in code]
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(recipe), {})
    data = RefCOCODataModule(
        str(tmp_path), ProposalConfig("detections", path="p.json"), annotations="val.jsonl", images="images"
    )
    boxes = {f"{n}-a_{n + 1}": [[3, n, 8, 6]] for n in (0, 1)}
    (tmp_path / "p.json").write_text(json.dumps(boxes))
    data.setup("test")
    assert [scene.expressions[0].text for scene in data.scenes] == ["paved road", "the cars on the road"]
    for n, scene in enumerate(data.scenes):
        (mask,) = scene.expressions[0].referent.masks
        np.testing.assert_array_equal(coco_mask.decode(mask), drawn(n))
        assert scene.expressions[0].referent.boxes.tolist() == [[3, n, 11, n + 6]]
