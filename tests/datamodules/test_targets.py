"""Expressions that mean nothing in their picture, one object, or several: gRefCOCO's files and our JSONL."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsap.cli.entry import main
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.check import check_root
from bsap.datamodules.filters import Selection
from bsap.datamodules.jsonl import read_jsonl
from bsap.datamodules.refer import read_refer
from bsap.errors import ConfigError, DataError

Content = dict[str, Any]
NONE = [-1, [-1], []]


def sets(content: Content) -> Content:
    """The drawn root's referents as gRefCOCO writes them: each a set of 0 to 2 annotations of its picture."""
    rng = random.Random(3)
    anns: dict[int, list[Any]] = {}
    for annotation in content["instances"]["annotations"]:
        anns.setdefault(annotation["image_id"], []).append(annotation)
    category = {a["id"]: a["category_id"] for a in content["instances"]["annotations"]}
    for n, ref in enumerate(content["refs"]):
        chosen = rng.sample(anns[ref["image_id"]], min(n % 3, len(anns[ref["image_id"]])))
        ref["ann_id"] = [a["id"] for a in chosen] or NONE[n // 3]
        ref["category_id"] = [category[a["id"]] for a in chosen] or [-1]
    return content


@pytest.fixture(params=["grefs(unc).json", "grefs(unc).p"])
def groot(content: Content, write_root: Callable[..., Path], request: pytest.FixtureRequest) -> Path:
    """A root with a drawn gRefCOCO in one of its two forms."""
    root = write_root(sets(content), dataset="grefcoco", split_by="unc")
    refs = content["refs"]
    data = json.dumps(refs).encode() if request.param.endswith("json") else pickle.dumps(refs)
    (root / "grefcoco" / "refs(unc).p").unlink()
    (root / "grefcoco" / request.param).write_bytes(data)
    return root


def test_sets_as_a_plain_loop_reads_them(groot: Path, content: Content) -> None:
    boxes = {a["id"]: a["bbox"] for a in content["instances"]["annotations"]}
    names = {c["id"]: c["name"] for c in content["instances"]["categories"]}
    expected: dict[str, Any] = {}
    for ref in content["refs"]:
        if ref["split"] == "val":
            given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            meant = [a for a in given if a != -1]
            kinds = {names[c] for c in ref["category_id"] if c != -1}
            for sentence in ref["sentences"]:
                corners = [[x, y, x + w, y + h] for x, y, w, h in (boxes[a] for a in meant)]
                key = f"grefcoco/unc/val/{sentence['sent_id']}"
                expected[key] = (list(map(str, meant)), corners, min(kinds) if len(kinds) == 1 else None, not meant)
    data = RefCOCODataModule(str(groot), ProposalConfig("ground_truth"), dataset="grefcoco")
    data.setup("test")
    found = {e.id: e.referent for scene in data.scenes for e in scene.expressions}
    assert {key: (list(r.ann_ids), r.boxes.tolist(), r.category, r.nothing) for key, r in found.items()} == expected
    assert {r.match for r in found.values()} == {"all"}
    assert {len(r.ann_ids) for r in found.values()} == {0, 1, 2}
    assert all(len(r.masks) == len(r.ann_ids) for r in found.values())


def test_filters_by_the_number_of_targets(groot: Path) -> None:
    expressions = read_refer(groot, "grefcoco", None, "val").expressions
    numbers = [len(e.referent.ann_ids) for e in expressions]
    for low, high in [(0, 0), (1, 1), (1, None), (2, None), (None, 1)]:
        kept = Selection(min_targets=low, max_targets=high).apply(expressions)
        assert len(kept) == sum((low or 0) <= n <= (9 if high is None else high) for n in numbers)
    assert {e.referent.category for e in Selection(category="dog").apply(expressions)} == {"dog"}
    assert all(e.referent.ann_ids for e in Selection(max_distractors=9).apply(expressions))
    with pytest.raises(ConfigError, match="`min_targets` = 2 and `max_targets` = 1 leave no expression"):
        Selection(min_targets=2, max_targets=1)


def test_several_are_alternatives_where_the_settings_say_so(root: Path, groot: Path) -> None:
    assert {e.referent.match for e in read_refer(groot, "grefcoco", None, "val", match="any").expressions} == {
        "any",
        "all",  # nothing is a set in any case
    }
    assert {e.referent.match for e in read_refer(root, "tiny", None, "val").expressions} == {"any"}
    assert {e.referent.match for e in read_refer(root, "tiny", None, "val", match="all").expressions} == {"all"}
    with pytest.raises(ConfigError, match=r"Unknown `match` .*'al'.*Did you mean 'all'"):
        RefCOCODataModule(str(root), ProposalConfig("ground_truth"), match="al")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NONE)
