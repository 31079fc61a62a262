from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import bsap.demo.dataset as dataset
from bsap.datamodules.refer import read_refer
from bsap.demo.dataset import cache_folder, make_demo_root
from bsap.demo.draw import World, draw_scene
from bsap.demo.language import COLOURS, NOUNS
from bsap.errors import DataError

SIZES = {"train": 3, "val": 2, "test": 6}
TINY = {"test": 2}


def content(root: Path, name: str) -> Any:
    return json.loads((root / "demo" / name).read_text())


def refs(root: Path) -> list[dict[str, Any]]:
    with (root / "demo" / "refs(drawn).p").open("rb") as file:
        found: list[dict[str, Any]] = pickle.load(file)
    return found


def every_file(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_refer_file_has_the_published_form(demo_root: Path) -> None:
    file = (demo_root / "demo" / "refs(drawn).p").read_bytes()
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(file)}
    assert not opcodes & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"}
    assert max(opcode.proto for opcode, _, _ in pickletools.genops(file)) == 2
    annotations = {item["id"]: item for item in content(demo_root, "instances.json")["annotations"]}
    sent_ids = []
    for number, ref in enumerate(refs(demo_root)):
        keys = {"ref_id", "ann_id", "category_id", "file_name", "image_id", "split", "sent_ids", "sentences"}
        assert set(ref) == keys
        assert ref["ref_id"] == number
        annotation = annotations[ref["ann_id"]]
        assert (ref["image_id"], ref["category_id"]) == (annotation["image_id"], annotation["category_id"])
        assert 2 <= len(ref["sentences"]) <= 3
        for sentence in ref["sentences"]:
            assert set(sentence) == {"raw", "sent", "sent_id", "tokens"}
            assert sentence["sent"] == sentence["raw"].lower().rstrip(".") == " ".join(sentence["tokens"])
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        sent_ids += ref["sent_ids"]
    assert sent_ids == list(range(len(sent_ids)))


def test_sets_change_nothing_that_was_drawn_before_there_were_any(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "set_expressions", lambda things, rng: [])
    without = every_file(make_demo_root(tmp_path, seed=5, sizes=SIZES))
    found = every_file(demo_root)
    assert found.keys() == without.keys()
    assert [name for name in found if found[name] != without[name]] == ["demo/grefs(sets).json"]
    digest = hashlib.sha256((demo_root / "demo" / "refs(drawn).p").read_bytes()).hexdigest()
    assert digest == "81501065171d5cfa60f022bd2726b09c1c50275befdf5d83ab07a6d9280c6b68", (
        "the file that the version without sets wrote"
    )


def test_sets_mean_what_they_say(demo_root: Path) -> None:
    """By an own look at the things: who has the noun and the colour that a sentence names."""
    scenes = [draw_scene(World.DATASET, 5, n, i) for n, size in enumerate(SIZES.values()) for i in range(size)]
    start, first = 1, {}
    for image_id, scene in enumerate(scenes, start=1):
        first[image_id], start = start, start + len(scene.things)
    nouns = {noun: category for category, words in NOUNS.items() for noun in words}
    colours = {word: name for name, words in COLOURS.items() for word in words}
    single = {ref["sentences"][0]["sent"]: ref["ann_id"] for ref in refs(demo_root)}
    kinds: Counter[int] = Counter()
    for ref in content(demo_root, "grefs(sets).json"):
        text = ref["sentences"][0]["sent"]
        kinds[min(len(ref["ann_id"]), 2) if ref["ann_id"] != [-1] else 0] += 1
        assert ref["no_target"] == (ref["ann_id"] == [-1]) == (ref["category_id"] == [-1])
        if len(ref["ann_id"]) == 1 and not ref["no_target"]:
            assert text in single
            continue
        meant = set()
        for phrase in text.split(" and "):
            *adjectives, noun = phrase.removeprefix("the ").split()
            noun, adjectives = (
                (f"{adjectives[-1]} {noun}", adjectives[:-1]) if noun not in nouns else (noun, adjectives)
            )
            meant |= {
                first[ref["image_id"]] + n
                for n, thing in enumerate(scenes[ref["image_id"] - 1].things)
                if thing.category == nouns[noun] and all(colours[word] == thing.colour for word in adjectives)
            }
        assert sorted(meant) == ([] if ref["no_target"] else ref["ann_id"]), text
    assert set(kinds) == {0, 1, 2}


