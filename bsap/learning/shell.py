"""The commands that belong to a run of learning: what stores its features, what tests its bank."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bsap.datamodules import ProposalConfig
from bsap.learning.datamodule import LearningDataModule
from bsap.prompts.learned import learned_scorer

TEST_SPLIT = "TEST_SPLIT"
"""Stands in a command where the split to test on must be filled in: no split but those learned from is known."""


def test_command(
    settings: Mapping[str, Any], data: LearningDataModule, bank: Path, meta: Mapping[str, Any], *, precision: str
) -> str:
    """The ``bsap test`` that uses a learned bank as it was trained.

    Args:
        settings: of the learner.
        data: what it learned from.
        bank: the bank's folder.
        meta: of the bank.
        precision: the Trainer's.
    """
    # Whoever learned from text alone has not said which regions to test on.
    items = data_settings(data, unseen_split(data)) if data.sees_regions else {"config": "my.yaml"}
    usual = {"aggregate": "before", "strict": False}
    items |= region_settings(settings, precision)
    items |= {f"model.{name}": settings[name] for name, value in usual.items() if settings[name] != value}
    return _command(items | {"model.scorers": ["clip", learned_scorer(meta)], "model.bank": f"learned:{bank}"})


def store_command(
    settings: Mapping[str, Any],
    data: LearningDataModule,
    split: str,
    store: Path,
    *,
    precision: str,
    limit: int | None = None,
) -> str:
    """The ``bsap test`` that leaves the region features of a split in the store.

    Args:
        settings: of the learner.
        data: what it learns from.
        split: the split.
        store: the feature store's folder.
        precision: the Trainer's.
        limit: how many of the split's first expressions are needed; None: as many as the data says.
    """
    items = data_settings(data, split) | ({} if limit is None else {"data.limit": limit})
    items |= region_settings(settings, precision)
    return _command(items | {"model.scorers": ["clip"], "model.store": str(store)})


def data_settings(data: LearningDataModule, split: str) -> dict[str, Any]:
    """Settings of ``data`` for another split on the same terms, without those that have their usual value."""
    items: dict[str, Any] = {"root": str(data.root), "dataset": data.dataset, "split_by": data.split_by, "split": split}
    usual = {"annotations": None, "images": None, "text": "sent", "lowercase": False, "masks": True}
    items |= {name: getattr(data, name) for name, value in usual.items() if getattr(data, name) != value}
    items |= data.selection.given()
    for field in fields(ProposalConfig):
        if (value := getattr(data.proposals, field.name)) != field.default:
            items[f"proposals.{field.name}"] = value
    return {f"data.{name}": value for name, value in items.items()}


def region_settings(settings: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Settings of ``model`` and ``trainer`` that features depend on."""
    items: dict[str, Any] = {
        "model.encoders": [{key: value for key, value in settings["encoders"][0].items() if value}]
    } | {f"model.{name}": settings[name] for name in ("views", "templates")}
    if settings["resize"] != "squash":
        items["model.resize"] = settings["resize"]
    return items if precision == "32-true" else items | {"trainer.precision": precision}


def unseen_split(data: LearningDataModule) -> str:
    """The split to test on, or :data:`TEST_SPLIT` where the data names only one that was learned from."""
    return TEST_SPLIT if data.split in (data.train_split, data.val_split) else data.split


def _command(items: Mapping[str, Any]) -> str:
    words = ["bsap", "test"]
    for name, value in items.items():
        if value is not None:
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)
