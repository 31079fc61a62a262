from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco

from bsap.datamodules import ProposalConfig, RefCOCODataModule, Scene
from bsap.errors import BSAPError, ConfigError, DataError

GROUND_TRUTH = ProposalConfig("ground_truth")


def make(root: Path, proposals: Any = GROUND_TRUTH, **settings: Any) -> RefCOCODataModule:
    data = RefCOCODataModule(str(root), proposals, **{"dataset": "tiny", "num_workers": 0, **settings})
    data.setup("test")
    return data


def facts(scenes: list[Scene]) -> list[Any]:
    """All that a scene says, but for the ids that each file form counts in its own way."""
    return [
        (
            scene.path, scene.width, scene.height, scene.texts,
            scene.proposals.boxes.tolist(), scene.proposals.masks,
            [
                (e.order, e.text, e.referent.boxes.tolist(), e.referent.masks, e.referent.ann_ids,
                 e.referent.category, e.referent.distractors)
                for e in scene.expressions
            ],
        )
        for scene in scenes
    ]  # fmt: skip


def test_scenes_by_hand(root: Path) -> None:
    data = make(root)
    assert [scene.image_id for scene in data.scenes] == ["7", "8", "9"]
    seven = data.scenes[0]
    assert [e.id for e in seven.expressions] == ["tiny/own/val/100", "tiny/own/val/101", "tiny/own/val/103"]
    assert [e.order for e in seven.expressions] == [0, 1, 3]
    assert seven.expressions[0].referent is seven.expressions[1].referent
    assert seven.expressions[0].referent.boxes.tolist() == [[12, 2, 32, 22]]
    assert seven.expressions[0].referent.has_mask
    assert int(coco.area(seven.expressions[0].referent.masks[0])) == 400
    assert seven.proposals.boxes.tolist() == [[0, 0, 10, 10], [12, 2, 32, 22]]
    assert seven.texts == ("the big dog", "right", "left dog")
    assert data.expression_ids == [f"tiny/own/val/{n}" for n in (100, 101, 102, 103, 105)]
    assert data.texts == ["the big dog", "right", "a cat on a mat", "left dog", "the only dog here"]
    s = data.summary
    assert (s.dataset, s.split_by, s.split, s.published) == ("tiny", "own", "val", None)
    assert (s.total, s.selected, s.skipped, s.missing, s.scenes, s.regions) == (5, 5, 0, 0, 3, 5)
    assert not s.partial
    assert s.proposals["source"] == "ground_truth"


