"""Zero-shot referring expressions with CLIP, corrected by auxiliary prompts.

Example:
    >>> import bsap
    >>> bsap.BSAP(tau=50.0).needs_bank
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "AnswerRule": "bsap.scoring",
    "BSAP": "bsap.scoring",
    "BSAPH": "bsap.scoring",
    "CLIP": "bsap.scoring",
    "BSAPError": "bsap.errors",
    "BSAPModule": "bsap.module",
    "Balanced": "bsap.grounding.balance",
    "Bank": "bsap.prompts.banks",
    "DualEncoder": "bsap.models.interface",
    "Encoder": "bsap.models.encoder",
    "EncoderConfig": "bsap.models.encoder",
    "Ensemble": "bsap.features.ensemble",
    "Grounder": "bsap.grounding.grounder",
    "Grounding": "bsap.grounding.grounder",
    "PairScorer": "bsap.models.interface",
    "PictureDataModule": "bsap.datamodules",
    "ProposalConfig": "bsap.datamodules",
    "RECAccuracy": "bsap.metrics",
    "RISScores": "bsap.metrics",
    "RefCOCODataModule": "bsap.datamodules",
    "Relations": "bsap.relations.settings",
    "RunConfig": "bsap.runs.settings",
    "SceneDataModule": "bsap.datamodules",
    "Scorer": "bsap.scoring",
    "Similarities": "bsap.scoring",
    "Templates": "bsap.prompts.templates",
    "View": "bsap.views",
    "balance": "bsap.grounding.balance",
    "load_model": "bsap.models.load",
}
"""Where each public name lives. Names are imported when they are asked for: torch and Lightning take seconds."""

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from bsap.datamodules import PictureDataModule, ProposalConfig, RefCOCODataModule, SceneDataModule
    from bsap.errors import BSAPError
    from bsap.features.ensemble import Ensemble
    from bsap.grounding.balance import Balanced, balance
    from bsap.grounding.grounder import Grounder, Grounding
    from bsap.metrics import RECAccuracy, RISScores
    from bsap.models.encoder import Encoder, EncoderConfig
    from bsap.models.interface import DualEncoder, PairScorer
    from bsap.models.load import load_model
    from bsap.module import BSAPModule
    from bsap.prompts.banks import Bank
    from bsap.prompts.templates import Templates
    from bsap.relations.settings import Relations
    from bsap.runs.settings import RunConfig
    from bsap.scoring import BSAP, BSAPH, CLIP, AnswerRule, Scorer, Similarities
    from bsap.views import View

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bsap")
    if name not in _HOME:
        raise AttributeError(f"module 'bsap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
