"""`bsap.Grounder`: every form of input gives the answer of `bsap predict`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torchvision.tv_tensors import BoundingBoxes

import bsap
from bsap.datamodules.own_picture import PictureDataModule
from bsap.errors import ConfigError, DataError
from bsap.module import BSAPModule

BOXES = [[2.0, 3.0, 30.0, 40.0], [20.0, 10.0, 60.0, 44.0], [0.0, 0.0, 64.0, 48.0]]
TEXTS = ["the red dog", "a blue car on the left"]
BANK = ["a dog", "a cat", "a thing"]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def grounder() -> Any:
    return bsap.Grounder("demo", bank=BANK, device="cpu")


def values(found: Any) -> Any:
    return [(answer.region, answer.scores) for answer in found.answers]


def test_the_answer_is_that_of_a_prediction(grounder: Any, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "picture.png")
    module = BSAPModule(encoders="demo", bank=BANK, scorers=["bsap"], run=None, store=None)
    data = PictureDataModule(str(tmp_path / "picture.png"), BOXES, TEXTS)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (records,) = trainer.predict(module, data) or []
    found = grounder(tmp_path / "picture.png", BOXES, TEXTS)
    for record, answer in zip(records, found.answers, strict=True):  # type: ignore[arg-type]
        row = record["scorers"]["bsap"]
        assert (row["region"], row["box"]) == (answer.region, list(answer.box))
        assert row["score"] == pytest.approx(answer.probability, abs=1e-6)
        assert answer.region == int(np.argmax(answer.scores))


def test_every_form_of_picture_is_the_same(grounder: Any, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "picture.png")
    pixels = np.asarray(picture)
    expected = values(grounder(picture, BOXES, TEXTS))
    for form in (
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
        pixels,
        torch.tensor(pixels).permute(2, 0, 1),
        picture.convert("RGBA"),
    ):
        assert values(grounder(form, BOXES, TEXTS)) == expected


def test_every_form_of_boxes_is_the_same(grounder: Any, picture: Image.Image) -> None:
    expected = values(grounder(picture, BOXES, TEXTS))
    corners = np.array(BOXES, np.float32)
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    for form in (
        corners,
        torch.tensor(corners),
        tuple(map(tuple, BOXES)),
        BoundingBoxes(torch.tensor(corners), format="XYXY", canvas_size=(48, 64)),
        BoundingBoxes(torch.tensor(sides), format="XYWH", canvas_size=(48, 64)),
        SimpleNamespace(xyxy=corners, mask=None),
    ):
        assert values(grounder(picture, form, TEXTS)) == expected


def test_masks_are_regions(picture: Image.Image) -> None:
    masks = np.zeros((2, 48, 64), bool)
    masks[0, 3:40, 2:30] = masks[1, 10:44, 20:60] = True
    by_mask = bsap.Grounder("demo", bank=BANK, views="masked_crop", device="cpu")
    boxes = np.array([[2, 3, 30, 40], [20, 10, 60, 44]], np.float32)
    found = by_mask(picture, masks, TEXTS)
    np.testing.assert_array_equal(found.boxes, boxes)
    assert values(found) == values(by_mask(picture, SimpleNamespace(xyxy=boxes, mask=masks), TEXTS))
    with pytest.raises(DataError, match="mask"):
        by_mask(picture, boxes, TEXTS)


def test_batches_are_their_parts(grounder: Any, picture: Image.Image) -> None:
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    found = grounder([picture, turned], [BOXES, [[1, 1, 20, 30]]], [TEXTS, "a cat"])
    assert [len(part) for part in found] == [2, 1]
    for part, alone in zip(
        found, (grounder(picture, BOXES, TEXTS), grounder(turned, [[1, 1, 20, 30]], "a cat")), strict=True
    ):
        for one, other in zip(part.answers, alone.answers, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-4)
    assert grounder([], [], []) == []


def test_what_a_notebook_shows(grounder: Any, picture: Image.Image) -> None:
    found = grounder(picture, BOXES, ["the <b>red</b> dog"])
    page = found._repr_html_()
    assert page.count("data:image/png;base64,") == 1
    assert "&lt;b&gt;red" in page
    assert "<b>" not in page
    assert found.picture(0).width >= 320
    assert repr(grounder) == "Grounder(demo/crop, demo/blur; scorer 'bsap', bank 'list', on cpu)"
    assert "Answer(text=" in repr(found)


def test_loaded_models_and_the_module(picture: Image.Image) -> None:
    encoder = bsap.load_model("demo")
    grounder = bsap.Grounder(encoder, bank=BANK, device="cpu")
    assert grounder.ensemble.members[0].encoder is encoder
    module = BSAPModule(encoders=[encoder], bank=BANK, run=None, store=None)
    module.configure_model()
    assert module.models == [encoder]
    assert repr(module).startswith("BSAPModule(tasks=['rec'], encoders=['demo'], views=['crop', 'blur'], bank=['a dog'")
    assert module.settings["encoders"][0]["name"] == "demo"


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (
            [1.0, 2.0, 3.0, 4.0],
            r"boxes of shape \(R, 4\) or masks of shape \(R, 48, 64\).*got shape \(4,\)",
        ),
        ([], "R at least 1"),
        ([[1, 2, 3]], r"got shape \(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2]], "R boxes of four numbers"),
        ([[30, 3, 2, 40]], r"x1 < x2 and y1 < y2 .*box 0 is \[30.0, 3.0, 2.0, 40.0\]"),
        ([[0, 0, 10, 10], [0, 0, 640, 480]], "in the picture of 64 x 48 pixels, but box 1"),
        ([[0, 0, float("nan"), 4]], "box 0"),
        ([["a", "b", "c", "d"]], "to hold numbers"),
        (np.zeros((2, 40, 64)), r"of shape \(R, 48, 64\), the picture's, but got \(2, 40, 64\)"),
        (np.zeros((2, 48, 64)), "mask 0 has none"),
    ],
)
def test_regions_that_do_not_fit(grounder: Any, picture: Image.Image, regions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grounder(picture, regions, TEXTS)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            np.zeros((3, 48, 64), np.uint8),
            r"of shape \(H, W, 3\) or \(H, W\), RGB, but got uint8 of shape \(3, 48, 64\)",
        ),
        (np.zeros((48, 64, 3)), "got float64"),
        (torch.zeros(48, 64, 3, dtype=torch.uint8), r"of shape \(3, H, W\)"),
        (7, "a path, a PIL picture, an array or a tensor, but got int"),
    ],
)
def test_pictures_that_do_not_fit(grounder: Any, form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grounder(form, BOXES, TEXTS)


def test_other_mistakes(grounder: Any, picture: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        grounder(tmp_path / "none.png", BOXES, TEXTS)
    for texts in ("", [], ["a dog", " "], [3], None):
        with pytest.raises(ValueError, match="`texts` to be one sentence or more"):
            grounder(picture, BOXES, texts)
    with pytest.raises(ValueError, match="`regions` to be a list of 2, one for each picture, but got 1"):
        grounder([picture, picture], [BOXES], [TEXTS, TEXTS])
    with pytest.raises(ConfigError, match="is empty"):
        bsap.Grounder("demo", bank=[], device="cpu")
    with pytest.raises(ConfigError, match="Did you mean 'demo'"):
        bsap.Grounder("deno", device="cpu")
    with pytest.raises(ConfigError, match="'dbsn' needs regions of other pictures, which a Grounder does not have"):
        bsap.Grounder("demo", scorer="dbsn", device="cpu")
    with pytest.raises(ConfigError, match="Unknown resize 'stretch'"):
        bsap.Grounder("demo", resize="stretch", device="cpu")
