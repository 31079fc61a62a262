from __future__ import annotations

import codecs
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from bsap.datamodules.masks import PictureMasks
from bsap.datamodules.proposal_readers import read_proposals
from bsap.datamodules.proposals import ProposalConfig, ProposalSource, make_proposals
from bsap.datamodules.records import RegionRecord
from bsap.datamodules.refer import read_refer
from bsap.errors import ConfigError, DataError

PICTURE = PictureMasks(40, 30)
SQUARE = [[2, 3, 6, 3, 6, 10, 2, 10]]  # its box is x 2, y 3, w 4, h 7


def rle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    dense = np.zeros((30, 40), dtype=np.uint8, order="F")
    dense[y : y + h, x : x + w] = 1
    found = coco.encode(dense)
    return {"size": [30, 40], "counts": found["counts"].decode()}


FORMS: dict[str, object] = {
    "dictionary": {"7": [[2, 3, 4, 7], [1, 1, 5, 5]], "8": [], "9": [[0, 0, 9, 9]]},
    "list": [
        {"image_id": 7, "box": [2, 3, 4, 7]},
        {"image_id": 9, "box": [0, 0, 9, 9]},
        {"image_id": 7, "box": [1, 1, 5, 5]},
    ],
    "coco": [
        {"image_id": 7, "category_id": 1, "bbox": [2, 3, 4, 7], "score": 0.9},
        {"image_id": "9", "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.8},
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.7},
    ],
    "coco masks": [
        {"image_id": 7, "segmentation": rle(2, 3, 4, 7), "score": 0.9},
        {"image_id": 9, "segmentation": rle(0, 0, 9, 9), "score": 0.8},
        {"image_id": 7, "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]], "score": 0.7},
    ],
}  # fmt: skip
LINES = [
    {
        "image_id": 7,
        "proposals": [{"bbox": [2, 3, 4, 7], "score": 0.9}, {"segmentation": rle(1, 1, 5, 5), "score": 0.7}],
    },
    {"picture": "8", "proposals": []},
    {"image_id": "9", "proposals": [{"bbox": [0, 0, 9, 9], "score": 0.1}]},
]


def regions_of(data: bytes) -> dict[str, list[list[float]]]:
    """xyxy boxes by picture."""
    plain = ProposalConfig("detections")
    found = read_proposals(data, "dets.json")
    return {key: make_proposals(r, plain, PICTURE, has_masks=False).boxes.tolist() for key, r in found.items()}


def test_every_form_gives_the_same_boxes() -> None:
    expected = {"7": [[2, 3, 6, 10], [1, 1, 6, 6]], "9": [[0, 0, 9, 9]]}
    forms = {name: json.dumps(content).encode() for name, content in FORMS.items()}
    forms["indented"] = json.dumps(FORMS["dictionary"], indent=1).encode()
    forms["lines"] = "\n".join(map(json.dumps, LINES)).encode()
    forms["dictionary after a mark"] = codecs.BOM_UTF8 + forms["dictionary"]
    forms["lines after a mark"] = codecs.BOM_UTF8 + forms["lines"]
    forms["one line"] = json.dumps(LINES[0]).encode()
    for name, data in forms.items():
        found = {key: boxes for key, boxes in regions_of(data).items() if boxes}
        assert found == (expected if name != "one line" else {"7": expected["7"]}), name
    assert "8" in regions_of(forms["dictionary"]), "an empty list is not an absent picture"
    assert "8" in regions_of(forms["lines"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not readable as JSON"),
        (b"5", "expected a dictionary"),
        (b'{"images": [], "annotations": {}}', "picture annotations: expected a dictionary"),
        (b'{"7": [[1, 2, 3]]}', "picture 7, proposal 1: a box must be four numbers"),
        (b'{"7": [[1, 2, 3, 4]], "8": [], "7": [[5, 6, 7, 8]]}', "the field '7' occurs twice"),
        (b'[{"image_id": 7}]', "record 1: a proposal needs a 'bbox'"),
        (b'[{"bbox": [1, 2, 3, 4]}]', "record 1: the field 'image_id' is missing"),
        (b"[[1, 2, 3, 4]]", "record 1: expected an object"),
        (b'{"image_id": 7, "proposals": 5}', "line 1: 'proposals' must be a list"),
        (b'{"proposals": []}', "line 1: the field 'picture' is missing"),
        (b'{"image_id": 7, "proposals": []}\n{"image_id": 7, "proposals": []}', "line 2: the picture 7 occurs twice"),
        (b'{"images": [{"id": 7}, {"id": 7}], "annotations": []}', "image 2: the picture 7 occurs twice"),
        (b'{"image_id": 7, "proposals": []}\n{"image_id"', "line 2: not readable"),
        (b'{"image_id": 7, "proposals": [}\n{"image_id": 8, "proposals": []}', "line 1: not readable"),
        (b'{"image_id": 7, "prop\n{"image_id": 8, "proposals": []}', "line 1: not readable"),
        (b'[{"image_id": 7, "bbox": [300, 200, 320, 230]}]', "record 1: the box .* reaches beyond"),
        (b'[{"image_id": 7, "bbox": [10, 10, 30, 25]}]', r"record 1: .*corners \[x1, y1, x2, y2\]: convert"),
        (b'[{"image_id": 7, "bbox": [1, 1, 0, 5]}]', "record 1: .* no area"),
        (b'[{"image_id": 7, "bbox": [1, 1, NaN, 5]}]', "record 1: .* finite numbers"),
        (b'[{"image_id": 7, "bbox": [1, 1, 5, 5], "score": "high"}]', "record 1, 'score': expected a finite number"),
        (b'[{"image_id": 7, "bbox": [1, 1, 5, 5], "score": NaN}]', "record 1, 'score': expected a finite number"),
        (b'[{"image_id": 7, "segmentation": {"size": [40, 30], "counts": [1200]}}]', r"record 1: the mask's size"),
    ],
)
def test_malformed_files(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=r"dets\.json.*" + message):
        regions_of(data)


def region(box: list[float], score: float | None = None, mask: object = None) -> RegionRecord:
    return RegionRecord(f"box {box}", box, segmentation=mask, score=score)


SCORED = [region([n, n, 4 + n, 5], score) for n, score in enumerate([0.2, 0.9, 0.5, 0.9, 0.5])]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"min_score": 0.5}, [1, 2, 3, 4]),
        ({"top_k": 3}, [1, 2, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"min_area": 30.0}, [2, 3, 4]),
        ({"min_score": 0.3, "top_k": 4, "min_area": 35.0}, [3, 4]),
        ({"min_score": 0.95}, []),
        ({"min_area_share": 24 / (PICTURE.width * PICTURE.height)}, [1, 2, 3, 4]),
        ({"min_area_share": 30 / (PICTURE.width * PICTURE.height)}, [3, 4]),
        ({"min_area_share": 0.9}, [0, 1, 2, 3, 4]),
        ({"min_area_share": 0.9, "min_area": 30.0}, [2, 3, 4]),
    ],
)
def test_filters_keep_the_files_order(filters: dict[str, Any], kept: list[int]) -> None:
    found = make_proposals(SCORED, ProposalConfig("detections", **filters), PICTURE, has_masks=False)
    expected = [[n, n, 4 + 2 * n, 5 + n] for n in kept]
    assert found.boxes.tolist() == expected
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores, np.array([SCORED[n].score for n in kept], dtype=np.float32))