def test_batches(root: Path) -> None:
    data = make(root, batch_size=2)
    batches = list(data.test_dataloader())
    assert [len(batch.scenes) for batch in batches] == [2, 1]
    assert [batch.counts for batch in batches] == [[2, 1], [2]]
    assert batches[0].boxes.tolist() == [[0, 0, 10, 10], [12, 2, 32, 22], [5, 5, 35, 25.5]]
    expected = np.asarray(Image.open(root / "images/train2014/p_7.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(batches[0].pictures[0].numpy(), expected)
    assert batches[0].pictures[0].dtype == torch.uint8
    workers = make(root, batch_size=2, num_workers=2)
    for a, b in zip(workers.test_dataloader(), batches, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.pictures, b.pictures, strict=True))
        assert [s.image_id for s in a.scenes] == [s.image_id for s in b.scenes]


def test_filters_keep_orders_and_texts(root: Path) -> None:
    data = make(root, ids=[105, "tiny/own/val/101"], limit=2)
    assert data.expression_ids == ["tiny/own/val/101", "tiny/own/val/105"]
    assert [[e.order for e in scene.expressions] for scene in data.scenes] == [[1], [4]]
    assert data.scenes[0].texts == ("the big dog", "right", "left dog"), "the bank `scene` is of the unfiltered split"
    assert len(data.texts) == 5
    assert data.summary.partial
    assert (data.summary.selected, data.summary.skipped) == (2, 3)
    assert data.summary.selection == {"ids": ["105", "tiny/own/val/101"], "limit": 2}


def test_finished_scenes_are_left_out(root: Path) -> None:
    data = make(root)
    data.skip(["tiny/own/val/100", "tiny/own/val/101", "tiny/own/val/102"])
    (batch,) = data.test_dataloader()
    assert [scene.image_id for scene in batch.scenes] == ["7", "9"], "7 is half finished, 8 wholly"
    data.skip(data.expression_ids)
    loader = data.test_dataloader()
    (empty,) = loader
    assert len(loader) == 1, "Lightning skips a process whose loader is empty, and the others wait for it"
    assert (empty.scenes, empty.pictures, tuple(empty.boxes.shape)) == ((), (), (0, 4))


def as_json_lines(content: dict[str, Any], split: str) -> tuple[list[Any], list[Any]]:
    """The same split as ReCLIP's lines and as ours."""
    names = {c["id"]: c["name"] for c in content["instances"]["categories"]}
    size = {"width": 40, "height": 30}
    objects: dict[int, list[Any]] = {}
    for a in content["instances"]["annotations"]:
        kept = {key: a[key] for key in ("id", "bbox", "segmentation")}
        objects.setdefault(a["image_id"], []).append({**kept, "category": names[a["category_id"]]})
    reclip, own = [], {}
    for ref in content["refs"]:
        if ref["split"] == split:
            image, ann = ref["image_id"], ref["ann_id"]
            said = [{"raw": s["raw"], "sent": s["sent"]} for s in ref["sentences"]]
            line = {"file_name": f"p_{image}_1.png", "image_id": image, "ann_id": ann, "sentences": said, **size}
            reclip.append({**line, "anns": objects[image]})
            start = {"picture": f"p_{image}.png", "image_id": image, "objects": objects[image], **size}
            own.setdefault(image, {**start, "expressions": []})["expressions"] += [
                {"text": s["sent"], "target": ann} for s in said
            ]
    return reclip, list(own.values())


@pytest.mark.parametrize("target", [2, [2, 1]])
def test_three_file_forms_give_the_same_scenes(
    content: dict[str, Any], write_root: Callable[..., Path], target: object
) -> None:
    content["refs"][0]["ann_id"] = target
    root = write_root(content)
    for name, lines in zip(("reclip.jsonl", "own.jsonl"), as_json_lines(content, "val"), strict=True):
        (root / name).write_text("\n".join(map(json.dumps, lines)))
    from_refer = make(root)
    from_reclip = make(root, annotations="reclip.jsonl", split_by="own")
    from_own = make(root, annotations=str(root / "own.jsonl"))
    assert facts(from_reclip.scenes) == facts(from_refer.scenes)
    # one line per picture brings all sentences of a picture together: only the order over pictures differs
    reordered = {e.order: e.text for scene in from_own.scenes for e in scene.expressions}
    assert [reordered[n] for n in range(5)] == [
        "the big dog",
        "right",
        "left dog",
        "a cat on a mat",
        "the only dog here",
    ]
    without_order = [[fact[:-1], [e[1:] for e in fact[-1]]] for fact in facts(from_own.scenes)]
    assert without_order == [[fact[:-1], [e[1:] for e in fact[-1]]] for fact in facts(from_refer.scenes)]


def write_detections(root: Path, **of: list[list[float]]) -> ProposalConfig:
    (root / "dets.json").write_text(json.dumps({key.strip("_"): boxes for key, boxes in of.items()}))
    return ProposalConfig("detections", path="dets.json")


def test_policies_for_pictures_without_proposals(root: Path) -> None:
    write_detections(root, _7=[[1, 1, 5, 5]], _8=[], _9=[[2, 2, 6, 6]])
    settings = {"source": "detections", "path": "dets.json"}
    miss = make(root, settings)
    assert [len(scene.proposals) for scene in miss.scenes] == [1, 0, 1]
    assert (miss.summary.missing, miss.summary.skipped, miss.summary.partial) == (1, 0, False)
    assert miss.summary.proposals["pictures_without_proposals"] == 1
    assert sum(len(batch.boxes) for batch in miss.test_dataloader()) == 2
    whole = make(root, {**settings, "empty": "whole_image"})
    assert whole.scenes[1].proposals.boxes.tolist() == [[0, 0, 40, 30]]
    assert (whole.summary.missing, whole.summary.skipped, whole.summary.regions) == (0, 0, 3)
    assert whole.summary.proposals["pictures_without_proposals"] == 1
    skip = make(root, {**settings, "empty": "skip"})
    assert [scene.image_id for scene in skip.scenes] == ["7", "9"]
    assert (skip.summary.selected, skip.summary.skipped, skip.summary.missing) == (4, 1, 0)
    assert skip.summary.partial
    assert "tiny/own/val/102" not in skip.expression_ids
    with pytest.raises(DataError, match="all 1 selected pictures are without proposals"):
        make(root, {**settings, "empty": "skip"}, ids=["102"])


def test_detections_of_another_dataset_are_told(root: Path) -> None:
    with pytest.warns(UserWarning, match=r"dets\.json does not list 1 of 3 pictures, first 8: no proposals there"):
        data = make(root, write_detections(root, _7=[[1, 1, 5, 5]], _9=[]))
    assert data.summary.proposals["pictures_not_in_file"] == 1
    assert data.summary.proposals["pictures_without_proposals"] == 2
    for of in ({"_7": []}, {"_70": [], "_80": [], "_90": []}, {}):
        with pytest.raises(DataError, match="Is it the file of another dataset or split"):
            make(root, write_detections(root, **of))


@pytest.mark.parametrize(("empty", "proposals", "missing"), [("miss", 0, 1), ("whole_image", 1, 0)])
def test_a_selection_of_what_the_file_lacks(root: Path, empty: str, proposals: int, missing: int) -> None:
    """COCO results do not list a picture where nothing was found, and it may be all that is selected."""
    rows = [{"image_id": n, "bbox": [1, 1, 5, 5], "score": 0.5} for n in (7, 9)]
    (root / "dets.json").write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match=r"does not list 1 of 1 pictures, first 8: no proposals there"):
        data = make(root, {"source": "detections", "path": "dets.json", "empty": empty}, ids=["102"])
    assert [len(scene.proposals) for scene in data.scenes] == [proposals]
    assert (data.summary.missing, data.summary.proposals["pictures_not_in_file"]) == (missing, 1)
    with pytest.warns(UserWarning, match=r"does not list 1 of 2 pictures"):
        make(root, {"source": "detections", "path": "dets.json", "empty": "skip"}, ids=["102", "105"])


