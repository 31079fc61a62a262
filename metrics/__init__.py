"""Exact metrics of referring expressions: accuracy of boxes (REC), overlap of masks (RIS), and answers that are sets.

The classes are imported when they are asked for: torchmetrics takes seconds, and the functions do not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bsap.metrics import functional
from bsap.metrics.functional import *  # noqa: F403 - the functions have one list of names, which is theirs

if TYPE_CHECKING:
    from bsap.metrics.rec import RECAccuracy as RECAccuracy
    from bsap.metrics.ris import RISScores as RISScores
    from bsap.metrics.sets import RECSetScores as RECSetScores
    from bsap.metrics.sets import RISSetScores as RISSetScores

_CLASSES = {"RECAccuracy": "rec", "RECSetScores": "sets", "RISScores": "ris", "RISSetScores": "sets"}

__all__ = sorted([*functional.__all__, *_CLASSES])


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'bsap.metrics' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bsap.metrics.{_CLASSES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_CLASSES]
