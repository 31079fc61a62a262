"""Outcomes of answers that are sets, against a plain loop and the metrics of a run."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from bsap.analysis.outcomes import task_outcomes
from bsap.analysis.paired import compare_outcomes
from bsap.runs.recompute import recompute


def drawn(seed: int, *, count: int = 40) -> list[Any]:
    """Records of answers and targets, each 0 to 3; some referents are alternatives."""
    rng, records = random.Random(seed), []
    for number in range(count):
        targets, match = rng.randint(0, 3), rng.choice(["any", "all"])
        referent = {
            "id": str(number),
            "ann_ids": ["a"] * targets,
            "boxes": [[0.0, 0.0, 1.0, 1.0]] * targets,
            "match": match,
        }
        if match == "any":
            del referent["match"]
        scorers = {}
        for name in ("clip", "bsap"):
            answered = rng.randint(0, 3)
            needed = targets if match == "all" else min(1, targets)
            union = rng.randint(50, 99) if answered or targets else 0
            scorers[name] = {
                "region": 0, "regions": list(range(answered)), "matched": rng.randint(0, min(answered, needed)),
                "box_iou": 0.5, "intersection": rng.randint(0, 50) if answered and targets else 0, "union": union,
            }  # fmt: skip
        records.append(
            {"id": str(number), "image_id": f"p{number % 9}", "status": "ok", "referent": referent, "scorers": scorers}
        )
    return records


@pytest.mark.parametrize("seed", range(4))
def test_they_sum_to_the_metrics_of_a_run(seed: int) -> None:
    records = drawn(seed)
    for task, scorers in recompute(records, strict=False).items():
        for scorer, expected in scorers.items():
            names = [name for name in expected if name not in ("n", "missing")]
            found = task_outcomes(records, scorer, task, names, strict=False)
            assert found.metrics == tuple(f"{task}/{name}" for name in names)
            values = found.parts.sum(1) / found.wholes.sum(1)
            assert values == pytest.approx([expected[name] for name in names])


def test_gains_by_a_plain_loop() -> None:
    records = drawn(7)
    names = ["gIoU", "cIoU", "N-acc", "T-acc"]
    sides = [task_outcomes(records, name, "ris", names, strict=False) for name in ("clip", "bsap")]
    gains = {gain.metric: gain for gain in compare_outcomes(*sides, [r["image_id"] for r in records], resamples=200)}
    empty = [r for r in records if not r["referent"]["ann_ids"]]
    rejected = [[not r["scorers"][name]["regions"] for r in empty] for name in ("clip", "bsap")]
    gain = gains["ris/N-acc"]
    assert gain.expressions == len(empty) > 3
    assert gain.pictures == len({r["image_id"] for r in empty})
    assert gain.difference == pytest.approx((sum(rejected[1]) - sum(rejected[0])) / len(empty))
    assert gain.wins == sum(b and not a for a, b in zip(*rejected, strict=True))
    assert gain.mcnemar is not None
    assert gains["ris/cIoU"].mcnemar is None
    pixels = [[r["scorers"][name] for r in records] for name in ("clip", "bsap")]
    a, b = (sum(row["intersection"] for row in rows) / sum(row["union"] for row in rows) for rows in pixels)
    assert gains["ris/cIoU"].difference == pytest.approx(b - a)


def test_a_class_without_expressions_is_left_out() -> None:
    """N-acc where every expression has a target has no value, and nothing to compare."""
    records = [record for record in drawn(3) if record["referent"]["ann_ids"]]
    sides = [
        task_outcomes(records, name, "rec", ["Pr@F1", "N-acc", "T-acc"], strict=False) for name in ("clip", "bsap")
    ]
    gains = compare_outcomes(*sides, [record["image_id"] for record in records], resamples=100)
    assert [gain.metric for gain in gains] == ["rec/Pr@F1", "rec/T-acc"]


def test_a_class_of_one_picture_has_no_interval() -> None:
    records = drawn(3)
    for record in records:
        if not record["referent"]["ann_ids"]:
            record["image_id"] = "one"
    sides = [task_outcomes(records, name, "rec", ["N-acc", "T-acc"], strict=False) for name in ("clip", "bsap")]
    none, one = compare_outcomes(*sides, [record["image_id"] for record in records], resamples=100)
    assert (none.pictures, none.low, none.p) == (1, None, None)
    assert np.isfinite([one.low or np.nan, one.p or np.nan]).all()
