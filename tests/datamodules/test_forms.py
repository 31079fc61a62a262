"""Forms of files that other projects write, each through the command line: the drawn squares are found in every one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bsap.cli import main

CASES = Path(__file__).parent / "cases"
BASE = CASES / "base"
OWN = ["--data.root", str(BASE / "pics"), "--data.dataset", "own", "--data.proposals.source", "ground_truth"]


def run(tmp_path: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """The exit status and ``results.json`` of a test with the demo's model."""
    status = main(["test", *flags, "--model.encoders", "[{name: demo}]", "--run.root", str(tmp_path / "runs"),
                   "--run.name", "x", "--trainer.accelerator", "cpu"])  # fmt: skip
    file = tmp_path / "runs" / "x" / "results.json"
    return status, json.loads(file.read_text()) if file.exists() else {}


def refer(root: Path, file: Path | str, source: str = "detections", tasks: str = "[rec]") -> list[str]:
    path = [] if source == "ground_truth" else ["--data.proposals.path", str(file)]
    return ["--data.root", str(root), "--data.proposals.source", source, *path, "--model.tasks", tasks]


def perfect(results: dict[str, Any], expressions: int) -> bool:
    scores = [row for scorer in results["metrics"].values() for row in scorer.values()]
    values = [value for row in scores for name, value in row.items() if name in ("acc@0.5", "oIoU", "mIoU", "Pr@0.9")]
    return results["counts"]["seen"] == expressions and bool(values) and set(values) == {1.0}


def written(tmp_path: Path, content: object, encoding: str = "utf-8") -> Path:
    file = tmp_path / "dets.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
    return file


def detections() -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for item in json.loads((BASE / "dets.json").read_text()):
        found.setdefault(str(item["image_id"]), []).append(item.get("bbox") or item["box"])
    return found


def test_masks_beside_boxes(tmp_path: Path) -> None:
    status, results = run(tmp_path, *refer(BASE / "refer", CASES / "mattnet_masks.json", "masks", "[rec,ris]"))
    assert status == 0
    assert perfect(results, 24)


def test_lists_of_run_lengths_and_pictures_of_other_names(tmp_path: Path) -> None:
    root = shutil.copytree(BASE / "refer", tmp_path / "refer")
    shutil.copy(CASES / "instances_list_of_rle.json", root / "refcoco" / "instances.json")
    for n, file in enumerate(sorted((root / "images" / "train2014").iterdir()), start=1):
        file.rename(file.with_name(f"{n:05d}.jpg"))
    status, results = run(tmp_path, *refer(root, "", "ground_truth", "[rec,ris]"))
    assert status == 0
    assert perfect(results, 24)


FILES: dict[str, Any] = {
    "a COCO dataset": lambda: json.loads((CASES / "coco_dataset_as_proposals.json").read_text()),
    "MAttNet's dets": lambda: {"dets": [{"image_id": int(k), "box": b} for k, bs in detections().items() for b in bs]},
    "file names": lambda: {f"COCO_train2014_{int(k):012d}.jpg": bs for k, bs in detections().items()},
    "stems": lambda: {f"COCO_train2014_{int(k):012d}": bs for k, bs in detections().items()},
    "COCO's names of 2017": lambda: {f"{int(k):012d}.jpg": bs for k, bs in detections().items()},
    "padded ids": lambda: [{"image_id": k.zfill(12), "bbox": b} for k, bs in detections().items() for b in bs],
    "objects by picture": lambda: {k: [{"bbox": b, "score": 0.5} for b in bs] for k, bs in detections().items()},
    "an array of lines": lambda: [
        {"image_id": k, "proposals": [{"bbox": b} for b in bs]} for k, bs in detections().items()
    ],
}


@pytest.mark.parametrize("form", list(FILES))
def test_forms_of_proposals(tmp_path: Path, form: str) -> None:
    status, results = run(tmp_path, *refer(BASE / "refer", written(tmp_path, FILES[form](), "utf-8-sig")))
    assert status == 0
    assert perfect(results, 24)


def normalised(form: str) -> dict[str, list[list[float]]]:
    width, height = 160, 120
    boxes = {
        key: [(x / width, y / height, w / width, h / height) for x, y, w, h in bs] for key, bs in detections().items()
    }
    turns: dict[str, Any] = {
        "xywh": lambda x, y, w, h: [x, y, w, h],
        "xyxy": lambda x, y, w, h: [x, y, x + w, y + h],
        "cxcywh": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
        "a little beyond 1": lambda x, y, w, h: [x - 0.02, y, w + 0.04, h + 0.3],
    }
    return {key: [turns[form](*box) for box in bs] for key, bs in boxes.items()}


@pytest.mark.parametrize(
    "form", ["xywh", "xyxy", "cxcywh", "a little beyond 1", "a pixel row each", "one picture of four"]
)
@pytest.mark.parametrize("min_area", [0, 1])
def test_normalised_boxes(tmp_path: Path, form: str, min_area: int, capsys: pytest.CaptureFixture[str]) -> None:
    if form == "one picture of four":
        if min_area:
            pytest.skip("the boxes are left out, and reported")
        content = detections()
        content[next(iter(content))] = [[0.1, 0.2, 0.3, 0.4]]
    else:
        content = normalised("xywh" if form == "a pixel row each" else form)
        if form == "a pixel row each":
            content = {key: [*boxes, [0, 0, 160, 120]] for key, boxes in content.items()}
    flags = [*refer(BASE / "refer", written(tmp_path, content)), "--data.proposals.min_area", str(min_area)]
    status, results = run(tmp_path, *flags)
    assert (status, results) == (2, {})
    assert "look normalised to 0..1" in capsys.readouterr().err


