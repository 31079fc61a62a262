"""Scores: CLIP, BSAP, BSAP-H and their relatives as pure functions over tensors.

This package does not depend on files, models or Lightning. A :class:`Scorer` turns :class:`Similarities` into
:class:`Scores`; ``SCORERS`` holds ready-made scorers with the settings of the literature.
"""

from bsap.scoring.answers import AnswerRule, answer_values, answered, ordered, suppress
from bsap.scoring.functional import (
    balanced_logits,
    clip_logits,
    hybrid_logits,
    log_softmax_regions,
    reduce_bank,
)
from bsap.scoring.registry import NAMED_SCORERS, SCORERS, NamedScorer, ScorerSpec, describe, make_scorer, scorer_name
from bsap.scoring.scorers import BSAP, BSAPH, CLIP, DSL, Aggregate, Correction, Logits, Scorer
from bsap.scoring.sinkhorn import DBSN, DualIS, Sinkhorn
from bsap.scoring.tensors import Scores, Similarities

__all__ = [
    "BSAP",
    "BSAPH",
    "CLIP",
    "DBSN",
    "DSL",
    "NAMED_SCORERS",
    "SCORERS",
    "Aggregate",
    "AnswerRule",
    "Correction",
    "DualIS",
    "Logits",
    "NamedScorer",
    "Scorer",
    "ScorerSpec",
    "Scores",
    "Similarities",
    "Sinkhorn",
    "answer_values",
    "answered",
    "balanced_logits",
    "clip_logits",
    "describe",
    "hybrid_logits",
    "log_softmax_regions",
    "make_scorer",
    "ordered",
    "reduce_bank",
    "scorer_name",
    "suppress",
]
