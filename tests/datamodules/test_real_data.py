"""Real annotations and a few real pictures."""

from __future__ import annotations

import json
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.jsonl import read_jsonl
from bsap.datamodules.masks import PictureMasks
from bsap.datamodules.proposals import ProposalSource
from bsap.errors import DataError
from bsap.metrics.functional import box_iou_pairs, mask_overlap, rec_accuracy, ris_scores

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_counts_are_the_published_ones_and_quick(real_data: Path) -> None:
    for dataset, referents, expressions, pictures in [("refcoco", 3811, 10834, 1500), ("refcocog", 2573, 4896, 1300)]:
        started = time.process_time()
        records = read_jsonl(real_data / "reclip" / f"{dataset}_val.jsonl", dataset, None, "val")
        assert time.process_time() - started < 3
        assert (records.referents, len(records.expressions), len(records.pictures)) == (
            referents,
            expressions,
            pictures,
        )


def plain_iou(a: list[float], b: list[float]) -> float:
    """IoU of two [x, y, w, h] boxes."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@pytest.mark.parametrize("strict", [False, True])
def test_random_choice_is_what_a_plain_loop_gives(real_data: Path, strict: bool) -> None:
    file = real_data / "reclip" / "refcoco_val.jsonl"
    rng = np.random.default_rng(7)
    hits = total = 0
    for line in file.read_text().splitlines():
        record = json.loads(line)
        (target,) = [ann["bbox"] for ann in record["anns"] if ann["id"] == record["ann_id"]]
        for _ in record["sentences"]:
            chosen = record["anns"][rng.integers(len(record["anns"]))]["bbox"]
            iou = plain_iou(chosen, target)
            hits += iou > 0.5 if strict else iou >= 0.5
            total += 1

    records = read_jsonl(file, "refcoco", None, "val")
    source = ProposalSource(ProposalConfig("ground_truth"), records, real_data)
    boxes, targets = [], []
    rng = np.random.default_rng(7)
    for expression in records.expressions:
        picture = records.pictures[expression.referent.image_id]
        assert picture.width is not None
        assert picture.height is not None
        proposals = source.of(picture, PictureMasks(picture.width, picture.height))
        boxes.append(proposals.boxes[rng.integers(len(proposals))])
        targets.append(proposals.boxes[list(picture.objects).index(expression.referent.ann_ids[0])])
    iou = box_iou_pairs(torch.from_numpy(np.stack(boxes)), torch.from_numpy(np.stack(targets)))
    found = rec_accuracy(iou, strict=strict)
    assert int(found["n"]) == total == 10834
    assert float(found["acc@0.5"]) == hits / total


@pytest.mark.parametrize(
    ("dataset", "split", "split_by", "expressions"),
    [
        ("refcoco", "testA", "unc", 121), ("refcoco", "testB", "unc", 14), ("refcoco+", "testA", "unc", 117),
        ("refcoco+", "testB", "unc", 12), ("refcocog", "val", "umd", 6), ("refcocog", "test", "umd", 2),
    ],
)  # fmt: skip
def test_refer_files_load_with_their_pictures(
    real_data: Path, dataset: str, split: str, split_by: str, expressions: int
) -> None:
    root = real_data / "refer"
    data = RefCOCODataModule(str(root), ProposalConfig("ground_truth"), dataset=dataset, split=split, num_workers=0)
    data.setup("test")
    with (root / dataset / f"refs({split_by}).p").open("rb") as file:
        refs = [ref for ref in pickle.load(file) if ref["split"] == split]
    instances = json.loads((root / dataset / "instances.json").read_text())
    said = [(f"{dataset}/{split_by}/{split}/{s['sent_id']}", s["sent"]) for ref in refs for s in ref["sentences"]]
    assert len(said) == expressions == data.summary.total == data.summary.selected
    assert list(zip(data.expression_ids, data.texts, strict=True)) == said
    boxes_of = {ann["id"]: ann["bbox"] for ann in instances["annotations"]}
    targets = [boxes_of[ref["ann_id"]] for ref in refs for _ in ref["sentences"]]
    target_of = dict(zip(data.expression_ids, targets, strict=True))
    seen = 0
    for batch in data.test_dataloader():
        for scene, picture in zip(batch.scenes, batch.pictures, strict=True):
            assert tuple(picture.shape) == (3, scene.height, scene.width)
            assert len(scene.proposals) == sum(str(a["image_id"]) == scene.image_id for a in instances["annotations"])
            for expression in scene.expressions:
                x, y, w, h = target_of[expression.id]
                expected = np.array([[x, y, x + w, y + h]], dtype=np.float32)
                np.testing.assert_allclose(expression.referent.boxes, expected, atol=1e-3)
                seen += 1
    assert seen == expressions


def test_masks_score_as_a_dense_loop_does(real_data: Path) -> None:
    """Every referent with a mask, against a random masked object of its picture, over all three datasets."""
    root = real_data / "refer"
    overlaps, dense_pairs = [], []
    rng = np.random.default_rng(0)
    for dataset in ("refcoco", "refcoco+", "refcocog"):
        raw = json.loads((root / dataset / "instances.json").read_text())["annotations"]
        dense_of = {str(a["id"]): coco.decode(a["segmentation"]).astype(bool) for a in raw if a["segmentation"]}
        for split in ("testA", "testB") if dataset != "refcocog" else ("val", "test"):
            data = RefCOCODataModule(str(root), ProposalConfig("ground_truth"), dataset=dataset, split=split)
            data.setup("test")
            for scene in data.scenes:
                masked = [e.referent for e in scene.expressions if e.referent.has_mask]
                by_id: dict[str, Any] = {r.ann_ids[0]: r.masks[0] for r in masked}
                assert set(by_id) <= set(dense_of)
                for referent in masked:
                    chosen = sorted(by_id)[rng.integers(len(by_id))]
                    overlaps.append(mask_overlap(by_id[chosen], by_id[referent.ann_ids[0]]))
                    dense_pairs.append((dense_of[chosen], dense_of[referent.ann_ids[0]]))
    ious = [(a & b).sum() / (a | b).sum() for a, b in dense_pairs]
    expected = {
        "oIoU": sum(int((a & b).sum()) for a, b in dense_pairs) / sum(int((a | b).sum()) for a, b in dense_pairs),
        "mIoU": math.fsum(ious) / len(ious),
        **{f"Pr@{x}": sum(iou >= x for iou in ious) / len(ious) for x in (0.5, 0.6, 0.7, 0.8, 0.9)},
    }
    intersections, unions = torch.tensor(overlaps).T
    found = ris_scores(intersections, unions)
    assert len(ious) > 60
    assert 0 < expected["mIoU"] < 1, "the choice must sometimes be wrong and sometimes right"
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-9), name


def test_detections(real_data: Path) -> None:
    """Five pictures with detections, two of which are here: sizes come from the pictures themselves."""
    reclip, root = real_data / "reclip", real_data / "refer"
    proposals = ProposalConfig("detections", path=str(reclip / "refcoco_testA_dets_dict.json"))
    settings: dict[str, Any] = {"annotations": str(reclip / "refcoco_testA_detections.jsonl"), "split": "testA"}
    with pytest.raises(DataError, match=r"3 of 5 pictures are missing, first COCO_train2014_000000221187\.jpg"):
        RefCOCODataModule(str(root), proposals, **settings).setup("test")
    records = read_jsonl(Path(settings["annotations"]), "refcoco", None, "testA")
    assert (len(records.expressions), len(records.pictures)) == (50, 5)
    ids = [e.id for e in records.expressions if e.referent.image_id in ("266240", "192524")]
    data = RefCOCODataModule(str(root), proposals, ids=ids, **settings)
    data.setup("test")
    assert {s.image_id: (s.width, s.height, len(s.proposals)) for s in data.scenes} == {
        "266240": (428, 640, 5),
        "192524": (640, 480, 9),
    }
    assert len(data.summary.proposals["sha256"]) == 64
    with pytest.raises(DataError, match=r"has no proposals for 12 of 14 pictures.*another dataset or split"):
        RefCOCODataModule(str(root), proposals, split="testA").setup("test")
