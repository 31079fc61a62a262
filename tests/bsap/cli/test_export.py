"""`bsap export` on a run over the planted world: what other tools read must be what the run chose."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycocotools import mask as coco_mask

from bsap.cli import main
from support.planted import SCENES, Planted, rectangle


@pytest.fixture(scope="module")
def run(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for REC and RIS."""
    root = tmp_path_factory.mktemp("exported")
    (root / "config.yaml").write_text(yaml.safe_dump(planted.config(run={"root": str(root), "name": "run"})))
    assert main(["test", "-c", str(root / "config.yaml")]) == 0
    return root / "run"


def exported(run: Path, tmp_path: Path, form: str, *flags: str) -> Path:
    path = tmp_path / f"out.{form}"
    assert main(["export", str(run), "--format", form, "--output", str(path), *flags]) == 0
    return path


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]


def test_coco_results(run: Path, tmp_path: Path) -> None:
    results = json.loads(exported(run, tmp_path, "coco", "--scorer", "bsap").read_text())
    by_id = {record["id"]: record for record in records(run)}
    assert len(results) == 7, "the picture without proposals has no result"
    for result in results:
        record = by_id[result["expression_id"]]
        x, y, width, height = result["bbox"]
        assert [x, y, x + width, y + height] == record["scorers"]["bsap"]["box"]
        assert (result["image_id"], result["text"]) == (int(record["image_id"]), record["text"])
        mask = result["segmentation"]
        size = SCENES[result["image_id"] - 1]["size"]
        box = tuple(int(value) for value in record["scorers"]["bsap"]["box"])
        assert coco_mask.decode(mask).tolist() == coco_mask.decode(rectangle(box, size)).tolist()  # type: ignore[arg-type]


def test_coco_results_need_one_scorer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "coco"]) == 2
    assert "has several scorers. Choose one with `--scorer`: clip, bsap, bsap_h." in capsys.readouterr().err
    assert main(["export", str(run), "--format", "coco", "--scorer", "bsp"]) == 2
    assert "Unknown scorer 'bsp'. Did you mean 'bsap'" in capsys.readouterr().err


def check(row: dict[str, Any], record: dict[str, Any]) -> None:
    """A row of numbers, or of their texts, against a record."""

    def same(value: Any, expected: Any) -> bool:
        return value in (None, "") if expected is None else float(value) == expected

    assert (row["id"], row["text"], row["status"]) == (record["id"], record["text"], record["status"])
    assert same(row["n_regions"], record["n_regions"])
    for name, choice in record["scorers"].items():
        for key in ("region", "score", "box_iou", "intersection", "union"):
            assert same(row[f"{name}.{key}"], choice[key])
        for place, key in enumerate(("x1", "y1", "x2", "y2")):
            assert same(row[f"{name}.{key}"], None if choice["box"] is None else choice["box"][place])


def test_csv(run: Path, tmp_path: Path) -> None:
    with exported(run, tmp_path, "csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, record in zip(rows, records(run), strict=True):
        check(row, record)


def test_parquet(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for row, record in zip(
        parquet.read_table(exported(run, tmp_path, "parquet")).to_pylist(), records(run), strict=True
    ):
        check(row, record)
    with pytest.raises(SystemExit):
        main(["export", str(run), "--format", "parquet"])
    assert "Name the Parquet file with --output FILE." in capsys.readouterr().err