def test_nothing_in_every_reader(content: Content, write_root: Callable[..., Path], tmp_path: Path, value: Any) -> None:
    content["refs"][0]["ann_id"] = value
    first = read_refer(write_root(content), "tiny", None, "val").expressions[0].referent
    line = {"picture": "1.jpg", "width": 9, "height": 9, "objects": [{"id": "a", "bbox": [1, 1, 2, 2]}]}
    own = {**line, "expressions": [{"text": "x", "target": value}, {"text": "y", "target": ["a"]}]}
    reclip = {
        "file_name": "x_1.jpg", "image_id": 7, "ann_id": value, "anns": [{"id": 1, "bbox": [0, 0, 10, 10]}],
        "sentences": [{"raw": "x"}],
    }  # fmt: skip
    found = [first]
    for content_of_line in (own, reclip):
        (tmp_path / "x.jsonl").write_text(json.dumps(content_of_line))
        found.append(read_jsonl(tmp_path / "x.jsonl", "own", None, "val").expressions[0].referent)
    assert [(r.ann_ids, r.match, r.category, r.distractors) for r in found] == [((), "all", None, None)] * 3


def test_an_object_may_be_called_minus_one(tmp_path: Path) -> None:
    line = {"picture": "1.jpg", "width": 9, "height": 9, "objects": [{"id": -1, "bbox": [1, 1, 2, 2]}]}
    (tmp_path / "x.jsonl").write_text(json.dumps({**line, "expressions": [{"text": "x", "target": -1}]}))
    assert read_jsonl(tmp_path / "x.jsonl", "own", None, "val").expressions[0].referent.ann_ids == ("-1",)


def test_unknown_ids_in_a_set(groot: Path, content: Content) -> None:
    content["refs"][2]["ann_id"] = [1, 999]
    for file in (groot / "grefcoco").glob("grefs*"):
        file.unlink()
    (groot / "grefcoco" / "grefs(unc).json").write_text(json.dumps(content["refs"]))
    with pytest.raises(DataError, match=r"grefs\(unc\)\.json, record 3: the picture 7 has no annotation 999"):
        read_refer(groot, "grefcoco", None, "val")


def test_the_check_reads_sets(groot: Path) -> None:
    report = check_root(groot, splits=["val"])
    (split,) = report.splits
    assert (split.dataset, split.split_by, split.found.expressions, split.without_mask) == ("grefcoco", "unc", 5, 0)
    assert (split.known, split.ok) == (None, True)


@pytest.mark.parametrize("groot", ["grefs(unc).json"], indirect=True)
def test_one_region_cannot_answer_a_set(groot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "test", "--data.root", str(groot), "--data.dataset", "grefcoco", "--data.proposals.source", "ground_truth",
        "--model.encoders", "demo", "--run.root", str(tmp_path / "runs"), "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    assert main(flags) == 2
    assert (
        "3 of 5 expressions mean nothing in their picture or several objects at once, first grefcoco/unc/val/100, but "
        "an answer is one region. Answer with sets (`--model.answer.rule threshold` and `--model.answer.value`; in a "
        "sweep `--threshold`), leave them out with `--data.min_targets 1 --data.max_targets 1`"
    ) in " ".join(capsys.readouterr().err.split())
    assert main([*flags, "--data.min_targets", "1", "--data.max_targets", "1", "--run.name", "one"]) == 0
    results = json.loads((tmp_path / "runs" / "one" / "results.json").read_text())
    assert results["counts"]["seen"] == 2
    assert results["partial"]
    assert main([*flags, "--data.match", "any", "--data.min_targets", "1", "--run.name", "any"]) == 0
    records = [json.loads(line) for line in (tmp_path / "runs" / "any" / "predictions.jsonl").read_text().splitlines()]
    assert sorted(len(record["referent"]["boxes"]) for record in records) == [1, 1, 2]
    (several,) = (record for record in records if len(record["referent"]["boxes"]) == 2)
    chosen = np.array(next(iter(several["scorers"].values()))["box"])
    ious = []
    for box in np.array(several["referent"]["boxes"]):
        low, high = np.maximum(chosen[:2], box[:2]), np.minimum(chosen[2:], box[2:])
        inner = np.prod(np.clip(high - low, 0, None))
        ious.append(inner / (np.prod(chosen[2:] - chosen[:2]) + np.prod(box[2:] - box[:2]) - inner))
    assert next(iter(several["scorers"].values()))["box_iou"] == pytest.approx(max(ious))
