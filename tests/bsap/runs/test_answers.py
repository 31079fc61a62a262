"""Answers that are sets, from the command line: against a plain loop over drawn gRefCOCO files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco

from bsap.cli import main
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.demo.dataset import make_demo_root
from bsap.errors import DataError
from bsap.reports.formats import finite
from bsap.runs.answered import worth_of
from bsap.runs.rescore import rescore
from bsap.scoring import AnswerRule
from support.processes import Outcome, Ranks

VALUE = {"p": 0.35, "cosine": 0.35}
Box = list[float]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = make_demo_root(tmp_path_factory.mktemp("sets"), seed=3, sizes={"train": 1, "test": 7})
    return {
        "trainer": {"accelerator": "cpu", "default_root_dir": str(root)},
        "data": {
            "root": str(root), "dataset": "demo", "split_by": "sets", "split": "test", "num_workers": 0,
            "batch_size": 2, "proposals": {"source": "masks", "path": "demo/masks.json"},
        },
        "model": {
            "tasks": ["rec", "ris"], "encoders": [{"name": "demo"}], "views": ["crop"], "scorers": ["clip", "bsap"],
            "store": None, "answer": {"rule": "threshold", "value": VALUE["p"], "nms": 0.5},
        },
        "run": {"root": str(tmp_path_factory.mktemp("runs")), "name": "run", "all_scores": True,
                "breakdown": ["words"]},
    }  # fmt: skip


def start(config: dict[str, Any], **sections: dict[str, Any]) -> Path:
    merged = {key: {**values, **sections.get(key, {})} for key, values in config.items()}
    folder = Path(merged["run"]["root"])
    file = folder / f"{merged['run']['name']}.yaml"
    file.write_text(yaml.safe_dump(merged))
    assert main(["test", "-c", str(file)]) == 0
    return folder / merged["run"]["name"]


@pytest.fixture(scope="module")
def run(config: dict[str, Any]) -> Path:
    return start(config)


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def records(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# --- a plain loop -----------------------------------------------------------------------------------------------------


def iou(a: Box, b: Box, *, generalized: bool = False) -> float:
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    outer = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inner / outer - ((hull - outer) / hull if generalized else 0.0)


def answer_of(values: list[float], boxes: list[Box], value: float) -> list[int]:
    kept: list[int] = []
    for region in sorted(range(len(values)), key=lambda r: (-values[r], r)):
        if all(iou(boxes[region], boxes[other]) <= 0.5 for other in kept):
            kept.append(region)
    return [region for region in kept if values[region] >= value]


def matches(answer: list[Box], targets: list[Box], *, generalized: bool) -> int:
    pairs = [(iou(a, t, generalized=generalized), -i, -j) for i, a in enumerate(answer) for j, t in enumerate(targets)]
    found = 0
    while pairs and max(pairs)[0] >= 0.5:
        _, i, j = max(pairs)
        pairs = [pair for pair in pairs if pair[1] != i and pair[2] != j]
        found += 1
    return found


def loop(config: dict[str, Any], values_of: Callable[[Any], list[float]], value: float, scorer: str) -> dict[str, Any]:
    """Every metric and variant, from the files that were drawn and the recorded scores."""
    folder = Path(config["data"]["root"]) / "demo"
    meant = {str(ref["sent_ids"][0]): ref for ref in json.loads((folder / "grefs(sets).json").read_text())}
    objects = {o["id"]: o for o in json.loads((folder / "instances.json").read_text())["annotations"]}
    proposals: dict[int, list[Any]] = {}
    for item in json.loads((folder / "masks.json").read_text()):
        proposals.setdefault(item["image_id"], []).append(item)

    def corners(item: Any) -> Box:
        x, y, w, h = item["bbox"]
        return [x, y, x + w, y + h]

    right = {"paper": 0, "grec_code": 0}
    nt = dict.fromkeys(("TP", "FN", "TN", "FP"), 0)
    shares: list[float] = []
    total_i = total_u = 0
    for record in records(Path(config["run"]["root"]) / "run"):
        ref = meant[record["id"].rpartition("/")[2]]
        regions = proposals[ref["image_id"]]
        answer = answer_of(values_of(record["scorers"][scorer]), [corners(r) for r in regions], value)
        targets = [objects[ann] for ann in ref["ann_id"] if ann != -1]
        for variant in right:
            boxes = [corners(regions[r]) for r in answer], [corners(t) for t in targets]
            found = matches(*boxes, generalized=variant == "grec_code")
            right[variant] += found == len(answer) == len(targets)
        nt[("FP" if targets else "TP") if not answer else ("TN" if targets else "FN")] += 1
        parts = [
            np.any([np.zeros_like(planes[0]), *planes], axis=0) if planes else None
            for planes in (
                [coco.decode(regions[r]["segmentation"]).astype(bool) for r in answer],
                [coco.decode(t["segmentation"]).astype(bool) for t in targets],
            )
        ]
        blank = np.zeros(regions[0]["segmentation"]["size"], bool)
        mine, theirs = (blank if part is None else part for part in parts)
        i, u = int((mine & theirs).sum()), int((mine | theirs).sum())
        shares.append(i / u if u else 1.0)
        total_i, total_u = total_i + i, total_u + u
    n, tp, fn, tn, fp = len(shares), *nt.values()
    paper = {"N-acc": tp / (tp + fn), "T-acc": tn / (tn + fp), "n": n, "missing": 0}
    masks = {"gIoU": sum(shares) / n, "cIoU": total_i / total_u}
    return {
        "paper": {"rec": {"Pr@F1": right["paper"] / n, **paper}, "ris": masks | paper},
        "rela_code": {"ris": masks | paper | {"N-acc": tp / (tp + fn + 1), "T-acc": tp / (tp + fp + 1)}},
        "grec_code": {"rec": {"Pr@F1": right["grec_code"] / n, **paper}},
    }


def check(found: Any, expected: dict[str, Any], scorer: str) -> None:
    for task, values in expected.items():
        assert found[task][scorer] == pytest.approx(values, abs=1e-11), (task, scorer)


@pytest.mark.parametrize("scorer", ["clip", "bsap"])
def test_every_metric_and_variant_against_a_loop(run: Path, config: dict[str, Any], scorer: str) -> None:
    expected = loop(config, lambda row: row["scores"], VALUE["p"], scorer)
    check(results(run)["metrics"], expected["paper"], scorer)
    for variant in ("rela_code", "grec_code"):
        check(rescore(run, variant=variant).metrics, expected[variant], scorer)  # type: ignore[arg-type]
    assert expected["rela_code"]["ris"]["N-acc"] != expected["paper"]["ris"]["N-acc"]


def test_the_drawn_answers_are_of_all_kinds(run: Path) -> None:
    """Else the loop above would prove little."""
    rows = [(len(r["referent"]["ann_ids"]), len(r["scorers"]["clip"]["regions"])) for r in records(run)]
    assert {min(targets, 2) for targets, _ in rows} == {min(answered, 2) for _, answered in rows} == {0, 1, 2}
    assert any(targets == 0 == answered for targets, answered in rows)


# --- the same numbers on other ways -----------------------------------------------------------------------------------


def test_another_rule_from_recorded_scores_is_that_of_its_own_run(
    run: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"rule": "threshold", "value": VALUE["cosine"], "over": "cosine", "nms": 0.7}
    other = start(config, model={"answer": rule}, run={"name": "other", "all_scores": False})
    capsys.readouterr()
    assert main(["score", str(run), "--answer", yaml.safe_dump(rule), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"] == results(other)["metrics"]
    assert report["breakdown"] == finite(results(other)["breakdown"])
    assert main(["table", str(run), str(other), "--format", "md"]) == 0
    table = capsys.readouterr().out
    assert "p at least 0.35, NMS 0.5" in table
    assert "cosine at least 0.35, NMS 0.7" in table
    assert report["uncompared"] == "the answers are those of another rule"
    assert not any("scores" in row or "values" in row for r in records(other) for row in r["scorers"].values())
    own = yaml.safe_dump(config["model"]["answer"])
    assert main(["score", str(run), "--answer", own]) == 0
    assert "Equal to results.json, bit for bit." in capsys.readouterr().out


def test_unequal_shares_of_several_processes(ranks: Ranks, run: Path, config: dict[str, Any], tmp_path: Path) -> None:
    shared = config | {"run": config["run"] | {"root": str(tmp_path), "all_scores": False}}
    ranks.start(shared, tmp_path, world=3).check()
    found, alone = Outcome.read(tmp_path / "run"), Outcome.read(run)
    assert found.results["metrics"] == alone.results["metrics"]
    assert finite(found.results["breakdown"]) == finite(alone.results["breakdown"])
    for mine, theirs in zip(found.records, alone.records, strict=True):
        for name, row in mine["scorers"].items():
            assert (row["regions"], row["union"]) == (
                theirs["scorers"][name]["regions"],
                theirs["scorers"][name]["union"],
            )


def test_one_target_and_the_best_region_are_miou_and_oiou(config: dict[str, Any]) -> None:
    folder = start(config, data={"split_by": "drawn"}, model={"answer": {}}, run={"name": "top", "breakdown": []})
    single = results(folder)["metrics"]
    assert "regions" not in records(folder)[0]["scorers"]["clip"]
    data = RefCOCODataModule(**config["data"] | {"split_by": "drawn"})
    data.setup("test")
    where = {e.id: (scene, e) for scene in data.scenes for e in scene.expressions}
    sets = rescore(folder, answer=AnswerRule(), scene_of=lambda record: where[record["id"]]).metrics
    for scorer in ("clip", "bsap"):
        assert sets["ris"][scorer]["gIoU"] == single["ris"][scorer]["mIoU"]
        assert sets["ris"][scorer]["cIoU"] == single["ris"][scorer]["oIoU"]
        assert sets["rec"][scorer]["Pr@F1"] == single["rec"][scorer]["acc@0.5"]
        assert math.isnan(sets["ris"][scorer]["N-acc"])


def test_show_and_export_have_whole_answers(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = {len(r["scorers"]["clip"]["regions"]): r["id"] for r in records(run)}
    assert {0, 2} <= rows.keys()
    assert main(["show", str(run), rows[0], rows[2], "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert main(["show", str(run), "--sheet", "3", "--disagree", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--format", "coco", "--scorer", "clip"]) == 0
    found: dict[str, list[Any]] = {}
    for item in json.loads(capsys.readouterr().out):
        found.setdefault(item["expression_id"], []).append(item)
    for record in records(run):
        row, items = record["scorers"]["clip"], found.get(record["id"], [])
        assert [item["score"] for item in items] == [row["scores"][region] for region in row["regions"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (item["bbox"] for item in items)]
        assert np.abs(np.array(corners).reshape(-1, 4) - np.array(row["boxes"]).reshape(-1, 4)).sum() < 1e-3
        masks = [item["segmentation"] for item in items]
        union = int(coco.area(coco.merge(masks))) if masks else 0
        assert union <= row["union"]
        assert union - row["intersection"] + sum(record["referent"]["areas"]) >= row["union"]


# --- alternatives, and pictures without proposals ---------------------------------------------------------------------


def test_any_of_several_targets_is_one_target(run: Path, config: dict[str, Any]) -> None:
    data = RefCOCODataModule(**config["data"] | {"match": "any"})
    data.setup("test")
    several = [(s, e.referent) for s in data.scenes for e in s.expressions if len(e.referent.ann_ids) > 1]
    assert several
    for scene, referent in several:
        for worth in worth_of(scene, referent, range(len(scene.proposals)), ["rec", "ris"], growing=True):
            areas = [int(coco.area(mask)) for mask in referent.masks]
            assert worth.matched <= 1
            assert worth.intersection <= max(areas)


def test_growing_answers_are_those_of_their_size(run: Path, config: dict[str, Any]) -> None:
    data = RefCOCODataModule(**config["data"])
    data.setup("test")
    for scene in data.scenes[:2]:
        regions = list(range(len(scene.proposals)))[::-1]
        for expression in scene.expressions:
            grown = worth_of(scene, expression.referent, regions, ["rec", "ris"], growing=True)
            alone = [worth_of(scene, expression.referent, regions[:n], ["rec", "ris"]) for n in range(len(regions) + 1)]
            assert [[worth] for worth in grown] == alone


def test_a_picture_without_proposals_answers_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    file = Path(config["data"]["root"]) / "demo" / "masks.json"
    items = json.loads(file.read_text())
    gone = items[-1]["image_id"]
    some = tmp_path / "some.json"
    some.write_text(json.dumps([item for item in items if item["image_id"] != gone]))
    with pytest.warns(UserWarning, match="does not list 1 of 7 pictures"):
        folder = start(
            config,
            data={"proposals": {"source": "masks", "path": str(some)}},
            run={"name": "some", "root": str(tmp_path), "all_scores": False},
        )
    absent = [r for r in records(folder) if r["n_regions"] == 0]
    metrics = results(folder)["metrics"]
    assert metrics["rec"]["clip"]["missing"] == metrics["ris"]["clip"]["missing"] == len(absent) > 0
    assert all(r["scorers"]["clip"]["regions"] == [] for r in absent)


def test_no_expression_without_a_target_is_a_dash_and_a_note(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = start(config, data={"min_targets": 1}, run={"name": "targets", "breakdown": [], "all_scores": False})
    shown = capsys.readouterr().out
    assert "N-acc is -: no expression without a target was seen" in " ".join(shown.split())
    assert "nan" not in shown
    assert math.isnan(results(folder)["metrics"]["ris"]["clip"]["N-acc"])
    assert main(["table", str(folder), str(folder.parent / "run"), "--format", "md"]) == 0
    assert "| - |" in capsys.readouterr().out


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{rule: threshold, value: 1.5}", "`answer.value` must be a number of at least 0 and at most 1, but got 1.5"),
        ("{rule: threshold, value: -2, over: cosine}", "`answer.value` must be a number of at least -1"),
        ("{rule: threshold, value: .nan, over: score}", "`answer.value` must be a number"),
        ("{rule: threshold}", "`answer.rule` threshold needs `answer.value`, the threshold"),
        ("{value: 0.5}", "`answer.rule` top has no use for `answer.value`"),
        ("{rule: best}", "Unknown `answer.rule` 'best'"),
        ("{rule: threshold, value: 0.5, over: q}", "Unknown `answer.over` 'q'"),
        ("{rule: threshold, value: 0.5, nms: 2}", "`answer.nms` must be a number"),
        ("{rule: threshold, valu: 0.5}", "Unknown setting of `answer` 'valu'. Did you mean 'value'"),
        ("[1]", "`answer` must be a rule or a mapping"),
        ("{rule: threshold, value: 0.5, over: both}", "the run did not record 'both' of all regions"),
    ],
)
def test_bad_rules(run: Path, capsys: pytest.CaptureFixture[str], answer: str, message: str) -> None:
    assert main(["score", str(run), "--answer", answer]) == 2
    assert message in capsys.readouterr().err


def test_scores_that_were_not_recorded(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(config["run"]["root"]) / "targets"
    assert main(["score", str(folder), "--answer", "{rule: threshold, value: 0.5}"]) == 2
    assert "Run `bsap test` again with `--run.all_scores true`." in " ".join(capsys.readouterr().err.split())
    assert main(["score", str(folder.parent / "top"), "--variant", "rela_code"]) == 2
    assert "answers with one region, for which there is no variant 'rela_code'" in capsys.readouterr().err


def damaged(change: Callable[[Any], None]) -> Any:
    return pytest.param(change, id=change.__name__)


def _repeat(row: Any) -> None:
    row["regions"] *= 2


def _beyond(row: Any) -> None:
    row["regions"] = [999]
    row["boxes"] = row["boxes"][:1]


def _matched(row: Any) -> None:
    row["matched"] = 7


def _boxes(row: Any) -> None:
    row["boxes"] = []


def _union(row: Any) -> None:
    row["intersection"] = row["union"] = 0


@pytest.mark.parametrize("change", [damaged(f) for f in (_repeat, _beyond, _matched, _boxes, _union)])
def test_damaged_answers_are_refused(run: Path, tmp_path: Path, change: Callable[[Any], None]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    lines = records(copy)
    change(next(row for r in lines for row in r["scorers"].values() if len(row["regions"]) == 1))
    (copy / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match="not a prediction record"):
        rescore(copy)


def test_boxes_have_no_union_of_masks(run: Path, config: dict[str, Any]) -> None:
    data = RefCOCODataModule(
        **config["data"] | {"proposals": ProposalConfig("detections", path="demo/detections.json")}
    )
    data.setup("test")
    scene = data.scenes[0]
    with pytest.raises(DataError, match="the proposals have boxes only, but RIS chooses a mask"):
        worth_of(scene, scene.expressions[0].referent, [0], ["ris"])