def test_masks_follow_their_boxes_through_filters() -> None:
    regions = [
        region([2, 3, 4, 7], 0.1, SQUARE),
        region([0, 0, 9, 9], 0.9, rle(0, 0, 9, 9)),
        region([1, 1, 2, 2], 0.8, rle(1, 1, 2, 2)),
    ]
    found = make_proposals(regions, ProposalConfig("detections", top_k=2, min_area=5), PICTURE, has_masks=True)
    assert found.masks is not None
    assert [int(coco.area(mask)) for mask in found.masks] == [81]
    assert found.boxes.tolist() == [[0, 0, 9, 9]]


def test_filters_need_scores_and_masks_are_all_or_none() -> None:
    plain = ProposalConfig("detections")
    for filters in ({"min_score": 0.1}, {"top_k": 3}):
        with pytest.raises(ConfigError, match="has no score"):
            make_proposals([region([1, 1, 5, 5])], ProposalConfig("detections", **filters), PICTURE, has_masks=False)
    half_scored = [region([1, 1, 5, 5], 0.5), region([2, 2, 5, 5])]
    with pytest.raises(DataError, match=r"box \[2, 2, 5, 5\], 'score'"):
        make_proposals(half_scored, plain, PICTURE, has_masks=False)
    half_masked = [region([1, 1, 5, 5]), region([2, 3, 4, 7], mask=SQUARE)]
    with pytest.raises(DataError, match=r"box \[1, 1, 5, 5\]: this proposal has no mask"):
        make_proposals(half_masked, plain, PICTURE, has_masks=True)


