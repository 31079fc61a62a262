from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bsap.cli.entry import main
from bsap.datamodules.check import check_root
from bsap.datamodules.counts import PUBLISHED, Counts, published


def test_a_sound_root(root: Path) -> None:
    seen: list[str] = []
    report = check_root(root, progress=seen.append)
    assert report.ok, report
    assert seen == ["tiny/refs(own).p"]
    assert [(s.dataset, s.split_by, s.split, s.found, s.known, s.pictures) for s in report.splits] == [
        ("tiny", "own", "val", Counts(5, 4), None, 3),
        ("tiny", "own", "testA", Counts(1, 1), None, 1),
    ]


def test_every_fault_is_counted_and_nothing_stops(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    broken = copy.deepcopy(content)
    annotations = broken["instances"]["annotations"]
    annotations[0]["bbox"] = [35, 25, 30, 30]  # beyond the picture
    annotations[1]["segmentation"] = []  # a referent without a mask
    annotations[3]["bbox"] = [float("nan"), 1, 2, 2]
    annotations[4]["segmentation"] = {"size": [40, 30], "counts": [1200]}  # of another size
    root = write_root(broken)
    (root / "images" / "train2014" / "p_8.png").unlink()
    report = check_root(root)
    assert not report.ok
    val, test_a = report.splits
    assert val.missing_pictures == ("p_8.png",)
    assert val.without_mask == 1
    assert [where.rsplit(", ", 1)[1] for where in val.bad_boxes] == ["annotation 1", "annotation 4"]
    assert [where.rsplit(", ", 1)[1] for where in val.bad_masks] == ["annotation 5"]
    assert (test_a.missing_pictures, len(test_a.bad_boxes), test_a.ok) == ((), 1, False)


def test_a_missing_mask_is_no_fault(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    content["instances"]["annotations"][1]["segmentation"] = []
    report = check_root(write_root(content))
    assert report.ok
    assert report.splits[0].without_mask == 1


def test_a_mask_without_a_pixel_is_none(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    content["instances"]["annotations"][1]["segmentation"] = [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]
    report = check_root(write_root(content))
    assert report.ok
    assert [split.without_mask for split in report.splits] == [1, 0]


def test_masks_of_objects_that_nobody_means_are_checked(
    content: dict[str, Any], write_root: Callable[..., Path]
) -> None:
    """They are regions of a run over ground truth, which refuses them."""
    content["instances"]["annotations"][3]["segmentation"] = [[1, 1, 300, 1, 300, 300]]
    report = check_root(write_root(content))
    bad = [[where.rsplit(", ", 1)[1] for where in split.bad_masks] for split in report.splits]
    assert bad == [["annotation 4"], ["annotation 4"]], "nobody means it in val"
    assert not report.ok


def test_sizes_of_all_pictures(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    root = write_root(content)
    pictures = root / "images" / "train2014"
    for n, (name, size) in enumerate({"p_8.png": (41, 30), "p_9.png": (40, 32)}.items(), start=1):
        Image.new("RGB", size).save(pictures / name)
        report = check_root(root)
        assert len(report.splits[0].other_sizes) == n, "all of them"
        assert not report.ok
    assert "has 41 x 30 pixels, but its annotations are for 40 x 30" in report.splits[0].other_sizes[0]
    assert [len(split.other_sizes) for split in check_root(root, size_tolerance=1).splits] == [1, 1]
    assert check_root(root, size_tolerance=2).ok
    (pictures / "p_8.png").write_bytes(b"<html>")
    assert "Cannot read the picture" in check_root(root, size_tolerance=2).splits[0].other_sizes[0]


def test_known_counts_and_absent_splits(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    report = check_root(write_root(content, dataset="refcoco", split_by="unc"))
    assert not report.ok
    found = {split.split: (split.found, split.known) for split in report.splits}
    assert found == {
        "val": (Counts(5, 4), Counts(10_834, 3_811)),
        "testA": (Counts(1, 1), Counts(5_657, 1_975)),
        "train": (Counts(0, 0), Counts(120_624, 42_404)),
        "testB": (Counts(0, 0), Counts(5_095, 1_810)),
    }


def test_unreadable_files_are_errors_beside_the_rest(content: dict[str, Any], write_root: Callable[..., Path]) -> None:
    write_root(content, dataset="a")
    root = write_root(content, dataset="b")
    (root / "a" / "refs(own).p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    report = check_root(root)
    assert not report.ok
    assert [split.dataset for split in report.splits] == ["b", "b"]
    assert "refused" in report.errors[0]
    duplicated = copy.deepcopy(content)
    duplicated["refs"][0]["sentences"][1]["sent_id"] = 100
    write_root(duplicated, dataset="a")
    report = check_root(root)
    assert "occurs twice" in report.errors[0]
    assert [(split.dataset, split.split) for split in report.splits] == [("a", "testA"), ("b", "val"), ("b", "testA")]


def test_nothing_there(tmp_path: Path) -> None:
    report = check_root(tmp_path)
    assert not report.ok
    assert "No annotations" in report.errors[0]


def test_the_table_has_the_published_totals() -> None:
    """The papers' totals: 142,209 or 142,210 expressions of 50,000 referents; 141,564 of 49,856; 95,010 of 49,822."""
    totals: dict[tuple[str, str], list[int]] = {}
    for (dataset, split_by, _), counts in PUBLISHED.items():
        total = totals.setdefault((dataset, split_by), [0, 0])
        total[0] += counts.expressions
        total[1] += counts.referents
    assert totals["refcoco", "unc"] == [142_210, 50_000]
    assert totals["refcoco+", "unc"] == [141_564, 49_856]
    assert totals["refcocog", "umd"] == [95_010, 49_822]
    assert published("refcoco", "umd", "val") is None


def test_other_counts_are_no_fault(
    content: dict[str, Any], write_root: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_root(content, dataset="refcoco", split_by="unc")
    assert main(["data", "check", str(root)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "refcoco unc val 5/10834 4/3811 3 0 differs" in out
    assert "refcoco unc train 0/120624 0/42404 0 0 absent" in out
    assert "refcoco unc train: not there; the published split has 120624 expressions of 42404 referents." in out
    assert "refcoco unc val: it has 5 expressions of 4 referents, but the published split has 10834 expressions" in out
    (root / "images" / "train2014" / "p_7.png").unlink()
    assert main(["data", "check", str(root)]) == 1
    assert "refcoco unc val 5/10834 4/3811 2/3 0 faulty" in " ".join(capsys.readouterr().out.split())
