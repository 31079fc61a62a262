"""Data of which only the objects that expressions refer to are known: what needs the others is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bsap.cli.entry import main
from support.planted import Planted


@pytest.fixture
def flags(planted: Planted, tmp_path: Path) -> list[str]:
    """The planted pictures as lines with one object each, as RefCOCO-M and Ref-L4 have them."""
    instances = json.loads((planted.root / "refcoco" / "instances.json").read_text())
    lines = []
    for image in instances["images"]:
        first = next(a for a in instances["annotations"] if a["image_id"] == image["id"])
        lines.append({
            "picture": image["file_name"], "width": image["width"], "height": image["height"],
            "objects_complete": False, "objects": [{"id": 1, "bbox": first["bbox"], "category": "thing"}],
            "expressions": [{"text": "the red one", "target": 1}],
            "proposals": [{"bbox": first["bbox"]}, {"bbox": [0, 0, 5, 5]}],
        })  # fmt: skip
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        "test", "--data.root", str(planted.root), "--data.annotations", str(file), "--data.dataset", "own",
        "--data.images", str(planted.root / "images" / "train2014"), "--model.encoders", "demo",
        "--run.root", str(tmp_path / "runs"), "--run.name", "x", "--trainer.accelerator", "cpu",
    ]  # fmt: skip


def test_what_needs_the_other_objects_is_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detections = [*flags, "--data.proposals.source", "detections"]
    for more, message in [
        ([*flags, "--data.proposals.source", "ground_truth"], "cannot be the regions to choose from"),
        ([*detections, "--data.max_distractors", "1"], "cannot count the others"),
        ([*detections, "--run.breakdown", "[distractors]"], "distractors cannot be counted. Leave `distractors` out"),
    ]:
        assert main(more) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main([*detections, "--run.breakdown", "[category]"]) == 0
    run = str(tmp_path / "runs" / "x")
    for command in (["score", run, "--breakdown", "distractors"], ["compare", f"{run}:clip", f"{run}:bsap", "--by",
                    "distractors"]):  # fmt: skip
        assert main(command) == 2
        assert "distractors cannot be counted" in " ".join(capsys.readouterr().err.split())
