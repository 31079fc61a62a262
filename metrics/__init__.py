"""Exact metrics of referring expressions: Acc@0.5, oIoU, mIoU, Pr@X."""

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
from bsap.metrics.rec import RECAccuracy
from bsap.metrics.ris import RISScores

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
