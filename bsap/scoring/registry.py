"""Scorers by name: ready-made scorers under the names of the literature, and scorers from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from torch import Tensor

from bsap.registry import Registry, first_line
from bsap.scoring.scorers import BSAP, BSAPH, CLIP, DSL, Correction, Scorer
from bsap.scoring.sinkhorn import DBSN, DualIS, Sinkhorn

ScorerSpec: TypeAlias = "str | Mapping[str, Any] | Scorer"


@dataclass(frozen=True)
class NamedScorer:
    """A ready-made scorer, in one line for ``bsap list scorers``."""

    name: str
    scorer: Scorer
    description: str
    source: str


_PUBLISHED: dict[str, dict[str, tuple[Scorer, str]]] = {
    "Radford et al. 2021, arXiv 2103.00020": {
        "clip": (CLIP(), "CLIP's similarity, as a softmax over regions"),
    },
    "arXiv 2402.18400": {
        "bsap": (BSAP(), "softmax over the query and the bank, region by region"),
        "bsap_h": (BSAPH(), "half BSAP and half CLIP, summed as distributions over regions"),
        "bsap_h_product": (BSAPH(combine="product"), "geometric mean of BSAP's p and CLIP's q"),
    },
    "Red Circle, arXiv 2304.06712; FGVP, arXiv 2306.04356": {
        "subtraction": (
            Correction(reduce="mean"),
            "minus the mean over the bank; the papers use 500 captions of the split",
        ),
    },
    "Zhou et al. 2023, arXiv 2302.11084": {
        "distribution_normalization": (
            Correction(reduce="mean", alpha=0.25),
            "minus a quarter of the mean over the bank, not renormalised",
        ),
        "distribution_normalization_code": (
            Correction(reduce="mean", alpha=0.5),
            "as the authors' package by default: minus half the mean over the bank (lambda 0.5)",
        ),
    },
    "Conneau et al. 2018, arXiv 1710.04087": {
        "csls": (Correction(reduce="topk", alpha=0.5, top_k=10), "minus half the mean of the 10 nearest bank texts"),
    },
    "Chowdhury et al. 2024, arXiv 2410.24114": {
        "nnn": (
            Correction(reduce="topk", alpha=0.75, top_k=128),
            "minus 0.75 of the mean of the 128 nearest bank texts",
        ),
        "nnn_code": (
            Correction(reduce="topk", alpha=0.5, top_k=256),
            "as the authors' package nnn-retrieval by default: minus half the mean of the 256 nearest bank texts",
        ),
    },
    "Smith et al. 2017, arXiv 1702.03859": {
        "inverted_softmax": (Correction(reduce="logsumexp"), "minus the logsumexp over the bank; ranks as BSAP does"),
    },
    "Bogolin et al. 2022, arXiv 2112.12777": {
        "qb_norm": (
            Correction(reduce="logsumexp", gate=True),
            "inverted softmax where the query's best region is also some bank text's best, at the model's temperature",
        ),
        "qb_norm_code": (
            Correction(reduce="logsumexp", gate=True, tau=20.0),
            "as the authors' code by default: qb_norm at the fixed temperature 20 (beta)",
        ),
    },
    "Cheng et al. 2021, arXiv 2109.04290": {
        "dsl": (DSL(), "similarity times BSAP's p"),
    },
    "Pan et al. 2025, arXiv 2508.02538": {
        "sinkhorn": (Sinkhorn(), "all regions of a picture weigh the same, and all prompts; 10 iterations at tau 100"),
        "sinkhorn_split": (
            Sinkhorn(gallery="split"),
            "as published: all regions of the split weigh the same; needs them as region bank",
        ),
        "dbsn": (DBSN(), "Sinkhorn over the regions of the picture and of the region bank"),
    },
    "Wang et al. 2023, arXiv 2310.11612": {
        "dual_is": (
            DualIS(),
            "inverted softmax over the bank times that over the region bank, at the model's temperature",
        ),
        "dual_dis": (DualIS(gate=True), "dual_is, each half only where the best region is a hub of its bank"),
        "dual_is_code": (
            DualIS(tau=1 / 1.99, ratio=3 * 1.99),
            "dual_is at the temperatures of the authors' code by default, 1 / 1.99 and 3",
        ),
    },
}
"""By source, the scorers by name, each with a description."""

NAMED_SCORERS: tuple[NamedScorer, ...] = tuple(
    NamedScorer(name, scorer, description, source)
    for source, scorers in _PUBLISHED.items()
    for name, (scorer, description) in scorers.items()
)

SCORERS: dict[str, Scorer] = {named.name: named.scorer for named in NAMED_SCORERS}
"""The ready-made scorers by name."""


_REGISTRY = Registry("scorer", Scorer, SCORERS, classes={type(scorer) for scorer in SCORERS.values()}, needs="rank")


def make_scorer(spec: ScorerSpec) -> Scorer:
    """The scorer that a configuration means.

    Args:
        spec: a ready-made name; the import path of a subclass of :class:`Scorer`;
            ``{"class_path": ..., "init_args": {...}}`` with the name of a class of :mod:`bsap.scoring` or an import
            path; or a scorer, which is returned as it is.

    Raises:
        ConfigError: unknown name, class or argument, or an argument's value out of range.

    Example:
        >>> make_scorer("csls")
        Correction(tau=None, tau_clip=None, reduce='topk', alpha=0.5, top_k=10, gate=False, gate_k=1)
        >>> make_scorer({"class_path": "BSAPH", "init_args": {"lam": 0.7}}).lam
        0.7
    """
    return _REGISTRY.make(spec)


def scorer_name(spec: ScorerSpec) -> str:
    """A short name, the key of a scorer's results: different scorers have different names.

    Example:
        >>> scorer_name({"class_path": "BSAPH", "init_args": {"combine": "product"}})
        'bsap_h_product'
        >>> scorer_name(BSAPH(lam=0.7, tau=50))
        'bsap_h(tau=50,lam=0.7)'
    """
    scorer = make_scorer(spec)
    if isinstance(spec, str):
        return spec
    for named in NAMED_SCORERS:
        if type(named.scorer) is type(scorer) and _settings(named.scorer) == _settings(scorer):
            return named.name
    base = {CLIP: "clip", BSAP: "bsap", BSAPH: "bsap_h", DSL: "dsl", Correction: "correction"}
    base |= {Sinkhorn: "sinkhorn", DBSN: "dbsn", DualIS: "dual_is"}
    name = base.get(type(scorer), type(scorer).__name__)
    given = ",".join(f"{key}={value}" for key, value in _settings(scorer).items())
    return f"{name}({given})" if given else name


def describe(spec: ScorerSpec) -> str:
    """One line: what a scorer is, and the source of a ready-made one.

    Example:
        >>> describe("dsl")
        "similarity times BSAP's p (Cheng et al. 2021, arXiv 2109.04290)"
    """
    scorer, name = make_scorer(spec), scorer_name(spec)
    for named in NAMED_SCORERS:
        if named.name == name:
            return f"{named.description} ({named.source})"
    return first_line(scorer)


def _settings(scorer: Scorer) -> dict[str, object]:
    """The arguments that differ from their defaults, tensors as the numbers they hold."""
    values = {f.name: (getattr(scorer, f.name), f.default) for f in fields(scorer) if f.init}
    plain = {k: (v.tolist() if isinstance(v, Tensor) else v, default) for k, (v, default) in values.items()}
    return {k: v for k, (v, default) in plain.items() if v != default}
