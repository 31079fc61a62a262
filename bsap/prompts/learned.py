"""The scorer that a bank was learned with, and warnings about banks that do not suit a run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from bsap.prompts.banks import Bank, too_small_for
from bsap.scoring import Scorer, make_scorer
from bsap.scoring.registry import ScorerSpec


def learned_scorer(meta: Mapping[str, Any]) -> Any:
    """The entry of `model.scorers` for the scorer that a bank was learned with.

    Args:
        meta: of the bank; ``learned`` holds what was learned of tau and lam.

    Example:
        >>> learned_scorer({"scorer": "bsap", "learned": {"tau": 20.5}})
        {'class_path': 'BSAP', 'init_args': {'tau': 20.5}}
        >>> learned_scorer({"scorer": "bsap_h", "learned": {}})
        'bsap_h'
    """
    spec: ScorerSpec = meta.get("scorer") or "bsap"
    learned = {name: round(value, 6) for name, value in (meta.get("learned") or {}).items()}
    if not learned:
        return spec
    if not is_known(spec):
        given = dict(spec) if isinstance(spec, Mapping) else {"class_path": spec}
        arguments = given.get("init_args")
        return given | {"init_args": {**(arguments if isinstance(arguments, Mapping) else {}), **learned}}
    scorer = make_scorer(spec)
    usual = type(scorer)()
    given = {f.name: getattr(scorer, f.name) for f in fields(scorer) if f.init}
    changed = {name: value for name, value in given.items() if value != getattr(usual, name)}
    return {"class_path": type(scorer).__name__, "init_args": changed | learned}


def is_known(spec: object) -> bool:
    """Whether a scorer that a file names is imported already: reading a file must not import what it names."""
    path = spec.get("class_path") if isinstance(spec, Mapping) else spec
    module = path.rpartition(".")[0] if isinstance(path, str) else ""
    return not module or module in sys.modules


def warn_of_few_prompts(bank: Bank, scorers: Mapping[str, Scorer]) -> None:
    """Warn if scorers want more auxiliary prompts than the bank has, so that they do not run as published."""
    wanted = too_small_for(bank, scorers)
    if wanted:
        each = "scene" if bank.per_scene else "query" if bank.of_query is not None and not bank.size else None
        has = f"the prompts of each {each}" if each else f"{bank.size} prompts"
        asked = ", ".join(f"{name} {number}" for name, number in wanted.items())
        rank_zero_warn(
            f"Bank {bank.name!r} has {has}, but scorers want more ({asked}) and use all there are. Choose a larger "
            "bank, such as captions, or set `top_k` of the scorer."
        )


def warn_of_other_use(bank: Bank, model: Mapping[str, Any]) -> None:
    """Warn if a learned bank is used with other settings than it was learned with; its numbers may be lower.

    ``model`` are the settings of the model under test: ``scorers``, ``templates`` and ``views``, as in a configuration.
    """
    if bank.features is None:
        return
    wanted = learned_scorer(bank.meta)
    used = [make_scorer(spec) for spec in model["scorers"]]
    if not isinstance(wanted, str) and (not is_known(wanted) or make_scorer(wanted) not in used):
        flag = f"--model.scorers {shlex.quote(json.dumps(['clip', wanted]))}"
        rank_zero_warn(
            f"Bank {bank.name!r} was learned with a tau or lam of its own, which no scorer of this run uses: `{flag}`."
        )
    settings = bank.meta.get("settings")
    if not isinstance(settings, Mapping):
        return
    before, now = ((s.get("templates") or {}).get("query") for s in (settings, model))
    if before != now:
        rank_zero_warn(f"Bank {bank.name!r} was learned with query template {before!r}, but queries here have {now!r}.")
    # Learning from text alone does not depend on views, unless regions showed it the modality gap.
    saw_regions = not bank.meta.get("text_only") or bank.meta.get("projector")
    if saw_regions and settings.get("views") != model["views"]:
        rank_zero_warn(f"Bank {bank.name!r} was learned with views {settings.get('views')}, not {model['views']}.")
