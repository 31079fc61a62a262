"""Exact metrics of referring expressions: Acc@0.5, oIoU, mIoU, Pr@X.

The classes are imported when they are asked for: torchmetrics takes seconds, and the functions do not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bsap.metrics.functional import (
    best_overlap,
    box_iou_pairs,
    mask_overlap,
    mask_overlap_matrix,
    mask_overlaps,
    rec_accuracy,
    rec_hits,
    ris_scores,
)

if TYPE_CHECKING:
    from bsap.metrics.rec import RECAccuracy
    from bsap.metrics.ris import RISScores

_CLASSES = {"RECAccuracy": "bsap.metrics.rec", "RISScores": "bsap.metrics.ris"}

__all__ = [
    "RECAccuracy",
    "RISScores",
    "best_overlap",
    "box_iou_pairs",
    "mask_overlap",
    "mask_overlap_matrix",
    "mask_overlaps",
    "rec_accuracy",
    "rec_hits",
    "ris_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'bsap.metrics' has no attribute {name!r}")
    return getattr(importlib.import_module(_CLASSES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_CLASSES]
