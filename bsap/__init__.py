"""Zero-shot referring expressions with CLIP, corrected by auxiliary prompts.

Example:
    >>> import bsap
    >>> bsap.BSAP(tau=50.0).needs_bank
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "bsap.datamodules": ("PictureDataModule", "ProposalConfig", "RefCOCODataModule", "SceneDataModule"),
    "bsap.errors": ("BSAPError",),
    "bsap.features.ensemble": ("Ensemble",),
    "bsap.grounding.balance": ("Balanced", "balance"),
    "bsap.grounding.grounder": ("Grounder", "Grounding"),
    "bsap.metrics": ("RECAccuracy", "RISScores"),
    "bsap.models.encoder": ("Encoder", "EncoderConfig"),
    "bsap.models.interface": ("DualEncoder", "PairScorer"),
    "bsap.models.load": ("load_model",),
    "bsap.module": ("BSAPModule",),
    "bsap.prompts.banks": ("Bank",),
    "bsap.prompts.templates": ("Templates",),
    "bsap.relations.settings": ("Relations",),
    "bsap.runs.settings": ("RunConfig",),
    "bsap.scoring": ("AnswerRule", "BSAP", "BSAPH", "CLIP", "Scorer", "Similarities"),
    "bsap.views": ("View",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
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
