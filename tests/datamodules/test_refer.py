from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsap.datamodules.refer import read_refer
from bsap.errors import ConfigError, DataError

Write = Callable[..., Path]


@pytest.mark.parametrize("protocol", range(6))
def test_records_by_hand(content: dict[str, Any], write_root: Write, protocol: int) -> None:
    records = read_refer(write_root(content, protocol=protocol), "tiny", None, "val")
    assert (records.dataset, records.split_by, records.split) == ("tiny", "own", "val")
    said = [(e.id, e.order, e.text, e.referent) for e in records.expressions]
    assert [(id, order, text, r.id, r.image_id, r.ann_ids) for id, order, text, r in said] == [
        ("tiny/own/val/100", 0, "the big dog", "50", "7", ("2",)),
        ("tiny/own/val/101", 1, "right", "50", "7", ("2",)),
        ("tiny/own/val/102", 2, "a cat on a mat", "51", "8", ("3",)),
        ("tiny/own/val/103", 3, "left dog", "52", "7", ("1",)),
        ("tiny/own/val/105", 4, "the only dog here", "54", "9", ("5",)),
    ]  # fmt: skip
    assert records.referents == 4
    assert [(e.referent.category, e.referent.distractors) for e in records.expressions] == [
        ("dog", 1), ("dog", 1), ("cat", 0), ("dog", 1), ("dog", 0),
    ]  # fmt: skip
    assert list(records.pictures) == ["7", "8", "9"], "pictures of other splits are not read"
    assert list(records.pictures["9"].objects) == ["4", "5"], "objects nobody in this split means are there, too"


def test_wordings(root: Path) -> None:
    raw = read_refer(root, "tiny", "own", "val", text="raw")
    assert raw.expressions[0].text == "The Big Dog!"
    assert read_refer(root, "tiny", "own", "val", text="raw", lowercase=True).expressions[0].text == "the big dog!"


def test_several_annotations_of_one_referent(content: dict[str, Any], write_root: Write) -> None:
    content["refs"][0]["ann_id"] = [2, "1", 2]
    first = read_refer(write_root(content), "tiny", None, "val").expressions[0].referent
    assert first.ann_ids == ("2", "1")
    assert first.distractors == 0, "the other dog is the referent, too"


def test_repeated_annotation_ids_over_records_are_fine(content: dict[str, Any], write_root: Write) -> None:
    content["refs"][2]["ann_id"] = 2
    assert len(read_refer(write_root(content), "tiny", None, "val").expressions) == 5


def test_unknown_names_list_the_known(content: dict[str, Any], write_root: Write) -> None:
    write_root(content, split_by="umd")
    root = write_root(content)
    for dataset, split_by, split, message in [
        ("tiny", "own", "tset", "Unknown split of .*'tset'.* Known: testA, val"),
        ("tiny", "unc", "val", "Unknown split_by of tiny.*'unc'.* Known: own, umd"),
        ("tiny", None, "val", "Unknown split_by of tiny"),
        ("tinny", None, "val", "Unknown dataset.*Did you mean 'tiny'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_refer(root, dataset, split_by, split)


def test_the_usual_partition_is_taken(content: dict[str, Any], write_root: Write) -> None:
    write_root(content, dataset="refcocog", split_by="google")
    root = write_root(content, dataset="refcocog", split_by="umd")
    assert read_refer(root, "refcocog", None, "val").split_by == "umd"
    assert read_refer(root, "refcocog", "google", "val").expressions[0].id == "refcocog/google/val/100"


def test_missing_files_say_what_was_expected_where(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No annotations in the REFER layout .*bsap docs data"):
        read_refer(tmp_path / "nowhere", "tiny", None, "val")
    (root / "tiny" / "instances.json").unlink()
    with pytest.raises(DataError, match=r"No COCO annotations at .*tiny/instances\.json.*bsap docs data"):
        read_refer(root, "tiny", None, "val")


def tamper(content: dict[str, Any], path: list[Any], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["refs"], {}, "expected a list of referents"),
        (["refs", 0], 5, "record 1: expected an object"),
        (["refs", 0, "split"], KeyError, "record 1: the field 'split' is missing"),
        (["refs", 3, "split"], 3, "record 4: 'split' must be a text"),
        (["refs"], [], r"the list of referents is empty.*bsap docs data"),
        (["refs", 0, "image_id"], 99, r"record 1: the picture 99 is not in .*different datasets"),
        (["refs", 0, "image_id"], True, "record 1, 'image_id': expected an id"),
        (["refs", 0, "ann_id"], 77, r"record 1: the picture 7 has no annotation 77.*different datasets"),
        (["refs", 0, "ann_id"], [-1, 2], "record 1: the picture 7 has no annotation -1"),
        (["refs", 0, "ref_id"], None, "'ref_id' is missing"),
        (["refs", 2, "ref_id"], 50, "record 3, sentence 1: the referent 50 has other annotations than in .*record 1"),
        (["instances", "categories", 1, "id"], 1, "category 2: the category id 1 is 'dog' already"),
        (["refs", 0, "sentences"], None, "'sentences' is missing"),
        (["refs", 0, "sentences"], "abc", "'sentences' must be a list"),
        (["refs", 0, "sentences", 1, "sent"], "  ", "record 1, sentence 2: 'sent' must be a text that is not empty"),
        (["refs", 0, "sentences", 1, "sent"], 5, "sentence 2: 'sent' must be a text"),
        (["refs", 0, "sentences", 1, "sent_id"], 100, "sentence 2: the expression id '100' occurs twice"),
        (["instances"], [], "expected an object with named fields"),
        (["instances", "images"], {}, "'images' must be a list"),
        (["instances", "images", 0, "width"], 0, "image 1: 'width' must be a positive number"),
        (["instances", "images", 0, "file_name"], "", "image 1: 'file_name' must be a text"),
        (["instances", "images", 1, "id"], 7, "the image id 7 occurs twice"),
        (["instances", "annotations", 1, "id"], 1, "annotation 2: the annotation id 1 occurs twice in picture 7"),
        (["instances", "annotations", 0, "category_id"], 9, "annotation 1: the category 9 is not among"),
        (["instances", "annotations", 0, "bbox"], KeyError, "annotation 1: the field 'bbox' is missing"),
        (["instances", "categories", 0, "name"], None, "category 1: the field 'name' is missing"),
    ],
)
def test_malformed_files_name_file_and_record(
    content: dict[str, Any], write_root: Write, path: list[Any], value: object, message: str
) -> None:
    root = write_root(tamper(content, path, value))
    with pytest.raises(DataError, match=message) as caught:
        read_refer(root, "tiny", None, "val")
    assert "refs(own).p" in str(caught.value) or "instances.json" in str(caught.value)


def test_files_without_categories(content: dict[str, Any], write_root: Write) -> None:
    del content["instances"]["categories"]
    first = read_refer(write_root(content), "tiny", None, "val").expressions[0].referent
    assert (first.category, first.distractors) == (None, None)


def test_truncated_json(root: Path) -> None:
    file = root / "tiny" / "instances.json"
    file.write_text(json.dumps(json.loads(file.read_text()))[:-20])
    with pytest.raises(DataError, match=r"instances\.json: not readable as JSON"):
        read_refer(root, "tiny", None, "val")
