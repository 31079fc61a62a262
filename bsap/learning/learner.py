"""Learners: which features of the frozen model are trained, and the scorer that compares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from bsap.errors import ConfigError
from bsap.learning.context import FrozenTower, LearnedPrompts
from bsap.scoring import Scorer, make_scorer
from bsap.scoring.registry import ScorerSpec


@dataclass(frozen=True)
class FrozenTexts:
    """The frozen text side.

    Attributes:
        tower: the text tower, for learned context.
        features: from texts with the template applied to (N, D) unit vectors, without gradients.
        templates: the query template of each of N members.
        bank_template: the auxiliary prompts' template.
        tau: the model's logit scale.
    """

    tower: FrozenTower
    features: Callable[[Sequence[str]], Tensor]
    templates: tuple[str, ...]
    bank_template: str
    tau: float

    def queries(self, texts: Sequence[str]) -> Tensor:
        """(N, E, D) features of E expressions for each member."""
        known = {form: self.features([form.format(text) for text in texts]) for form in set(self.templates)}
        return torch.stack([known[form] for form in self.templates])


class Learner(nn.Module):
    """Base of all learners: the features of the frozen model. Override what is trained.

    The parameters of a learner are trained and saved, nothing else.

    Args:
        texts: the frozen text side.
        scorer: ranks the regions.
    """

    def __init__(self, texts: FrozenTexts, scorer: ScorerSpec = "bsap") -> None:
        super().__init__()
        self.texts = texts
        self.ranking = make_scorer(scorer)
        if self.ranking.needs_region_bank:
            raise ConfigError(
                f"Scorer {scorer!r} needs regions of other pictures, which learning does not use. Choose bsap or "
                "bsap_h."
            )

    def bank(self) -> Tensor:
        """(K, D) features of the auxiliary prompts; K is 0 if the scorer needs no bank."""
        return torch.zeros(0, self.texts.tower.encoder.dim)

    def queries(self, texts: Sequence[str]) -> Tensor:
        """(N, E, D) features of E expressions, without template, for each of N members."""
        return self.texts.queries(texts)

    def regions(self, regions: Tensor) -> Tensor:
        """(B, N, R, D) features of regions."""
        return regions

    def scorer(self) -> Scorer:
        """The scorer; tau and lam may be tensors that are trained."""
        return self.ranking


class PromptBank(Learner):
    """Learned auxiliary prompts, and on request a learned tau and lam.

    Args:
        texts: the frozen text side.
        scorer: ranks the regions; must use a bank.
        prompts: the auxiliary prompts.
        learn_tau: whether tau is trained; it starts at the scorer's value, or at the model's.
        learn_lam: whether BSAP-H's lam is trained; it starts at the scorer's value.

    Raises:
        ConfigError: if the scorer uses no bank, or has no lam.
    """

    def __init__(
        self,
        texts: FrozenTexts,
        scorer: ScorerSpec,
        prompts: LearnedPrompts,
        *,
        learn_tau: bool = False,
        learn_lam: bool = False,
    ) -> None:
        super().__init__(texts, scorer)
        self.prompts = prompts
        ranking: Any = self.ranking
        if not ranking.needs_bank:
            raise ConfigError(f"Scorer {scorer!r} uses no bank, so there is nothing to learn. Choose bsap or bsap_h.")
        self.log_tau: nn.Parameter | None = None
        self.lam_logit: nn.Parameter | None = None
        if learn_tau:
            self.log_tau = nn.Parameter(torch.tensor(math.log(float(ranking.tau or texts.tau))))
        if learn_lam:
            if "lam" not in [field.name for field in fields(ranking)]:
                raise ConfigError(f"`learn_lam`: scorer {scorer!r} has no weight `lam`. Choose bsap_h.")
            self.lam_logit = nn.Parameter(torch.logit(torch.tensor(float(ranking.lam)), eps=1e-3))

    def bank(self) -> Tensor:
        """(K, D) unit vectors."""
        features: Tensor = self.prompts(self.texts.tower)
        return features

    def scorer(self) -> Scorer:
        """The scorer with the learned tau and lam."""
        learned: dict[str, Any] = {}
        if self.log_tau is not None:
            learned["tau"] = self.log_tau.exp()
        if self.lam_logit is not None:
            learned["lam"] = self.lam_logit.sigmoid()
        return replace(self.ranking, **learned) if learned else self.ranking
