"""Exact metrics of referring expressions: accuracy of boxes (REC), overlap of masks (RIS), and answers that are sets.

The classes are imported when they are asked for: torchmetrics takes seconds, and the functions do not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bsap.metrics.functional import (
    IOU_THRESHOLDS,
    best_overlap,
    box_iou_pairs,
    mask_overlap,
    mask_overlap_matrix,
    mask_union,
    match_boxes,
    rec_accuracy,
    rec_hits,
    rec_set_scores,
    ris_scores,
    ris_set_scores,
)

if TYPE_CHECKING:
    from bsap.metrics.rec import RECAccuracy
    from bsap.metrics.ris import RISScores
    from bsap.metrics.sets import RECSetScores, RISSetScores

_CLASSES = {"RECAccuracy": "rec", "RECSetScores": "sets", "RISScores": "ris", "RISSetScores": "sets"}

__all__ = [
    "IOU_THRESHOLDS",
    "RECAccuracy",
    "RECSetScores",
    "RISScores",
    "RISSetScores",
    "best_overlap",
    "box_iou_pairs",
    "mask_overlap",
    "mask_overlap_matrix",
    "mask_union",
    "match_boxes",
    "rec_accuracy",
    "rec_hits",
    "rec_set_scores",
    "ris_scores",
    "ris_set_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'bsap.metrics' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bsap.metrics.{_CLASSES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_CLASSES]
