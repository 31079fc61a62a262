"""What a printed command says of the data, read back by the parser that it is printed for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from bsap.learning import LearningDataModule, PromptLearner, shell
from bsap.learning.shell import data_settings, store_command, unseen_split


def test_everything_that_was_set_is_said(data: dict[str, Any]) -> None:
    proposals = {"source": "masks", "path": "demo/masks.json", "top_k": 5, "min_score": 0.1, "min_area": 4.0}
    proposals |= {"masked_only": True, "empty": "skip"}
    others = {"text": "raw", "lowercase": True, "images": "pictures", "category": ["cup"], "max_words": 6, "limit": 9}
    module = LearningDataModule(**data | {"proposals": proposals} | others)
    said = data_settings(module, "test")
    root = {"root": data["root"], "dataset": "demo", "split_by": "drawn", "split": "test"}
    assert said == {f"data.{key}": value for key, value in (root | others).items()} | {
        f"data.proposals.{key}": value for key, value in proposals.items()
    }
    command = shlex.split(store_command(PromptLearner(run=None).settings, module, "train", Path("s"), precision="x"))
    assert command[command.index("--data.proposals.masked_only") + 1] == "true"
    assert command[command.index("--data.category") + 1] == '["cup"]'
    assert command[command.index("--model.store") + 1] == "s"
    assert command[command.index("--trainer.precision") + 1] == "x"


def test_what_was_not_set_is_not_said(data: dict[str, Any]) -> None:
    assert set(data_settings(LearningDataModule(**data), "test")) == {
        *(f"data.{name}" for name in ("root", "dataset", "split_by", "split", "proposals.source"))
    }


@pytest.mark.parametrize(
    ("split", "said"), [("val", "TEST_SPLIT"), ("train", "TEST_SPLIT"), ("test", "test"), ("testA", "testA")]
)
def test_no_split_that_was_learned_from_is_named(data: dict[str, Any], split: str, said: str) -> None:
    module = LearningDataModule(**data, split=split)
    assert unseen_split(module) == said
    settings = PromptLearner(run=None).settings
    words = shlex.split(shell.test_command(settings, module, Path("bank"), {}, precision="32-true"))
    assert words[words.index("--data.split") + 1] == said