def test_missing_parts_are_named_at_setup(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder. Set `data.root`.*bsap docs data"):
        make(tmp_path / "nowhere")
    (root / "images/train2014/p_8.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 pictures are missing, first p_8\.png; expected in .*data\.images"):
        make(root)
    assert len(make(root, ids=["100"]).scenes) == 1, "only the selection's pictures are needed"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([35, 25, 30, 30], "annotation 2: the box .* reaches beyond its picture of 40 x 30"),
        ([12, 2, 0, 20], "annotation 2: the box .* has no area"),
        ([12, 2, -3, 20], "annotation 2: a box must be"),
        ([12, 2, float("nan"), 20], "annotation 2: a box must be"),
        ("12 2 20 20", "annotation 2: a box must be four numbers"),
    ],
)
def test_bad_boxes(content: dict[str, Any], write_root: Callable[..., Path], box: object, message: str) -> None:
    content["instances"]["annotations"][1]["bbox"] = box
    with pytest.raises(DataError, match=r"instances\.json, " + message):
        make(write_root(content))


def test_objects_without_masks(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    content["instances"]["annotations"][1]["segmentation"] = []
    data = make(write_root(content))
    assert [e.referent.has_mask for e in data.scenes[0].expressions] == [False, False, True]
    assert [scene.proposals.masks is None for scene in data.scenes] == [True, False, False]
    masked = make(data.root, ProposalConfig("ground_truth", masked_only=True))
    assert [len(scene.proposals) for scene in masked.scenes] == [1, 1, 2]
    assert all(s.proposals.masks is not None and len(s.proposals.masks) == len(s.proposals) for s in masked.scenes)
    assert masked.scenes[0].proposals.boxes.tolist() == [[0, 0, 10, 10]]
    boxes_only = make(data.root, masks=False)
    assert all(s.proposals.masks is None and not e.referent.has_mask for s in boxes_only.scenes for e in s.expressions)
    assert [s.proposals.boxes.tolist() for s in boxes_only.scenes] == [s.proposals.boxes.tolist() for s in data.scenes]


def test_the_whole_picture_has_a_mask_where_objects_have(root: Path) -> None:
    data = make(root, ProposalConfig("ground_truth", min_area=500, empty="whole_image"), ids=["105"])
    (scene,) = data.scenes
    assert scene.proposals.masks is not None
    assert int(coco.area(scene.proposals.masks[0])) == 1200


def test_a_mask_without_a_pixel_is_no_mask(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    content["instances"]["annotations"][1]["segmentation"] = [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]
    expressions = make(write_root(content)).scenes[0].expressions
    assert [e.referent.has_mask for e in expressions] == [False, False, True]


def test_settings(root: Path) -> None:
    for proposals, message in [
        (None, "must name its source"),
        ("detections", "must name its source"),
        ({}, "There is no default"),
        ({"source": "ground_truth", "topk": 3}, "Unknown setting of proposals 'topk'. Did you mean 'top_k'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            RefCOCODataModule(str(root), proposals)  # type: ignore[arg-type]
    for settings in ({"text": "tokens"}, {"batch_size": 0}, {"num_workers": -1}, {"limit": 0}):
        with pytest.raises(ConfigError):
            RefCOCODataModule(str(root), GROUND_TRUTH, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("[1.10, 2.1]", None),
        ("1.10", None),
        ("'1.10'", "1.10"),
        ("['1.10', x]", ("1.10", "x")),
        ("[100, 101]", ("100", "101")),
        ("100", ("100",)),
        ("tiny/own/val/1.10", "tiny/own/val/1.10"),
    ],
)
def test_ids_that_yaml_takes_for_numbers(root: Path, given: str, ids: Any) -> None:
    """1.10 and 1.1 are two expressions of a JSONL file."""
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(RefCOCODataModule, "data")
    text = f"data: {{root: {root}, proposals: {{source: ground_truth}}, ids: {given}}}"
    settings = parser.parse_string(text)
    if ids is not None:
        assert parser.instantiate_classes(settings).data.selection.ids == ids
        return
    with pytest.raises(ConfigError, match=r"`ids` holds the number 1\.1: .* in quotes, '1\.10'"):
        parser.instantiate_classes(settings)


def test_hyperparameters_are_plain(root: Path) -> None:
    data = make(root, ids=["100"], category="dog")
    plain = yaml.safe_load(yaml.safe_dump(dict(data.hparams)))
    assert plain["proposals"]["source"] == "ground_truth"
    again = RefCOCODataModule(**plain)
    again.setup("test")
    assert again.expression_ids == data.expression_ids


def test_the_command_line_fills_in_the_settings(root: Path) -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(RefCOCODataModule, "data")
    given = ["--data.root", str(root), "--data.dataset", "tiny", "--data.proposals.source", "ground_truth"]
    for ids, expected in [("[100, 105]", ["100", "105"]), ("[tiny/own/val/105]", ["105"]), ("103", ["103"])]:
        data = parser.instantiate_classes(parser.parse_args([*given, f"--data.ids={ids}"])).data
        data.setup("test")
        assert [id.rsplit("/", 1)[1] for id in data.expression_ids] == expected
    with pytest.raises(SystemExit):
        parser.parse_args(given[:-2])


def test_other_splits_are_at_hand(root: Path) -> None:
    data = make(root)
    assert [e.id for scene in data.load_split("testA") for e in scene.expressions] == ["tiny/own/testA/104"]
    assert data.summary.split == "val"


def test_setup_reads_once(root: Path) -> None:
    data = make(root)
    scenes = data.scenes
    data.setup("test")
    assert data.scenes is scenes


def test_two_processes_see_everything_once(root: Path, tmp_path: Path) -> None:
    """A real two-process Trainer.test: Lightning must not put in its own, repeating sampler."""
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, torch, json, os
            from lightning.pytorch import LightningModule, Trainer
            from bsap.datamodules import ProposalConfig, RefCOCODataModule

            class Seen(LightningModule):
                def __init__(self):
                    super().__init__()
                    self.layer, self.seen = torch.nn.Linear(1, 1), []
                def test_step(self, batch, batch_idx):
                    self.seen += [e.id for scene in batch.scenes for e in scene.expressions]
                def on_test_end(self):
                    with open({str(tmp_path)!r} + f"/seen{{self.global_rank}}.json", "w") as file:
                        json.dump(self.seen, file)

            if __name__ == "__main__":
                data = RefCOCODataModule({str(root)!r}, ProposalConfig("ground_truth"), dataset="tiny", num_workers=0)
                Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_progress_bar=False,
                        enable_model_summary=False, default_root_dir={str(tmp_path)!r}).test(Seen(), data)
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in range(2)]
    assert all(seen), "both processes had work"
    assert sorted(seen[0] + seen[1]) == [f"tiny/own/val/{n}" for n in (100, 101, 102, 103, 105)]


def test_only_our_errors_for_unreadable_settings(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings in ({"annotations": "gone.jsonl"}, {"images": "gone"}, {"dataset": "gone"}, {"split": "gone"}):
            with pytest.raises(BSAPError):
                make(root, **settings)


def test_a_referent_of_a_mask_without_a_pixel_needs_a_box(root: Path) -> None:
    thin = {"id": "a", "segmentation": [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]}
    line = {"picture": "p_7.png", "width": 40, "height": 30, "objects": [thin]}
    line |= {"expressions": [{"text": "it", "target": "a"}], "proposals": [{"bbox": [1, 1, 5, 5]}]}
    (root / "own.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"line 1, objects 1: the mask has no pixel.* 'bbox'"):
        make(root, ProposalConfig("detections"), annotations="own.jsonl")


def test_sizes_are_checked_before_the_first_batch(root: Path) -> None:
    """All pictures that differ are named at once; within the tolerance the run goes on, and says so."""
    pictures = root / "images" / "train2014"
    for name, size in {"p_8.png": (41, 30), "p_9.png": (40, 31)}.items():
        Image.new("RGB", size).save(pictures / name)
    with pytest.raises(DataError, match=r"2 of 3 pictures are not what the annotations say") as caught:
        make(root).test_dataloader()
    message = str(caught.value)
    assert "p_8.png has 41 x 30 pixels" in message
    assert "p_9.png has 40 x 31 pixels" in message
    assert "`data.size_tolerance`" in message
    make(root, ids=["100"]).test_dataloader()  # only the selection's pictures are looked at
    stored = make(root)
    stored.leave_unopened(lambda scene: scene.path.name != "p_7.png")
    stored.test_dataloader()  # and of them those that will be opened
    assert stored.summary.pictures == {}
    data = make(root, size_tolerance=1)
    assert data.summary.pictures == {"size_tolerance": 1}
    sizes = [tuple(picture.shape) for batch in data.test_dataloader() for picture in batch.pictures]
    assert sizes == [(3, 30, 40)] * 3
    with pytest.raises(ConfigError, match=r"`data\.size_tolerance` must be a whole number of at least 0"):
        make(root, size_tolerance=-1)


def test_pictures_outside_the_root_need_leave(
    content: dict[str, Any], write_root: Callable[..., Path], tmp_path: Path
) -> None:
    for image in content["instances"]["images"]:
        image["file_name"] = f"../../../away/{image['file_name']}"
    root = write_root(content)
    (root / "images" / "train2014").rename(tmp_path / "away")
    (root / "images" / "train2014").mkdir()
    with pytest.raises(DataError, match=r"leads out of"):
        make(root)
    assert len(make(root, allow_outside=True).scenes) == 3


def test_the_home_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    (root / "dets.json").write_text(json.dumps({str(n): [[2, 3, 4, 7]] for n in (7, 8, 9)}))
    proposals = {"source": "detections", "path": f"~/{root.name}/dets.json"}
    data = make(Path("~") / root.name, proposals, images=f"~/{root.name}/images/train2014")
    assert facts(data.scenes) == facts(make(root, {**proposals, "path": "dets.json"}).scenes)
