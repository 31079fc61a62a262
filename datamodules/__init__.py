"""Pictures, proposals and expressions: readers and LightningDataModules."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Expression": "scene",
    "PictureDataModule": "own_picture",
    "ProposalConfig": "proposals",
    "Proposals": "scene",
    "RLE": "scene",
    "RefCOCODataModule": "refcoco",
    "Referent": "scene",
    "Scene": "scene",
    "SceneDataModule": "base",
    "SceneBatch": "batch",
    "SceneSampler": "sampler",
    "SplitSummary": "scene",
    "check_root": "check",
}
"""Where each public name lives. Names are imported when they are asked for: torch and Lightning take seconds."""

__all__ = [
    "RLE",
    "Expression",
    "PictureDataModule",
    "ProposalConfig",
    "Proposals",
    "RefCOCODataModule",
    "Referent",
    "Scene",
    "SceneBatch",
    "SceneDataModule",
    "SceneSampler",
    "SplitSummary",
    "check_root",
]

if TYPE_CHECKING:
    from bsap.datamodules.base import SceneDataModule
    from bsap.datamodules.batch import SceneBatch
    from bsap.datamodules.check import check_root
    from bsap.datamodules.own_picture import PictureDataModule
    from bsap.datamodules.proposals import ProposalConfig
    from bsap.datamodules.refcoco import RefCOCODataModule
    from bsap.datamodules.sampler import SceneSampler
    from bsap.datamodules.scene import RLE, Expression, Proposals, Referent, Scene, SplitSummary


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bsap.datamodules' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bsap.datamodules.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
