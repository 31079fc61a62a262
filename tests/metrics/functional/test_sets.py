"""Answers that are sets: against plain loops in the way of the released code of ReLA and gRefCOCO."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bsap.metrics import match_boxes, rec_set_scores, ris_scores, ris_set_scores

SIZE = 6
masks = st.lists(st.booleans(), min_size=SIZE * SIZE, max_size=SIZE * SIZE).map(
    lambda bits: np.array(bits).reshape(SIZE, SIZE)
)
samples = st.lists(st.tuples(st.lists(masks, max_size=3), st.lists(masks.filter(np.any), max_size=3)), min_size=1)


def union(parts: list[Any]) -> Any:
    return np.any([np.zeros((SIZE, SIZE), dtype=bool), *parts], axis=0)


def loop(drawn: list[Any]) -> dict[str, Any]:
    """Over expressions, in fractions: an answer and its targets are lists of masks."""
    total_i = total_u = 0
    ious: list[Fraction] = []
    nt = {"TP": 0, "TN": 0, "FP": 0, "FN": 0}
    for answer, targets in drawn:
        i, u = int((union(answer) & union(targets)).sum()), int((union(answer) | union(targets)).sum())
        if not targets:
            nt["FN" if answer else "TP"] += 1
            ious.append(Fraction(0 if answer else 1))
            total_u += u if answer else 0
        else:
            nt["TN" if answer else "FP"] += 1
            ious.append(Fraction(i, u))
            total_i, total_u = total_i + i, total_u + u
    return {"gIoU": sum(ious) / len(ious), "i": total_i, "u": total_u, **nt}


def counted(drawn: list[Any]) -> dict[str, Tensor]:
    pairs = [(union(a), union(t)) for a, t in drawn]
    return {
        "intersection": torch.tensor([int((a & t).sum()) for a, t in pairs]),
        "union": torch.tensor([int((a | t).sum()) for a, t in pairs]),
        "answered": torch.tensor([len(a) for a, _ in drawn]),
        "targets": torch.tensor([len(t) for _, t in drawn]),
    }


def share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


@pytest.mark.filterwarnings("ignore:.* is NaN")
@given(samples)
def test_masks_against_a_loop(drawn: list[Any]) -> None:
    expected = loop(drawn)
    scores = ris_set_scores(**counted(drawn))
    assert scores["gIoU"].item() == pytest.approx(float(expected["gIoU"]), abs=1e-11)
    tp, tn, fp, fn = (expected[name] for name in ("TP", "TN", "FP", "FN"))
    for name, value in (
        ("cIoU", share(expected["i"], expected["u"])),
        ("N-acc", share(tp, tp + fn)),
        ("T-acc", share(tn, tn + fp)),
    ):
        assert scores[name].item() == pytest.approx(value, nan_ok=True, abs=0), name
    released = ris_set_scores(**counted(drawn), variant="rela_code")
    assert released["gIoU"] == scores["gIoU"]
    assert released["N-acc"].item() == (tp / (tp + fn + 1) if tp + fn else 0)
    assert released["T-acc"].item() == (tp / (tp + fp + 1) if tp + fn else 0)


@given(st.lists(st.tuples(masks.filter(np.any), masks.filter(np.any)), min_size=1))
def test_one_mask_for_one_target_is_miou_and_oiou(drawn: list[Any]) -> None:
    counts = counted([([answer], [target]) for answer, target in drawn])
    with pytest.warns(UserWarning, match="N-acc is NaN: no expression without target was seen"):
        sets = ris_set_scores(**counts)
    single = ris_scores(counts["intersection"], counts["union"])
    assert sets["gIoU"] == single["mIoU"]
    assert sets["cIoU"] == single["oIoU"]


# --- boxes ------------------------------------------------------------------------------------------------------------


box = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def pair_value(a: Any, b: Any, *, generalized: bool) -> Fraction:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    i = max(w, 0) * max(h, 0)
    u = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - i
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return Fraction(i, u) - (Fraction(hull - u, hull) if generalized else 0)


def greedy(answer: list[Any], targets: list[Any], *, generalized: bool) -> int:
    """The released loop: take the best pair, then set its row and column to 0."""
    table = [[pair_value(a, t, generalized=generalized) for t in targets] for a in answer]
    found = 0
    for _ in range(min(len(answer), len(targets))):
        value, i, j = max((value, -i, -j) for i, row in enumerate(table) for j, value in enumerate(row))
        if value < Fraction(1, 2):
            break
        found += 1
        table[-i] = [Fraction(0)] * len(targets)
        for row in table:
            row[-j] = Fraction(0)
    return found


def boxes(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize("generalized", [False, True])
@given(st.lists(box, max_size=4), st.lists(box, max_size=4))
def test_matching_against_the_released_loop(generalized: bool, answer: list[Any], targets: list[Any]) -> None:
    found = match_boxes(boxes(answer), boxes(targets), generalized=generalized)
    assert found == greedy(answer, targets, generalized=generalized)


def test_matching_by_iou_and_by_generalised_iou_differ() -> None:
    """Half of the target, beside it: IoU 0.5 but an enclosing box that is larger than the union."""
    answer, target = boxes([(0, 0, 4, 2)]), boxes([(0, 0, 3, 3)])
    iou = pair_value((0, 0, 4, 2), (0, 0, 3, 3), generalized=False)
    assert iou == Fraction(6, 11)
    assert match_boxes(answer, target) == 1
    assert match_boxes(answer, target, generalized=True) == 0


@pytest.mark.filterwarnings("ignore:.* is NaN")
@given(st.lists(st.tuples(st.lists(box, max_size=3), st.lists(box, max_size=3)), min_size=1, max_size=10))
def test_boxes_against_a_loop(drawn: list[Any]) -> None:
    right, nt = 0, {"TP": 0, "TN": 0, "FP": 0, "FN": 0}
    for answer, targets in drawn:
        if not targets:
            nt["FN" if answer else "TP"] += 1
            right += not answer
        else:
            nt["TN" if answer else "FP"] += 1
            tp = greedy(answer, targets, generalized=False)
            right += 2 * tp / (2 * tp + (len(answer) - tp) + (len(targets) - tp)) >= 1
    scores = rec_set_scores(
        torch.tensor([match_boxes(boxes(a), boxes(t)) for a, t in drawn]),
        torch.tensor([len(a) for a, _ in drawn]),
        torch.tensor([len(t) for _, t in drawn]),
    )
    assert scores["Pr@F1"].item() == right / len(drawn)
    assert scores["N-acc"].item() == pytest.approx(share(nt["TP"], nt["TP"] + nt["FN"]), nan_ok=True, abs=0)
    assert scores["T-acc"].item() == pytest.approx(share(nt["TN"], nt["TN"] + nt["FP"]), nan_ok=True, abs=0)
    assert scores["n"] == len(drawn)


# --- what is refused --------------------------------------------------------------------------------------------------


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2], [1], [2]), "`matched` to be at most `answered` and `targets`, but got 2 in row 0"),
        (([0], [-1], [2]), "`answered` to be at least 0, but got -1 in row 0"),
        (([0, 0], [1], [1]), "`answered` to be an int64 tensor of shape .N,., the same N for all"),
    ],
)
def test_refuses_counts_of_boxes(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        rec_set_scores(*(ints(*values) for values in arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0, 1, 1), "`union` to be the pixels of either"),
        ((0, 5, 0, 0), "`union` to be the pixels of either"),
        ((0, 2**40, 1, 1), "`union` to be the pixels of either"),
        ((6, 5, 1, 1), "`intersection` to be at most the union"),
        ((1, 5, 0, 1), "`intersection` to be at most the union, and 0 without answer or target"),
        ((1, 5, 1, 0), "`intersection` to be at most the union, and 0 without answer or target"),
    ],
)
def test_refuses_counts_of_pixels(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        ris_set_scores(*(ints(value) for value in arguments))


def test_refuses_thresholds_and_variants() -> None:
    with pytest.raises(ValueError, match="`threshold` to be a number above 0"):
        match_boxes(boxes([(0, 0, 1, 1)]), boxes([(0, 0, 1, 1)]), threshold=0)
    with pytest.raises(ValueError, match="`variant` to be 'paper' or 'rela_code'"):
        ris_set_scores(ints(1), ints(1), ints(1), ints(1), variant="released")  # type: ignore[arg-type]
