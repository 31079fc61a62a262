from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from bsap.cli import main
from bsap.datamodules import RefCOCODataModule
from bsap.datamodules.jsonl import read_jsonl
from bsap.datamodules.sources.convert import box_form, line_of_samples, lines_of_captions, referent
from bsap.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

W, H = 40, 30


def sample(n: int, box: tuple[int, int, int, int], form: str) -> dict[str, Any]:
    x, y, w, h = box
    dense = np.zeros((H, W), dtype=np.uint8, order="F")
    dense[y : y + h, x : x + w] = 1
    given = np.array([x, y, w, h] if form.startswith("xywh") else [x, y, x + w, y + h], dtype=float)
    if form.endswith("0..1"):
        given /= np.array([W, H, W, H])
    return {
        "id": n, "category": "cup", "supercategory": "thing", "label": "cup", "bbox": given.tolist(),
        "sentences": [f"cup {n}", f"the cup {n}"], "mask": {"counts": coco.encode(dense)["counts"], "size": [H, W]},
    }  # fmt: skip


BOXES = [[(2, 3, 10, 7), (20, 5, 15, 20)], [(0, 0, 5, 25)]]


@pytest.mark.parametrize("form", ["xywh", "xyxy", "xywh in 0..1", "xyxy in 0..1"])
def test_samples_with_masks(tmp_path: Path, form: str) -> None:
    rows = [
        {
            "image_id": n,
            "file_name": f"p{n}.png",
            "samples": [sample(10 * n + m, box, form) for m, box in enumerate(boxes)],
        }
        for n, boxes in enumerate(BOXES, start=1)
    ]
    found = box_form([(row, (W, H)) for row in rows], "refcoco-m")
    assert found == form
    lines = [line_of_samples(row, (W, H), "refcoco-m", form=found) for row in rows]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for n in (1, 2):
        Image.new("RGB", (W, H)).save(tmp_path / f"p{n}.png")
    records = read_jsonl(tmp_path / "val.jsonl", "refcoco-m", "moondream", "val")
    assert [(e.text, e.referent.distractors) for e in records.expressions][:2] == [
        ("cup 10", None),
        ("the cup 10", None),
    ]
    settings: dict[str, Any] = {"annotations": "val.jsonl", "dataset": "refcoco-m", "num_workers": 0}
    with pytest.raises(ConfigError, match="only the objects that expressions refer to"):
        RefCOCODataModule(str(tmp_path), {"source": "ground_truth"}, **settings).setup("test")  # type: ignore[arg-type]
    (tmp_path / "dets.json").write_text(json.dumps({"1": [[0, 0, 9, 9]], "2": [[0, 0, 9, 9]]}))
    detections: Any = {"source": "detections", "path": "dets.json"}
    data = RefCOCODataModule(str(tmp_path), detections, **settings)
    data.setup("test")
    boxes = [scene.expressions[0].referent.boxes[0].tolist() for scene in data.scenes]
    np.testing.assert_allclose(boxes, [[2, 3, 12, 10], [0, 0, 5, 25]], atol=1e-4)
    areas = [int(coco.area(scene.expressions[0].referent.masks[0])) for scene in data.scenes]
    assert areas == [70, 125]
    with pytest.raises(DataError, match="cannot count the others"):
        RefCOCODataModule(str(tmp_path), detections, max_distractors=3, **settings).setup("test")


def test_boxes_that_fit_no_form() -> None:
    rows = [{"samples": [{**sample(1, (2, 3, 10, 7), "xywh"), "bbox": [500.0, 600.0, 700.0, 800.0]}]}]
    with pytest.raises(DataError, match="fit the masks in none of the forms"):
        box_form([(rows[0], (W, H))], "refcoco-m")


def test_captions(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{n:06d}", "caption": f"caption {n}", "bbox": [2.0 + n // 2, 3.0, 10.0, 7.0], "height": H,
            "width": W, "bbox_id": f"b{n // 2}", "ori_category_id": "o365_6", "image_id": f"i{n // 4}",
            "file_name": f"a/{n // 4}.jpg",
        }
        for n in range(6)
    ]  # fmt: skip
    lines = lines_of_captions(rows, "ref-l4-val.parquet")
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, lines)))
    records = read_jsonl(tmp_path / "val.jsonl", "ref_l4", "ref_l4", "val")
    assert len(records.pictures) == 2
    found = {}
    for expression in records.expressions:
        picture = records.pictures[expression.referent.image_id]
        box = picture.objects[expression.referent.ann_ids[0]].bbox
        found[expression.id.rsplit("/", 1)[1]] = (expression.text, picture.file_name, box)
    expected = {
        row["id"]: (row["caption"], row["file_name"], row["bbox"]) for row in rows
    }  # a plain loop over the rows
    assert found == expected


