"""One member of an ensemble: a model that looks at regions through one view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bsap.datamodules.scene import Expression
from bsap.features.stored_model import StoredModel
from bsap.features.texts import TextCache, text_features
from bsap.models.interface import DualEncoder, PairScorer
from bsap.prompts.phrases import Wording
from bsap.prompts.templates import Templates
from bsap.views import View


@dataclass(frozen=True, eq=False)
class Member:
    """One member of an ensemble: a model that looks at regions through one view.

    Attributes:
        encoder: the model.
        view: how it is shown a region.
        texts: the model's text features.
        templates: the sentences around queries and auxiliary prompts.
        wording: how expressions are put to the model.
    """

    encoder: DualEncoder | PairScorer | StoredModel
    view: View
    texts: TextCache
    templates: Templates
    wording: Wording

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"{self.encoder.label}/{self.view.name}"

    def queries(self, expressions: Sequence[Expression]) -> Tensor:
        """(N, D) features of N expressions."""
        sentences = [self.sentence(expression) for expression in expressions]
        if not self.wording.weight:
            return self.texts.features(sentences)
        phrases = [self.templates.query.format(self.wording.phrase(expression)) for expression in expressions]
        return text_features(self.texts, sentences, phrases, weight=1 - self.wording.weight)

    def sentence(self, expression: Expression) -> str:
        """What the text tower reads of an expression."""
        return self.templates.query.format(self.wording.sentence(expression))

    def prompts(self, texts: Sequence[str], template: str | None = None) -> Tensor:
        """(K, D) features of K auxiliary prompts; ``template`` is the bank's own."""
        return self.texts.features([(template or self.templates.bank).format(text) for text in texts])
