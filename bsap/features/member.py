"""One member of an ensemble: a model that looks at regions through one view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from bsap.datamodules.scene import Expression
from bsap.errors import ConfigError
from bsap.features.stored_model import Model
from bsap.features.texts import TextCache, text_features
from bsap.features.transforms import Fitted, Transform
from bsap.prompts.banks import Bank
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
        transform: what changes features before they are compared, or None.
        fitted: the transform with this model's statistics, from :meth:`fit`.

    Raises:
        ConfigError: the statistics are those of another model.
    """

    encoder: Model
    view: View
    texts: TextCache
    templates: Templates
    wording: Wording
    transform: Transform | None = None
    fitted: Fitted | None = None

    def __post_init__(self) -> None:
        if self.fitted is not None and self.fitted.model != self.encoder.weights_sha256:
            raise ConfigError(
                f"The transform {self.fitted.name!r} was fitted with another model's features, not with those of "
                f"{self.label!r}: its statistics mean nothing here. Fit it with this model."
            )

    @property
    def label(self) -> str:
        """Name for messages."""
        return "/".join([self.encoder.label, self.view.name, *([self.transform.name] if self.transform else [])])

    def queries(self, expressions: Sequence[Expression]) -> Tensor:
        """(N, D) features of N expressions."""
        sentences, phrases = self._query_texts(expressions)
        if not self.wording.weight:
            return self.texts.features(sentences)
        return text_features(self.texts, sentences, phrases, weight=1 - self.wording.weight)

    def cosines(self, texts: Tensor, regions: Tensor) -> Tensor:
        """Cosines of texts ``(..., K, D)`` with regions ``(..., R, D)``, or what the transform makes of them.

        Raises:
            ConfigError: the transform is not fitted.
        """
        if self.transform is not None:
            if self.fitted is None:
                raise ConfigError(
                    f"The transform {self.transform.name!r} has no statistics: call `Ensemble.fit` first."
                )
            regions, texts = self.fitted.apply(regions, texts)
        return texts @ regions.mT

    def fit(self, bank: Bank | None, region_bank: Tensor | None) -> Member:
        """The same member with its transform fitted to a bank and to (G, D) features of a region bank.

        Raises:
            ConfigError: the transform needs prompts that are the same for all pictures, or more prompts or regions.
        """
        if self.transform is None:
            return self
        texts = None
        if bank is not None and self.transform.needs_bank:
            if bank.per_scene or bank.of_query is not None:
                raise ConfigError(
                    f"The transform {self.transform.name!r} learns from prompts that are the same for all pictures, "
                    f"but those of the bank {bank.name!r} are not. Choose another bank."
                )
            texts = self.prompts(bank.prompts, bank.template) if bank.features is None else bank.features
        fitted = self.transform.fit(texts, region_bank, model=self.encoder.weights_sha256)
        return replace(self, fitted=fitted)

    def prepare(self, expressions: Sequence[Expression], prompts: Sequence[str], template: str | None) -> None:
        """Encode the texts of expressions and prompts together with the other processes, which call it too."""
        sentences, phrases = self._query_texts(expressions)
        bank = self.prompt_texts(prompts, template)
        if self.wording.weight:
            self.texts.prepare([*sentences, *phrases], normalize=False)
            sentences = []
        self.texts.prepare([*sentences, *bank])

    def _query_texts(self, expressions: Sequence[Expression]) -> tuple[list[str], list[str]]:
        sentences = [self.sentence(expression) for expression in expressions]
        if not self.wording.weight:
            return sentences, []
        return sentences, [self.templates.query.format(self.wording.phrase(expression)) for expression in expressions]

    def sentence(self, expression: Expression) -> str:
        """What the text tower reads of an expression."""
        return self.templates.query.format(self.wording.sentence(expression))

    def prompts(self, texts: Sequence[str], template: str | None = None) -> Tensor:
        """(K, D) features of K auxiliary prompts; ``template`` is the bank's own."""
        return self.texts.features(self.prompt_texts(texts, template))

    def prompt_texts(self, texts: Sequence[str], template: str | None) -> list[str]:
        """What the text tower reads of auxiliary prompts."""
        return [(template or self.templates.bank).format(text) for text in texts]
