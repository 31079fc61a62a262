"""A run's choices in the forms of other tools: COCO results, and one wide table."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bsap.errors import ConfigError, check_names
from bsap.reports.formats import csv_text
from bsap.reports.shown_run import ShownRun, answer_of, boxes_of
from bsap.runs.records import read_predictions
from bsap.runs.saved import SavedRun
from bsap.runs.schema import Record

CORNERS = ("x1", "y1", "x2", "y2")
CHOICE = ("region", "score", *CORNERS, "box_iou", "intersection", "union", "answer", "matched")
"""Columns of one scorer."""
KEPT = ("id", "image_id", "picture", "text", "category", "words", "distractors", "n_regions", "status")
"""Columns that are fields of a record."""


def coco_results(shown: ShownRun, scorer: str | None) -> str:
    """COCO results: for each expression the chosen box, and for segmentation the mask, with the expression's id.

    An answer of several regions makes several results, each with its own score where all were recorded
    (``run.all_scores``), else with that of the best region; an answer of none makes none.

    Args:
        shown: the run; its data are read for masks only.
        scorer: whose choices; needed where the run has several.

    Raises:
        ConfigError: if the run does not have the scorer, or has several and none is given.
        DataError: if masks are needed and the data are not there.
    """
    names = shown.scorers
    if scorer is None and len(names) > 1:
        raise ConfigError(f"{shown.folder} has several scorers. Choose one with `--scorer`: {', '.join(names)}.")
    scorer = scorer or names[0]
    check_names("scorer", [scorer], names)
    results = []
    for record in shown.records:
        choice = record["scorers"][scorer]
        for region, (x1, y1, x2, y2) in zip(answer_of(choice), boxes_of(choice), strict=True):
            image_id = record["image_id"]
            result: dict[str, Any] = {
                "image_id": int(image_id) if image_id.isascii() and image_id.isdigit() else image_id,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": choice["scores"][region] if "scores" in choice else choice["score"],
                "expression_id": record["id"],
                "text": record["text"],
                "file_name": record["picture"],
            }
            if "union" in choice:
                result["segmentation"] = _mask(shown, record, region)
            results.append(result)
    return json.dumps(results, ensure_ascii=False) + "\n"


def _mask(shown: ShownRun, record: Record, region: int) -> dict[str, Any]:
    scene, _ = shown.scene(record)
    masks = scene.proposals.masks
    assert masks is not None
    return {"size": list(masks[region]["size"]), "counts": masks[region]["counts"].decode()}


def wide_rows(run: SavedRun) -> list[dict[str, Any]]:
    """One row for each expression, with columns ``SCORER.region`` and so on for every scorer."""
    rows = []
    for record in read_predictions(run.folder / "predictions.jsonl"):
        fields: Mapping[str, Any] = record
        row = {key: fields[key] for key in KEPT} | _corners(next(iter(record["referent"]["boxes"]), None))
        for name, choice in record["scorers"].items():
            values: dict[str, Any] = {**choice, **_corners(choice["box"])}
            if "regions" in choice:
                values["answer"] = " ".join(map(str, choice["regions"]))
            row |= {f"{name}.{key}": values[key] for key in CHOICE if key in values}
        rows.append(row)
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def _corners(box: Sequence[float] | None) -> dict[str, float | None]:
    return dict(zip(CORNERS, box or (None,) * len(CORNERS), strict=True))


def csv_table(run: SavedRun) -> str:
    """The wide table as comma-separated values."""
    return csv_text(wide_rows(run))


def parquet_table(run: SavedRun) -> bytes:
    """The wide table as a Parquet file.

    Raises:
        ConfigError: if pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ConfigError("Parquet files need pyarrow: `pip install pyarrow`, or use `--format csv`.") from error
    file = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(wide_rows(run)), file)
    return file.getvalue()
