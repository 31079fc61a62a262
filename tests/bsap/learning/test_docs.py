"""The example in the documentation runs as it stands there, and learns its map alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def test_another_learner(world: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "learned_prompts.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 45
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/learned_prompts.md", "exec"), names)
    kept: list[Any] = []

    class Spy(names["Trainer"]):  # type: ignore[misc]
        def fit(self, model: Any, **kwargs: Any) -> None:
            kept.append(model)
            super().fit(model, **kwargs)

    names["Trainer"] = Spy
    assert 0 < names["learn"](str(world), epochs=1) <= 1
    (model,) = kept
    assert [name for name, _ in model.named_parameters()] == ["learner.linear.weight"]
    assert model.learner.linear.weight.abs().max() > 0