def test_flat_boxes_can_be_left_out_by_area() -> None:
    flat = [region([5, 5, 0, 3]), region([1, 1, 5, 5])]
    with pytest.raises(DataError, match=r"no area.* `--data\.proposals\.min_area 1`"):
        make_proposals(flat, ProposalConfig("ground_truth"), PICTURE, has_masks=False)
    found = make_proposals(flat, ProposalConfig("ground_truth", min_area=1e-6), PICTURE, has_masks=False)
    assert found.boxes.tolist() == [[1, 1, 6, 6]]


@pytest.mark.parametrize("has_masks", [False, True])
def test_a_mask_without_a_pixel_gives_no_box(has_masks: bool) -> None:
    regions = [RegionRecord("thin", None, [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]), RegionRecord("fine", None, SQUARE)]
    with pytest.raises(DataError, match=r"thin: the mask has no pixel.* `--data\.proposals\.min_area 1`"):
        make_proposals(regions, ProposalConfig("masks"), PICTURE, has_masks=has_masks)
    found = make_proposals(regions, ProposalConfig("masks", min_area=1), PICTURE, has_masks=has_masks)
    assert found.boxes.tolist() == [[2, 3, 6, 10]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "detection"}, "Did you mean 'detections'"),
        ({"source": None}, "Unknown source of proposals"),
        ({"source": "detections", "empty": "drop"}, "Unknown policy"),
        ({"source": "detections", "min_score": -1}, "min_score"),
        ({"source": "detections", "min_score": float("nan")}, "min_score"),
        ({"source": "detections", "min_area": "1"}, "min_area"),
        ({"source": "detections", "min_area_share": 20}, "share of the picture, below 1, but got 20"),
        ({"source": "detections", "top_k": 0}, "top_k"),
        ({"source": "detections", "top_k": True}, "top_k"),
        ({"source": "ground_truth", "path": "x.json"}, "`proposals.path` has no meaning"),
        ({"source": "ground_truth", "min_score": 0.5}, "`proposals.min_score` has no meaning"),
        ({"source": "ground_truth", "top_k": 5}, "`proposals.top_k` has no meaning"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProposalConfig(**fields)


def test_source_is_required() -> None:
    with pytest.raises(TypeError, match="source"):
        ProposalConfig()  # type: ignore[call-arg]


def test_ground_truth_is_every_object_of_the_picture(root: Path) -> None:
    records = read_refer(root, "tiny", None, "val")
    source = ProposalSource(ProposalConfig("ground_truth"), records, root)
    nine = source.of(records.pictures["9"], PICTURE)
    assert nine.boxes.tolist() == [[1, 1, 9, 9], [20, 10, 30, 20]]
    assert nine.masks is not None
    assert [int(coco.area(m)) for m in nine.masks] == [64, 100]
    assert source.sha256 == hashlib.sha256((root / "tiny" / "instances.json").read_bytes()).hexdigest()
    unmasked = ProposalSource(ProposalConfig("ground_truth"), records, root, masks=False)
    assert unmasked.of(records.pictures["9"], PICTURE).masks is None


def test_one_setting_for_the_files_of_all_splits(root: Path) -> None:
    records = read_refer(root, "tiny", None, "val")
    (root / "dets_tiny_val.json").write_text(json.dumps(FORMS["dictionary"]))
    config = ProposalConfig("detections", path="dets_{dataset}_{split}.json")
    assert ProposalSource(config, records, root).file == str(root / "dets_tiny_val.json")
    with pytest.raises(DataError, match=r"dets_val\.json"):
        ProposalSource(ProposalConfig("detections", path="dets_{split}.json"), records, root)


def test_source_files(root: Path, tmp_path: Path) -> None:
    records = read_refer(root, "tiny", None, "val")
    file = root / "dets.json"
    file.write_text(json.dumps(FORMS["coco masks"]))
    source = ProposalSource(ProposalConfig("masks", path="dets.json"), records, root)
    assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert source.of(records.pictures["7"], PICTURE).boxes.tolist() == [[2, 3, 6, 10], [1, 1, 6, 6]]
    assert source.of(records.pictures["8"], PICTURE).masks == (), "no proposals, but a source of masks"
    whole = source.whole(40, 30)
    assert whole.masks is not None
    assert int(coco.area(whole.masks[0])) == 1200
    split = ["7", "8", "9"]
    assert source.absent(split, split) == ["8"]
    assert source.absent(["8"], split) == ["8"], "a small selection may hold just what the file lacks"
    assert source.absent(["7", "9"], ["1", "2", "3", "7", "9"]) == [], "a file may be made for the selection"
    with pytest.raises(DataError, match=r"no proposals for 2 of 3 pictures, first 1, 2; it has pictures such as 7, 9"):
        source.absent(["1", "2", "9"], ["1", "2", "9"])
    with pytest.raises(DataError, match=r"no proposals for 1 of 1 pictures"):
        source.absent(["1"], ["1", "2", "9"])
    file.write_text(json.dumps(FORMS["coco"]))
    with pytest.raises(DataError, match=r"`proposals.source` is masks, but no proposal"):
        ProposalSource(ProposalConfig("masks", path="dets.json"), records, root)
    with pytest.raises(DataError, match=r"`proposals.masked_only` is true, but no proposal"):
        ProposalSource(ProposalConfig("detections", path="dets.json", masked_only=True), records, root)
    with pytest.raises(ConfigError, match="`masks` is false"):
        ProposalSource(ProposalConfig("masks", path="dets.json"), records, root, masks=False)
    with pytest.raises(ConfigError, match=r"`proposals.path` is not set"):
        ProposalSource(ProposalConfig("detections"), records, root)
    with pytest.raises(DataError, match="No proposals at"):
        ProposalSource(ProposalConfig("detections", path="gone.json"), records, root)


@pytest.mark.parametrize("named", ["{image_id}", "p_{image_id}", "00{image_id}"])
@pytest.mark.parametrize("form", ["list", "SA-1B", "boxes"])
def test_a_folder_with_a_file_for_each_picture(root: Path, named: str, form: str) -> None:
    """What SAM's automatic mask generator writes, and boxes alone."""
    records = read_refer(root, "tiny", None, "val")
    folder = root / "sam"
    folder.mkdir()
    boxes = {"7": [(2, 3, 4, 7), (1, 1, 5, 5)], "9": [(0, 0, 9, 9)], "8": []}
    for image_id, found in boxes.items():
        masks = [
            {"bbox": list(map(float, box)), "segmentation": rle(*box), "predicted_iou": 0.9 - 0.1 * n, "area": 1}
            for n, box in enumerate(found)
        ]
        contents: dict[str, Any] = {"list": masks, "boxes": [list(box) for box in found]}
        contents["SA-1B"] = {"image": {"image_id": 1, "file_name": "x.jpg"}, "annotations": masks}
        (folder / f"{named.format(image_id=image_id)}.json").write_text(json.dumps(contents[form]))
    (folder / "other.json").write_text("not even JSON")
    (folder / "metadata.csv").write_text("x")
    source = ProposalSource(ProposalConfig("detections", path="sam"), records, root)
    for image_id, found in boxes.items():
        proposals = source.of(records.pictures[image_id], PictureMasks(40, 30))
        assert proposals.boxes.tolist() == [[x, y, x + w, y + h] for x, y, w, h in found]
        if form != "boxes":
            assert proposals.masks is not None
            assert [int(coco.area(mask)) for mask in proposals.masks] == [w * h for _, _, w, h in found]
            if found:
                assert proposals.scores is not None
                np.testing.assert_allclose(proposals.scores, [0.9 - 0.1 * n for n in range(len(found))], rtol=1e-6)
    assert source.absent(["7", "8", "9"], ["7", "8", "9"]) == []
    before = source.sha256
    (folder / "other.json").write_text("changed")
    assert ProposalSource(ProposalConfig("detections", path="sam"), records, root).sha256 == before
    (folder / f"{named.format(image_id=8)}.json").write_text("[ ]")
    assert ProposalSource(ProposalConfig("detections", path="sam"), records, root).sha256 != before
    (folder / f"{named.format(image_id=8)}.json").write_text("{")
    with pytest.raises(DataError, match=r"8\.json: not readable as JSON"):
        ProposalSource(ProposalConfig("detections", path="sam"), records, root)


def test_one_file_of_sa_1b() -> None:
    content = {"image": {"image_id": 3, "file_name": "sa_3.jpg"}, "annotations": [{"bbox": [2, 3, 4, 7]}]}
    assert regions_of(json.dumps(content).encode()) == {"sa_3.jpg": [[2, 3, 6, 10]]}