@pytest.mark.parametrize("stored", ["list", "mapping"])
@pytest.mark.parametrize(
    ("given", "test", "split"), [("test", "testA", "testA"), ("test", "test", "test"), ("validation", "testA", "val")]
)
def test_referents(stored: str, given: str, test: str, split: str) -> None:
    sentences: Any = [{"raw": f"Raw {n}", "sent": f"raw {n}", "sent_id": n, "tokens": ["raw", str(n)]} for n in (4, 5)]
    expected = list(sentences)
    if stored == "mapping":
        sentences = {key: [sentence[key] for sentence in sentences] for key in sentences[0]}
    row = {
        "ref_id": 1, "ann_id": 2, "image_id": 3, "category_id": 4, "file_name": "COCO_train2014_000000000003_1.jpg",
        "split": given, "sentences": sentences,
    }  # fmt: skip
    found = referent(row, "row 1", test=test)
    assert (found["split"], found["sentences"], found["sent_ids"]) == (split, expected, [4, 5])
    with pytest.raises(DataError, match="row 1: the field 'ann_id' is missing"):
        referent({**row, "ann_id": None}, "row 1", test=test)


def test_pictures_inside_the_hubs_files(served: Any, tmp_path: Path) -> None:
    """The whole form of RefCOCO-M, with the pictures in the parquet file."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from bsap.datamodules.sources.hub import parquet_rows

    stream, table = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (W, H)).save(stream, "PNG")
    row = {
        "image": {"bytes": stream.getvalue(), "path": "p1.png"}, "image_id": 1, "file_name": "p1.png",
        "samples": [sample(1, BOXES[0][0], "xywh")],
    }  # fmt: skip
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), table)
    (tmp_path / "x.parquet").write_bytes(table.getvalue())
    assert list(parquet_rows(tmp_path / "x.parquet", tuple(row))) == [row]
    with pytest.raises(DataError, match="the column 'label' is missing; it has image"):
        list(parquet_rows(tmp_path / "x.parquet", ("label",)))
    (tmp_path / "x.parquet").write_bytes(table.getvalue()[:200])
    with pytest.raises(DataError, match="not a readable parquet file"):
        list(parquet_rows(tmp_path / "x.parquet", ("image",)))


def test_ref_l4_counts_more_than_the_threshold(tmp_path: Path) -> None:
    """Its rule is IoU > 0.5: a box with exactly half the area of its union misses."""
    row = {
        "caption": "a box", "ori_category_id": "o365_6", "image_id": "i", "height": H, "width": W, "file_name": "a.png",
    }  # fmt: skip
    half = {**row, "id": "1", "bbox": [4.0, 4.0, 10.0, 20.0], "bbox_id": "b1"}
    more = {**row, "id": "2", "bbox": [4.0, 4.0, 10.0, 19.0], "bbox_id": "b2"}
    folder = tmp_path / "ref_l4" / "images"
    folder.mkdir(parents=True)
    (folder.parent / "val.jsonl").write_text("\n".join(map(json.dumps, lines_of_captions([half, more], "val"))))
    (tmp_path / "dets.json").write_text(json.dumps({"i": [[4, 4, 10, 10]]}))
    Image.new("RGB", (W, H)).save(folder / "a.png")
    flags = ["--data.root", str(tmp_path), "--data.annotations", "ref_l4/val.jsonl", "--data.proposals.source",
             "detections", "--data.proposals.path", "dets.json", "--model.encoders", "[{name: demo}]", "--run.root",
             str(tmp_path / "runs"), "--run.name", "x", "--trainer.accelerator", "cpu"]  # fmt: skip
    assert main(["test", "-c", "bsap:protocols/ref_l4.yaml", *flags]) == 0
    results = json.loads((tmp_path / "runs" / "x" / "results.json").read_text())
    assert results["metrics"]["rec"]["clip"]["acc@0.5"] == 0.5
    assert results["protocol"]["hit"] == "IoU > 0.5"
