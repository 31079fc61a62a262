"""Ref-L4's review of RefCOCO: what it calls a label error is left out, or counted apart."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsap.cli.entry import main
from bsap.datamodules.reviewed import Reviewed, label_errors
from bsap.errors import DataError

Content = dict[str, Any]
WRONG = {101, 104}
"""The sentences that the drawn review calls wrong: "right" of one dog, and "right" of the other."""


@pytest.fixture
def root(content: Content, write_root: Callable[..., Path]) -> Path:
    """The drawn root with two dogs of one picture that are described by the same word."""
    content["refs"][2]["sentences"].append({"raw": "Right!", "sent": "right", "sent_id": 104, "tokens": ["right"]})
    content["refs"][3]["sentences"][0]["sent_id"] = 199
    return write_root(content, dataset="refcoco", split_by="unc")


def review(content: Content, wrong: set[int]) -> dict[str, Any]:
    """An entry for each sentence, the last first, in other cases and with a full stop."""
    boxes = {a["id"]: a["bbox"] for a in content["instances"]["annotations"]}
    entries = [
        {
            "image_id": ref["image_id"], "caption": sentence["sent"].title() + ".", "bbox": boxes[ref["ann_id"]],
            "caption_quality": int(sentence["sent_id"] not in wrong),
        }
        for ref in content["refs"] for sentence in ref["sentences"] if ref["split"] == "val"
    ]  # fmt: skip
    return {"info": {}, "annotation": entries[::-1]}


@pytest.mark.parametrize("wrong", [{101}, {104}, WRONG, {102, 105}, set()])
def test_each_sentence_is_found(content: Content, root: Path, tmp_path: Path, wrong: set[int]) -> None:
    (tmp_path / "r.json").write_text(json.dumps(review(content, wrong)))
    boxes = {a["id"]: a["bbox"] for a in content["instances"]["annotations"]}
    named = [
        Reviewed(str(sentence["sent_id"]), str(ref["image_id"]), sentence["sent"], boxes[ref["ann_id"]][:2])
        for ref in content["refs"] for sentence in ref["sentences"] if ref["split"] == "val"
    ]  # fmt: skip
    assert label_errors(tmp_path / "r.json", named) == set(map(str, wrong))


def test_both_numbers_side_by_side(
    content: Content, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "refcoco_val_reviewed.json"
    file.write_text(json.dumps(review(content, WRONG)))
    flags = [
        "test", "--data.root", str(root), "--data.proposals.source", "ground_truth", "--model.encoders", "demo",
        "--run.root", str(tmp_path / "runs"), "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    assert main([*flags, "--run.name", "all"]) == 0
    assert main([*flags, "--run.name", "clean", "--data.review", str(file)]) == 0
    clean = json.loads((tmp_path / "runs" / "clean" / "results.json").read_text())
    assert clean["partial"]
    capsys.readouterr()
    assert main(["score", str(tmp_path / "runs" / "all"), "--review", str(file), "--format", "json"]) == 0
    table = json.loads(capsys.readouterr().out)["breakdown"]["review"]
    assert {name: part["rec"]["clip"]["n"] for name, part in table.items()} == {
        "all": 6, "without label errors": 4, "label errors": 2,
    }  # fmt: skip
    lines = (tmp_path / "runs" / "all" / "predictions.jsonl").read_text().splitlines()
    hits = {r["id"].rsplit("/")[-1]: r["scorers"]["clip"]["box_iou"] >= 0.5 for r in map(json.loads, lines)}
    right = [hit for key, hit in hits.items() if int(key) not in WRONG]
    assert table["all"]["rec"]["clip"]["acc@0.5"] == sum(hits.values()) / 6
    assert table["without label errors"]["rec"] == clean["metrics"]["rec"]
    assert table["without label errors"]["rec"]["clip"]["acc@0.5"] == sum(right) / 4
    assert main(["score", str(tmp_path / "runs" / "all"), "--review", str(file)]) == 0
    assert "without label errors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotation"), "the field 'annotation' is missing"),
        (lambda c: c["annotation"][0].pop("caption_quality"), "annotation 1: the field 'caption_quality' is missing"),
        (lambda c: c["annotation"][0].update(caption_quality="bad"), "expected a finite number, but got 'bad'"),
        (lambda c: c["annotation"][0].pop("caption"), "annotation 1: the field 'caption' is missing"),
        (lambda c: c["annotation"].pop(), r"1 of 1 expressions are not in this review, first a \('The big dog'\)"),
    ],
)
def test_other_files(content: Content, tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    changed = copy.deepcopy(review(content, WRONG))
    change(changed)
    (tmp_path / "r.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=message):
        label_errors(tmp_path / "r.json", [Reviewed("a", "7", "The big dog")])
    with pytest.raises(DataError, match=r"No review at .*reviewed\.json"):
        label_errors(tmp_path / "gone.json", [])
