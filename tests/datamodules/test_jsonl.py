from __future__ import annotations

import copy
import importlib.resources
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bsap.datamodules.jsonl import read_jsonl
from bsap.datamodules.masks import PictureMasks
from bsap.datamodules.proposals import ProposalConfig, ProposalSource, make_proposals
from bsap.errors import ConfigError, DataError

SCHEMA = json.loads((importlib.resources.files("bsap.configs") / "expressions.schema.json").read_text())

RECLIP = [
    {
        "file_name": "COCO_x_000000000007_2.jpg", "image_id": 7, "ann_id": 2, "width": 40, "height": 30,
        "anns": [{"id": 1, "bbox": [0, 0, 10, 10]}, {"id": 2, "bbox": [12, 2, 20, 20]}],
        "sentences": [{"raw": "Big Dog", "sent": "big dog"}, {"raw": "right"}],
    },
    {
        "file_name": "COCO_x_000000000007_1.jpg", "image_id": 7, "ann_id": "1", "width": 40, "height": 30,
        "anns": [{"id": 1, "bbox": [0, 0, 10, 10]}, {"id": 2, "bbox": [12, 2, 20, 20]}],
        "sentences": [{"raw": "left"}],
    },
    {
        "file_name": "COCO_x_000000000007_1.jpg", "image_id": 7, "ann_id": [1, 2], "width": 40, "height": 30,
        "anns": [{"id": 1, "bbox": [0, 0, 10, 10]}, {"id": 2, "bbox": [12, 2, 20, 20]}],
        "sentences": [{"raw": "dogs"}],
    },
]  # fmt: skip

OWN: dict[str, Any] = {
    "picture": "kitchen/1.jpg", "image_id": "k1", "width": 40, "height": 30, "split": "val",
    "objects": [
        {"id": "a", "bbox": [0, 0, 10, 10], "category": "dog"},
        {"id": 2, "segmentation": [[12, 2, 32, 2, 32, 22, 12, 22]], "category": "dog"},
    ],
    "expressions": [
        {"text": "Big Dog", "target": 2, "phrase": "dog", "id": "x7"},
        {"text": "dogs", "target": ["a", 2]},
    ],
    "proposals": [{"bbox": [1, 1, 5, 5], "score": 0.5}, {"segmentation": {"size": [30, 40], "counts": [600, 600]}}],
}  # fmt: skip


def write(tmp_path: Path, *lines: object) -> Path:
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_reclip_by_hand(tmp_path: Path) -> None:
    records = read_jsonl(write(tmp_path, RECLIP[0], "", *RECLIP[1:]), "refcoco", None, "val")
    assert [(e.id, e.text, e.referent.id, e.referent.ann_ids) for e in records.expressions] == [
        ("refcoco/unc/val/1.1", "big dog", "1", ("2",)),
        ("refcoco/unc/val/1.2", "right", "1", ("2",)),
        ("refcoco/unc/val/3.1", "left", "3", ("1",)),
        ("refcoco/unc/val/4.1", "dogs", "4", ("1", "2")),
    ]
    (picture,) = records.pictures.values()
    assert picture.file_name == "COCO_x_000000000007.jpg"
    assert list(picture.objects) == ["1", "2"]
    assert records.referents == 3
    raw = read_jsonl(write(tmp_path, *RECLIP), "refcoco", None, "val", text="raw", lowercase=True)
    assert [e.text for e in raw.expressions] == ["big dog", "right", "left", "dogs"]


def test_own_by_hand(tmp_path: Path) -> None:
    other = {**OWN, "picture": "2.jpg", "image_id": 2, "split": "test", "proposals": []}
    del other["image_id"]
    records = read_jsonl(write(tmp_path, OWN, other), "kitchens", None, "val")
    assert [(e.id, e.text, e.phrase, e.referent.ann_ids) for e in records.expressions] == [
        ("kitchens/own/val/x7", "Big Dog", "dog", ("2",)),
        ("kitchens/own/val/1.2", "dogs", None, ("a", "2")),
    ]
    assert [(e.referent.category, e.referent.distractors) for e in records.expressions] == [("dog", 1), ("dog", 0)]
    assert records.pictures["k1"].file_name == "kitchen/1.jpg"
    assert records.proposals is not None
    assert [len(regions) for regions in records.proposals.values()] == [2]
    assert list(read_jsonl(tmp_path / "x.jsonl", "kitchens", None, "test").pictures) == ["2.jpg"]
    with pytest.raises(ConfigError, match=r"Unknown split of .*x\.jsonl.* 'train'.* Known: test, val"):
        read_jsonl(tmp_path / "x.jsonl", "kitchens", None, "train")
    del OWN["split"]
    assert len(read_jsonl(write(tmp_path, OWN), "kitchens", None, "train").expressions) == 2
    OWN["split"] = "val"


def changed(line: dict[str, Any], path: list[Any], value: object) -> dict[str, Any]:
    copied = copy.deepcopy(line)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copied