def test_splits_have_their_sizes_and_share_no_picture(demo_root: Path) -> None:
    pictures: dict[str, set[int]] = {}
    for ref in refs(demo_root):
        pictures.setdefault(ref["split"], set()).add(ref["image_id"])
    assert {split: len(ids) for split, ids in pictures.items()} == SIZES
    assert len(set.union(*pictures.values())) == sum(SIZES.values())


def test_annotations_agree_with_the_scenes(demo_root: Path) -> None:
    instances = content(demo_root, "instances.json")
    names = {item["id"]: item["name"] for item in instances["categories"]}
    scenes = [draw_scene(World.DATASET, 5, n, i) for n, size in enumerate(SIZES.values()) for i in range(size)]
    things = [thing for scene in scenes for thing in scene.things]
    assert len(instances["annotations"]) == len(things)
    for annotation, thing in zip(instances["annotations"], things, strict=True):
        assert names[annotation["category_id"]] == thing.category
        assert (coco.decode(annotation["segmentation"]).astype(bool) == thing.mask).all()
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == thing.box
        assert annotation["area"] == thing.mask.sum()
        assert annotation["iscrowd"] == 0
    for image, scene in zip(instances["images"], scenes, strict=True):
        with Image.open(demo_root / "images" / "train2014" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == scene.picture.size
            # JPEG may err where edges are hard, not on the whole.
            off = np.asarray(picture, float) - np.asarray(scene.picture, float)
        assert np.abs(off).mean() < 6


def test_proposals_are_coco_results(demo_root: Path) -> None:
    images = {item["id"]: item for item in content(demo_root, "instances.json")["images"]}
    boxes, masks = content(demo_root, "detections.json"), content(demo_root, "masks.json")
    assert Counter(item["image_id"] for item in boxes) == Counter(item["image_id"] for item in masks)
    assert {item["image_id"] for item in boxes} <= set(images)
    assert all(set(item) == {"image_id", "category_id", "bbox", "score"} for item in boxes)
    for item in masks:
        image = images[item["image_id"]]
        assert item["segmentation"]["size"] == [image["height"], image["width"]]
        assert coco.toBbox(item["segmentation"]).tolist() == item["bbox"]
        assert 0 < item["score"] < 1


def test_the_reader_of_the_real_thing_reads_it(demo_root: Path) -> None:
    split = read_refer(demo_root, "demo", "drawn", "test")
    expected = [sentence["sent"] for ref in refs(demo_root) if ref["split"] == "test" for sentence in ref["sentences"]]
    assert [expression.text for expression in split.expressions] == expected
    assert split.expressions[0].id.startswith("demo/drawn/test/")


def test_the_same_settings_give_the_same_bytes_wherever_they_are_drawn(demo_root: Path, tmp_path: Path) -> None:
    again = make_demo_root(tmp_path, seed=5, sizes=SIZES)
    assert again.name == demo_root.name
    assert every_file(again) == every_file(demo_root)
    other = make_demo_root(tmp_path, seed=6, sizes=TINY)
    assert other != again
    assert other.parent == again.parent


def test_a_second_run_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_demo_root(tmp_path, sizes=TINY)

    def fail(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(dataset, "draw_scene", fail)
    assert make_demo_root(tmp_path, sizes=TINY) == first


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "detect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_demo_root(tmp_path, sizes=TINY)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_get_one_whole_folder(tmp_path: Path) -> None:
    code = f"""
import pathlib
from bsap.demo.dataset import make_demo_root
print(make_demo_root(pathlib.Path({str(tmp_path)!r}), sizes={TINY!r}))
"""
    command = [sys.executable, "-c", code]
    drawing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    roots = {process.communicate(timeout=120)[0].strip() for process in drawing}
    assert {Path(root) for root in roots} == set(tmp_path.iterdir())
    assert len(roots) == 1
    assert len(list(next(tmp_path.iterdir()).rglob("*.jpg"))) == 2


def test_the_loser_of_a_race_takes_the_winners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finishes between our look and our rename."""
    write = dataset._write

    def slow(root: Path, *settings: Any) -> None:
        write(root, *settings)
        target = root.parent / root.name[1:].rsplit("-", 1)[0]
        target.mkdir()
        (target / "winner").touch()

    monkeypatch.setattr(dataset, "_write", slow)
    root = make_demo_root(tmp_path, sizes=TINY)
    assert [path.name for path in root.iterdir()] == ["winner"]
    assert list(tmp_path.iterdir()) == [root]


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Set BSAP_CACHE to a folder that can be written"):
        make_demo_root(tmp_path / "file", sizes=TINY)


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSAP_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    assert make_demo_root(sizes={"test": 1}).parent == tmp_path / "here"
    monkeypatch.delenv("BSAP_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "bsap"
