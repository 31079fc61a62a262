"""REC accuracy by threshold, size and class: against a plain numpy loop in the way of Ref-L4's evaluator."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsap.cli import main
from bsap.errors import DataError
from bsap.runs.rec_detail import rec_detail, size_group
from bsap.runs.schema import Record
from support.planted import Planted

THRESHOLDS = [n / 100 for n in range(50, 100, 5)]


def record(id: int, iou: float, side: float, category: str | None, *, found: bool = True) -> Record:
    region = 0 if found else None
    box = [0.0, 0.0, side, side] if found else None
    return {
        "id": str(id),
        "picture": "1.jpg",
        "image_id": "1",
        "text": "word",
        "n_regions": int(found),
        "status": "ok" if found else "no_proposals",
        "referent": {"id": str(id), "ann_ids": ["1"], "boxes": [[10.0, 20.0, 10.0 + side, 20.0 + side]]},
        "category": category,
        "text_cut": False,
        "words": 1,
        "distractors": None,
        "scorers": {"clip": {"region": region, "score": 0.5 if found else None, "box": box, "box_iou": iou}},
    }


def plain(records: list[Record], *, strict: bool, small: float, large: float) -> dict[str, dict[str, float]]:
    """A loop over all thresholds and groups, with nothing of ours."""

    def accuracies(chosen: list[Record]) -> dict[str, float]:
        ious = np.array([r["scorers"]["clip"]["box_iou"] for r in chosen])
        hits = [(ious > t if strict else ious >= t).sum() / len(ious) if len(ious) else math.nan for t in THRESHOLDS]
        at = dict(zip(THRESHOLDS, hits, strict=True))
        return {"acc@0.5": at[0.5], "acc@0.75": at[0.75], "acc@0.9": at[0.9], "mAcc": np.mean(hits).item()}

    sides = [math.sqrt((r["referent"]["boxes"][0][2] - r["referent"]["boxes"][0][0]) ** 2) for r in records]
    pairs = list(zip(sides, records, strict=True))
    groups = {
        "all": records,
        "small": [r for side, r in pairs if side < small],
        "medium": [r for side, r in pairs if small <= side <= large],
        "large": [r for side, r in pairs if side > large],
    }
    found = {name: accuracies(group) | {"n": len(group)} for name, group in groups.items()}
    names = {r["category"] for r in records} - {None}
    classes = [accuracies([r for r in records if r["category"] == name]) for name in names]
    found["class average"] = {
        k: np.mean([c[k] for c in classes]).item() if classes else math.nan for k in found["all"] if k != "n"
    }
    found["class average"]["n"] = len(classes)
    return found


SAMPLE = st.tuples(
    st.sampled_from([*THRESHOLDS, 0.0, 0.49, 0.97, 1.0]) | st.floats(0, 1),
    st.sampled_from([1.0, 31.0, 32.0, 96.0, 97.0, 127.0, 128.0, 256.0, 257.0]),
    st.sampled_from(["dog", "cat", "", None]),
)


@given(
    st.lists(SAMPLE, min_size=1, max_size=30), st.booleans(), st.sampled_from([("ref_l4", 128, 256), ("coco", 32, 96)])
)
def test_against_a_plain_loop(samples: list[Any], strict: bool, limits: tuple[str, int, int]) -> None:
    records = [record(n, *sample) for n, sample in enumerate(samples)]
    name, small, large = limits
    found = rec_detail(records, strict=strict, sizes=name)["clip"]
    expected = plain(records, strict=strict, small=small, large=large)
    assert list(found) == ["all", "small", "medium", "large", "class average"]
    for group, values in expected.items():
        assert found[group] == pytest.approx(values, abs=1e-12, nan_ok=True), group


def test_the_limits_of_ref_l4() -> None:
    groups = {side: size_group(record(1, 1.0, side, None)) for side in (127.9, 128, 256, 256.1)}
    assert groups == {127.9: "small", 128: "medium", 256: "medium", 256.1: "large"}


def test_no_proposal_is_wrong_at_every_threshold() -> None:
    found = rec_detail([record(1, 0.0, 10, "dog", found=False), record(2, 1.0, 10, "dog")], strict=False)["clip"]
    assert found["all"] == {"acc@0.5": 0.5, "acc@0.75": 0.5, "acc@0.9": 0.5, "mAcc": 0.5, "n": 2}
    assert found["all"]["mAcc"] == found["small"]["mAcc"] == found["class average"]["mAcc"]


def test_the_command(planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = planted.config(run={"root": str(tmp_path), "name": "run"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    capsys.readouterr()
    assert main(["score", str(tmp_path / "run"), "--detail", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    detail = report["detail"]["clip"]
    assert detail["all"]["acc@0.5"] == report["metrics"]["rec"]["clip"]["acc@0.5"]
    assert sum(detail[name]["n"] for name in ("small", "medium", "large")) == detail["all"]["n"] == 8
    assert detail["large"]["acc@0.5"] is None, "no such object: not 0"
    assert main(["score", str(tmp_path / "run"), "--detail"]) == 0
    text = capsys.readouterr().out
    assert "class average" in text
    assert "nan" not in text
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["large", "clip", "-", "-", "-", "-", "0"] in rows
    assert "mAcc" in text
    assert main(["score", str(tmp_path / "run")]) == 0
    assert "mAcc" not in capsys.readouterr().out


def test_a_run_without_rec_is_refused() -> None:
    masks = record(1, 1.0, 10, "dog")
    del masks["scorers"]["clip"]["box_iou"]
    with pytest.raises(DataError, match="did not measure REC"):
        rec_detail([masks], strict=False)


def test_answers_that_are_sets_are_refused() -> None:
    sets = record(1, 1.0, 10, "dog")
    sets["scorers"]["clip"] |= {"regions": [0], "boxes": [[0.0, 0.0, 10.0, 10.0]], "matched": 1}
    with pytest.raises(DataError, match="sets of regions"):
        rec_detail([sets], strict=False)