MALFORMED_RECLIP: list[tuple[list[Any], object, str]] = [
    (["file_name"], "plain.jpg", "line 2: the picture 7 has another file or size"),
    (["file_name"], "other_1.jpg", "line 2: the picture 7 has another file or size in .*line 1"),
    (["width"], 41, "line 2: the picture 7 has another file or size"),
    (["width"], KeyError, "line 2: the field 'width' is missing"),
    (["ann_id"], 9, "line 2: the picture 7 has no annotation 9"),
    (["ann_id"], {}, "line 2, 'ann_id': expected an id"),
    (["anns", 0, "id"], 2, "anns 2: the annotation id 2 occurs twice"),
    (["anns", 0, "bbox"], [0, 0, 9, 9], "anns 1: the annotation 1 has another box or mask in .*line 1"),
    (["anns", 0, "bbox"], KeyError, "anns 1: an object needs a 'bbox'"),
    (["anns"], None, "'anns' is missing"),
    (["sentences", 0], "left", "line 2, sentence 1: expected an object"),
    (["sentences", 0, "raw"], "", "line 2, sentence 1: 'raw' must be a text"),
]


@pytest.mark.parametrize(("path", "value", "message"), MALFORMED_RECLIP)
def test_malformed_reclip_lines(tmp_path: Path, path: list[Any], value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_jsonl(write(tmp_path, RECLIP[0], changed(RECLIP[1], path, value)), "refcoco", None, "val")


MALFORMED_OWN: list[tuple[list[Any], object, str]] = [
    (["width"], KeyError, "line 1: the field 'width' is missing"),
    (["width"], 40.5, "line 1: 'width' must be a positive number"),
    (["width"], None, "line 1: the field 'width' is missing"),
    (["objects", 0, "id"], None, "objects 1: the field 'id' is missing"),
    (["objects", 0, "bbox"], None, "objects 1: an object needs a 'bbox'"),
    (["objects", 1, "segmentation"], [], "objects 2: an object needs a 'bbox'"),
    (["objects", 1, "segmentation"], None, "objects 2: an object needs a 'bbox'"),
    (["proposals", 1, "segmentation"], [], "proposal 2: a proposal needs a 'bbox'"),
    (["widht"], 40, "line 1: unknown field 'widht'"),
    (["picture"], " ", "line 1: 'picture' must be a text"),
    (["image_id"], 1.5, "line 1, 'image_id': expected an id"),
    (["split"], 5, "line 1: 'split' must be a text"),
    (["split"], ["val", "test"], "line 1: 'split' must be a text"),
    (["split"], "", "line 1: 'split' must be a text that is not empty"),
    (["objects"], {}, "line 1: 'objects' must be a list"),
    (["objects_complete"], 0, "line 1: 'objects_complete' must be true or false, but got 0"),
    (["objects_complete"], "false", "line 1: 'objects_complete' must be true or false"),
    (["objects", 0, "bbox"], KeyError, "objects 1: an object needs a 'bbox'"),
    (["objects", 0, "box"], [1, 2, 3, 4], "objects 1: unknown field 'box'"),
    (["objects", 0, "category"], 3, "objects 1: 'category' must be a text"),
    (["expressions", 0, "text"], "\t", "expression 1: 'text' must be a text that is not empty"),
    (["expressions", 0, "target"], KeyError, "expression 1: the field 'target' is missing"),
    (["expressions", 0, "id"], "a/b", "expression 1: an expression id must not contain '/'"),
    (["expressions", 0, "phrase"], "", "expression 1: 'phrase' must be a text"),
    (["expressions", 0, "say"], "x", "expression 1: unknown field 'say'"),
    (["proposals", 0, "bbox"], KeyError, "proposal 1: a proposal needs a 'bbox'"),
    (["proposals", 0, "scroe"], 1, "proposal 1: unknown field 'scroe'"),
    (["proposals"], 5, "'proposals' must be a list"),
]


@pytest.mark.parametrize(("path", "value", "message"), MALFORMED_OWN)
def test_malformed_own_lines_fail_here_and_in_the_schema(
    tmp_path: Path, path: list[Any], value: object, message: str
) -> None:
    line = changed(OWN, path, value)
    with pytest.raises(DataError, match=message):
        read_jsonl(write(tmp_path, line), "kitchens", None, "val")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(line, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["width"], 40.0),
        (["image_id"], 2.0),
        (["image_id"], None),
        (["split"], None),
        (["objects", 0, "category"], None),
        (["objects", 0, "segmentation"], None),
        (["objects", 0, "segmentation"], []),
        (["objects", 1, "bbox"], None),
        (["objects", 1, "id"], 2.0),
        (["expressions", 0, "target"], 2.0),
        (["expressions", 0, "target"], []),
        (["expressions", 0, "id"], None),
        (["expressions", 0, "phrase"], None),
        (["proposals"], None),
        (["proposals", 0, "score"], None),
        (["proposals", 1, "bbox"], None),
        (["proposals", 1, "segmentation", "counts"], [600.0, 600.0]),
        (["proposals", 1, "segmentation", "size"], [30.0, 40.0]),
    ],
)
def test_the_reader_and_the_schema_take_the_same(tmp_path: Path, path: list[Any], value: object) -> None:
    """Null is a field that is left out, and a number is whole whether or not a program wrote a point."""
    line = changed(OWN, path, value)
    jsonschema.validate(line, SCHEMA)
    records = read_jsonl(write(tmp_path, line), "kitchens", None, "val")
    (picture,) = records.pictures.values()
    assert (picture.width, type(picture.width), list(picture.objects)) == (40, int, ["a", "2"])
    size, plain = PictureMasks(40, 30), ProposalConfig("detections")
    regions = [*picture.objects.values(), *(records.proposals or {}).get(picture.image_id, [])]
    made = [make_proposals([region], plain, size, has_masks=bool(region.segmentation)) for region in regions]
    assert [len(proposals) for proposals in made] == [1] * (2 if path == ["proposals"] else 4)