TWICE: dict[str, Any] = {
    "a list joined with itself": lambda found: [{"image_id": k, "bbox": b} for k, bs in found for b in bs] * 2,
    "a list with one picture again": lambda found: [
        {"image_id": k, "bbox": b, "score": 0.5} for k, bs in [*found, found[0]] for b in bs
    ],
    "a dictionary of doubled lists": lambda found: {k: [*bs, *bs[::-1]] for k, bs in found},
}


@pytest.mark.parametrize("form", list(TWICE))
def test_doubled_proposals(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(detections().items())
    status, _ = run(tmp_path, *refer(BASE / "refer", written(tmp_path, TWICE[form](found))))
    assert status == 2
    message = f"each proposal of picture {found[0][0]} is written more than once, as if two files had been joined"
    assert message in capsys.readouterr().err


def test_a_proposal_that_a_detector_writes_twice_is_no_error(tmp_path: Path) -> None:
    content = {key: [*boxes, boxes[0]] for key, boxes in detections().items()}
    status, results = run(tmp_path, *refer(BASE / "refer", written(tmp_path, content)))
    assert status == 0
    assert perfect(results, 24)


@pytest.mark.parametrize("kept", [[], [{"score": 0.2}]])
def test_nothing_left_to_choose_from_is_a_warning(tmp_path: Path, kept: list[dict[str, float]]) -> None:
    content = {key: [{"bbox": box, **more} for box in boxes for more in kept] for key, boxes in detections().items()}
    flags = refer(BASE / "refer", written(tmp_path, content))
    with pytest.warns(UserWarning, match="None of the 4 pictures has a proposal, so that every answer is wrong"):
        status, _ = run(tmp_path, *flags, *(["--data.proposals.min_score", "0.5"] if kept else []))
    assert status == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed_everything", "-5"], "`seed_everything` must be a whole number of at least 0 and at most 4.29497e+09"),
        (["--seed_everything", "99999999999"], "`seed_everything` must be a whole number"),
        (["--run.timeout", "-1"], "`run.timeout` must be a number greater than 0"),
        (
            ["--model.scorers", "[{class_path: Correction, init_args: {alpha: 1e308}}]"],
            "gives NaN or infinite scores, first for refcoco/unc/val/0. Give it smaller numbers",
        ),
    ],
)
def test_numbers_out_of_range(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = run(tmp_path, *refer(BASE / "refer", BASE / "dets.json"), *flags)
    assert status == 2
    assert message in capsys.readouterr().err


def test_the_drawn_case_of_normalised_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = run(tmp_path, *refer(BASE / "refer", CASES / "normalised_boxes.json"))
    assert status == 2
    assert "look normalised to 0..1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "keys"), [("[00011]", ["00011"]), ("00010", ["00010"]), ("[00011, 00009]", ["00009", "00011"])]
)
def test_ids_are_read_as_written(tmp_path: Path, given: str, keys: list[str]) -> None:
    flags = [*OWN, "--data.annotations", str(CASES / "padded_ids.jsonl"), "--data.ids", given]
    status, results = run(tmp_path, *flags)
    assert status == 0
    assert perfect(results, len(keys))
    lines = (tmp_path / "runs" / "x" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"].rsplit("/", 1)[1] for line in lines] == keys


WRITTEN = ["00011", "1_000", "1:30", "0o17", "0x1F", "no", "yes", "on", "~x", "2020-01-01", "+7", "12"]


@pytest.mark.parametrize("way", ["ids", "category", "file"])
def test_ids_categories_and_splits_that_yaml_1_1_reads_as_others(tmp_path: Path, way: str) -> None:
    line = json.loads((CASES / "padded_ids.jsonl").read_text().splitlines()[0])
    objects = [{**line["objects"][0], "id": key, "category": key} for key in (*WRITTEN, "other")]
    expressions = [{"id": key, "text": "red square", "target": key} for key in (*WRITTEN, "other")]
    file, settings = tmp_path / "own.jsonl", tmp_path / "settings.yaml"
    file.write_text(json.dumps({**line, "split": "no", "objects": objects, "expressions": expressions}))
    settings.write_text(f"data: {{split: no, ids: [{', '.join(WRITTEN)}]}}")
    flags = (
        ["-c", str(settings)] if way == "file" else ["--data.split", "no", f"--data.{way}", f"[{','.join(WRITTEN)}]"]
    )
    status, results = run(tmp_path, *OWN, "--data.annotations", str(file), *flags)
    assert status == 0
    assert results["counts"]["seen"] == len(WRITTEN)
    lines = (tmp_path / "runs" / "x" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"].split("/", 3)[3] for line in lines] == WRITTEN


def test_a_mark_before_ids(tmp_path: Path) -> None:
    flags = [*OWN, "--data.annotations", str(CASES / "padded_ids.jsonl"), "--data.ids", str(CASES / "ids_with_bom.txt")]
    status, results = run(tmp_path, *flags)
    assert status == 0
    assert perfect(results, 2)
