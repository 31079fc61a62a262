from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from bsap.datamodules import PictureDataModule
from bsap.errors import DataError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "kitchen.png"
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(file)
    return file


def make(picture: Path, boxes: Any, expressions: Any = ("a cup", "left")) -> PictureDataModule:
    data = PictureDataModule(str(picture), boxes, list(expressions))
    data.setup("predict")
    return data


def test_by_hand(picture: Path) -> None:
    data = make(picture, [[1, 2, 10, 20], [0, 0, 40.5, 30]])
    (batch,) = data.predict_dataloader()
    (scene,) = batch.scenes
    assert batch.boxes.tolist() == [[1, 2, 10, 20], [0, 0, 40, 30]]
    assert tuple(batch.pictures[0].shape) == (3, 30, 40)
    assert [e.text for e in scene.expressions] == data.texts == ["a cup", "left"]
    assert data.expression_ids == ["picture/kitchen/predict/1", "picture/kitchen/predict/2"]
    referent = scene.expressions[0].referent
    assert (referent.ann_ids, referent.boxes.shape, referent.has_mask) == ((), (0, 4), False)


def test_boxes_from_a_file(picture: Path) -> None:
    file = picture.with_name("boxes.json")
    file.write_text(json.dumps([[1, 2, 10, 20]]))
    assert make(picture, str(file)).scenes[0].proposals.boxes.tolist() == [[1, 2, 10, 20]]
    polygon = [[2, 3, 6, 3, 6, 10, 2, 10]]
    file.write_text(json.dumps([{"bbox": [2, 3, 4, 7], "segmentation": polygon}, {"segmentation": polygon}]))
    proposals = make(picture, str(file)).scenes[0].proposals
    assert proposals.boxes.tolist() == [[2, 3, 6, 10]] * 2
    assert proposals.masks is not None
    assert [int(coco.area(mask)) for mask in proposals.masks] == [28, 28]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "not empty"),
        ("gone.json", "No boxes at gone.json"),
        ([[1, 2, 3]], "`boxes`, box 1: expected four numbers"),
        ([[1, 2, 10, 20], [10, 20, 5, 5]], "box 2: the corners .*Is this .x, y, width, height"),
        ([[1, 2, float("nan"), 20]], "box 1: expected a finite number"),
        ([[1, 2, 100, 20]], r"box 1: the corners \[1.0, 2.0, 100.0, 20.0\] reach beyond the picture of 40 x 30"),
        ([{"score": 1.0}], "box 1: a proposal needs"),
        ([[0.1, 0.2, 0.5, 0.9]], "box 1: .* normalised"),
    ],
)
def test_bad_boxes(picture: Path, boxes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(picture, boxes)


def test_bad_sentences_and_pictures(picture: Path, tmp_path: Path) -> None:
    for expressions in ([], [" "], ["fine", ""], ["\ud800"], [5]):
        with pytest.raises(DataError, match="`expressions` must be one or more sentences"):
            make(picture, [[1, 2, 10, 20]], expressions)
    with pytest.raises(DataError, match="does not exist"):
        make(tmp_path / "gone.png", [[1, 2, 10, 20]])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="Cannot read the picture"):
        make(tmp_path / "text.png", [[1, 2, 10, 20]])