def test_a_malformed_split_is_an_error_in_any_line(tmp_path: Path) -> None:
    """It would otherwise be another split's line, and what it holds would be left out without a word."""
    file = write(tmp_path, OWN, {**OWN, "image_id": "k2", "split": ["val", "test"]})
    with pytest.raises(DataError, match=r"line 2: 'split' must be a text.*\['val', 'test'\]"):
        read_jsonl(file, "kitchens", None, "val")


def test_the_schema_accepts_what_the_reader_does() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(OWN, SCHEMA)
    jsonschema.validate({key: OWN[key] for key in ("picture", "width", "height", "objects", "expressions")}, SCHEMA)


def test_identity_is_checked_beyond_the_schema(tmp_path: Path) -> None:
    for line, message in [
        (changed(OWN, ["expressions", 0, "target"], "zebra"), "the picture k1 has no annotation zebra"),
        (changed(OWN, ["objects", 1, "id"], "a"), "the annotation id a occurs twice"),
        (changed(OWN, ["expressions", 0, "id"], "1.2"), "the expression id '1.2' occurs twice"),
    ]:
        jsonschema.validate(line, SCHEMA)
        with pytest.raises(DataError, match=message):
            read_jsonl(write(tmp_path, line), "kitchens", None, "val")
    with pytest.raises(DataError, match="line 2: the picture k1 occurs twice"):
        read_jsonl(write(tmp_path, OWN, {**OWN, "expressions": []}), "kitchens", None, "val")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    for lines, message in [
        ([], "the first line is neither"),
        ([{"a": 1}], "the first line is neither"),
        (["[1, 2]"], "record 1: expected an object"),
        (["5"], "line 1: expected an object"),
        ([OWN, "{"], "line 2: not readable as JSON"),
        ([{**OWN, "expressions": []}], "no line holds an expression"),
        ([OWN, RECLIP[0]], "line 2: unknown field"),
        ([RECLIP[0], OWN], "line 2: the field"),
    ]:
        with pytest.raises(DataError, match=message):
            read_jsonl(write(tmp_path, *lines), "kitchens", None, "val")
    with pytest.raises(DataError, match="No annotations at"):
        read_jsonl(tmp_path / "gone.jsonl", "kitchens", None, "val")


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    example = json.loads(page.read_text().split("```json\n")[1].split("```")[0])
    jsonschema.validate(example, SCHEMA)
    records = read_jsonl(write(tmp_path, example), "kitchens", None, "val")
    assert [(e.id, e.referent.ann_ids) for e in records.expressions] == [
        ("kitchens/own/val/1.1", ("bowl-1",)),
        ("kitchens/own/val/s17", ("bowl-1", "bowl-2")),
        ("kitchens/own/val/1.3", ()),
    ]
    (picture,) = records.pictures.values()
    for source in ("ground_truth", "detections"):
        proposals = ProposalSource(ProposalConfig(source), records, tmp_path).of(picture, PictureMasks(640, 428))  # type: ignore[arg-type]
        assert len(proposals) == 2


def test_reclip_lines_without_a_field(tmp_path: Path) -> None:
    """COCO's own names and names without an underscore are whole; of others both are tried."""
    names = {
        "COCO_train2014_000000000007_4.jpg": ("COCO_train2014_000000000007.jpg", "COCO_train2014_000000000007_4.jpg"),
        "COCO_train2014_000000000007.jpg": ("COCO_train2014_000000000007.jpg",),
        "000000000007.jpg": ("000000000007.jpg",),
        "plain.jpg": ("plain.jpg",),
        "kitchen_7.jpg": ("kitchen.jpg", "kitchen_7.jpg"),
    }
    for name, expected in names.items():
        line = {**RECLIP[0], "file_name": name}
        records = read_jsonl(write(tmp_path, line), "refcoco", None, "val")
        assert [picture.file_names for picture in records.pictures.values()] == [expected]


def test_an_array_of_lines(tmp_path: Path) -> None:
    lines = read_jsonl(write(tmp_path, OWN), "kitchens", None, "val")
    file = tmp_path / "array.json"
    file.write_text(json.dumps([OWN], indent=1), encoding="utf-8-sig")
    array = read_jsonl(file, "kitchens", None, "val")
    assert [(e.id, e.text) for e in array.expressions] == [(e.id, e.text) for e in lines.expressions]
