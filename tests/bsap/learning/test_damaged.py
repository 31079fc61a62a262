"""Banks and checkpoints with missing, null, mistyped or huge values: one clear error, or the same result."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bsap.errors import ConfigError
from bsap.learning.context import FrozenTower
from bsap.learning.run_folder import write_bank
from bsap.learning.words import nearest_words
from bsap.prompts.banks import check_learned_bank, load_bank
from bsap.prompts.learned import learned_scorer, warn_of_other_use

ODD = (None, True, -1, 0.5, 10**400, float("inf"), "x" * 5000, "a.b.C", [], [1], {}, {"a": None}, [[[[{}]]]])
META = {
    "name": "bank",
    "model": {"label": "mine", "weights_sha256": "ab" * 32, "dim": 4},
    "scorer": {"class_path": "BSAP", "init_args": {"tau": 20.0}},
    "learned": {"tau": 20.5, "lam": 0.5},
    "text_only": False,
    "projector": False,
    "settings": {"templates": {"query": "a photo of {}", "bank": "{}"}, "views": ["crop"]},
}
USE = {"scorers": ["clip", "bsap"], "templates": {"query": "{}", "bank": "{}"}, "views": ["blur"]}


class Model:
    label, weights_sha256, dim = "mine", "ab" * 32, 4


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside a value."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*at, key))


def changed(value: Any, at: tuple[Any, ...], new: Any, *, drop: bool) -> Any:
    """A copy with one value replaced or removed."""
    result = copy.deepcopy(value)
    inside = result
    for key in at[:-1]:
        inside = inside[key]
    if drop:
        del inside[at[-1]]
    else:
        inside[at[-1]] = new
    return result


@pytest.mark.filterwarnings("ignore:Bank")
@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(places(META))), st.sampled_from(ODD), st.booleans())
def test_a_bank_with_an_odd_value_is_used_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: tuple[Any, ...], new: Any, drop: bool
) -> None:
    folder = tmp_path_factory.mktemp("bank")
    write_bank(folder, {"features": torch.eye(4)}, changed(META, at, new, drop=drop))
    message = ""
    try:
        bank = load_bank(f"learned:{folder}")
        check_learned_bank(bank, [Model()])
        learned_scorer(bank.meta)
        warn_of_other_use(bank, USE)
    except ConfigError as error:
        message = str(error)
    assert len(message) < 5000


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}"])
def test_a_bank_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    write_bank(tmp_path, {"features": torch.eye(4)}, META)
    (tmp_path / "bank.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"Learned bank .*bank\.json"):
        load_bank(f"learned:{tmp_path}")


@pytest.mark.parametrize(
    "features", [torch.zeros(0, 4), torch.zeros(4, 0), torch.zeros(4), torch.ones(2, 4, dtype=torch.int64), None]
)
def test_features_of_another_form(tmp_path: Path, features: torch.Tensor | None) -> None:
    write_bank(tmp_path, {"other": torch.eye(4)} if features is None else {"features": features}, META)
    with pytest.raises(ConfigError, match="expected a tensor `features` of shape"):
        load_bank(f"learned:{tmp_path}")


def test_a_bank_does_not_import_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "planted_by_a_bank.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for scorer in ("planted_by_a_bank.Scorer", {"class_path": "planted_by_a_bank.Scorer"}):
        for learned in ({}, {"tau": 3.0}):
            write_bank(tmp_path / "bank", {"features": torch.eye(4)}, META | {"scorer": scorer, "learned": learned})
            warn_of_other_use(load_bank(f"learned:{tmp_path / 'bank'}"), USE)
    assert "planted_by_a_bank" not in sys.modules


@pytest.mark.parametrize(
    "tensors",
    [
        {"context": torch.zeros(2, 3, 7), "lengths": torch.tensor([1, 2])},
        {"context": torch.zeros(2, 3, 96)},
        {"context": torch.zeros(2, 3, 96), "lengths": torch.tensor([1])},
        {"context": torch.zeros(2, 3, 96), "lengths": torch.tensor([1.0, 2.0])},
        {"context": torch.zeros(96), "lengths": torch.tensor([-1])},
    ],
)
def test_context_of_another_form(tmp_path: Path, tower: FrozenTower, tensors: dict[str, torch.Tensor]) -> None:
    save_file({"features": torch.zeros(2, 128), **tensors}, tmp_path / "bank.safetensors")
    with pytest.raises(ConfigError, match=r"expected `context` of shape \(K, n, 96\) and `lengths` of shape"):
        nearest_words(tmp_path / "bank.safetensors", tower, 1)


def test_checkpoints_with_odd_values(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever of a checkpoint is removed or changed, `bsap fit` ends with a result or with one message."""
    assert fit() == 0
    whole = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    odd: list[tuple[tuple[Any, ...], Any, bool]] = [((name,), None, True) for name in whole]
    odd += [((name,), new, False) for name in ("epoch", "global_step", "state_dict") for new in (None, "x", 10**30)]
    odd += [(("state_dict", name), torch.zeros(1), False) for name in whole["state_dict"]]
    odd += [(("callbacks", name), new, False) for name in whole["callbacks"] for new in (None, {})]
    odd += [
        (("optimizer_states",), [{}], False),
        (("lr_schedulers",), [None], False),
        (("loops",), {"fit_loop": 1}, False),
    ]
    refused = 0
    for at, new, drop in odd:
        torch.save(changed(whole, at, new, drop=drop), tmp_path / "odd.ckpt")
        capsys.readouterr()
        code = fit("--ckpt_path", str(tmp_path / "odd.ckpt"))
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bsap: ")]
        assert (code, len(error)) in ((0, 0), (2, 1)), (at, new)
        refused += code == 2
    assert refused > 10
    meta = json.loads((tmp_path / "run" / "bank" / "bank.json").read_text())
    assert load_file(tmp_path / "run" / "bank" / "bank.safetensors")["features"].isfinite().all()
    assert meta["epochs"] == 2
