from __future__ import annotations

import shlex
import warnings
from typing import Any

import pytest
import torch

from bsap.prompts.banks import Bank, load_bank
from bsap.prompts.learned import learned_scorer, warn_of_other_use
from bsap.scoring import BSAP, BSAPH, make_scorer

SETTINGS = {"templates": {"query": "a photo of {}", "bank": "{}"}, "views": ["crop"]}
MODEL = {**SETTINGS, "scorers": ["clip", "bsap", "bsap_h"]}


def bank(**meta: Any) -> Bank:
    meta = {"scorer": "bsap", "learned": {}, "settings": SETTINGS} | meta
    return Bank(name="run", prompts=(), source="learned", features=torch.ones(2, 4), meta=meta)


def said(bank: Bank, model: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_other_use(bank, model)
    return [str(warning.message) for warning in caught]


def test_the_scorer_that_a_bank_was_learned_with() -> None:
    assert learned_scorer({}) == "bsap"
    spec = {"class_path": "BSAPH", "init_args": {"combine": "product", "tau": 5.0}}
    assert make_scorer(learned_scorer({"scorer": spec, "learned": {}})) == BSAPH(combine="product", tau=5.0)
    learned = {"scorer": spec, "learned": {"tau": 20.00000049, "lam": 0.25}}
    assert make_scorer(learned_scorer(learned)) == BSAPH(combine="product", tau=20.0, lam=0.25)


def test_a_tau_that_no_scorer_uses() -> None:
    """The flag that the message names is the mend."""
    learned = bank(learned={"tau": 20.5})
    (message,) = said(learned, MODEL)
    assert "learned with a tau or lam of its own" in message
    flag = shlex.split(message.partition("`")[2].partition("`")[0])
    assert flag[0] == "--model.scorers"
    import yaml

    assert said(learned, MODEL | {"scorers": yaml.safe_load(flag[1])}) == []
    assert said(learned, MODEL | {"scorers": [BSAP(tau=20.5)]}) == []


@pytest.mark.parametrize(
    ("meta", "model", "message"),
    [
        (
            {},
            {"templates": {"query": "{}", "bank": "{}"}},
            "template 'a photo of {}', but queries here have '{}'",
        ),
        ({}, {"views": ["crop", "blur"]}, "with views ['crop'], not ['crop', 'blur']"),
        ({"text_only": True, "projector": True}, {"views": ["blur"]}, "with views ['crop'], not ['blur']"),
    ],
)
def test_another_template_or_view(meta: Any, model: Any, message: str) -> None:
    (found,) = said(bank(**meta), MODEL | model)
    assert message in found


@pytest.mark.parametrize(
    ("learned", "model"),
    [
        (bank(), MODEL),
        (bank(text_only=True), MODEL | {"views": ["blur"]}),
        (bank(), MODEL | {"templates": {"query": "a photo of {}", "bank": "the {}"}}),
        (bank(settings=None), MODEL),
        (load_bank("generic"), {}),
    ],
)
def test_silence_where_nothing_differs(learned: Bank, model: Any) -> None:
    assert said(learned, model) == []
