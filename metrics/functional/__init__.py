"""The metrics as functions over tensors."""

from bsap.metrics.functional.masks import (
    best_overlap,
    mask_overlap,
    mask_overlap_matrix,
    mask_union,
)
from bsap.metrics.functional.rec import IOU_THRESHOLDS, box_iou_pairs, rec_accuracy, rec_hits
from bsap.metrics.functional.ris import ris_scores
from bsap.metrics.functional.sets import match_boxes, rec_set_scores, ris_set_scores

__all__ = [
    "IOU_THRESHOLDS",
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
