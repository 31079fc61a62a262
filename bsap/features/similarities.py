"""Cosines of regions with expressions and auxiliary prompts, padded over scenes: what scorers take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bsap.datamodules.scene import Expression, Scene
from bsap.features.regions import pad
from bsap.models.text import Templates, TextCache
from bsap.prompts.banks import Bank, bank_mask
from bsap.prompts.phrases import text_features
from bsap.views import View


@dataclass(frozen=True)
class PhraseSide:
    """Noun phrases of queries.

    Attributes:
        cache: texts to features with their own lengths, in which sentence and phrase are mixed.
        weight: of the phrase.
        of: an expression's noun phrase.
    """

    cache: TextCache
    weight: float
    of: Callable[[Expression], str]


@dataclass(frozen=True)
class TextSide:
    """The text side of one member of an ensemble.

    Attributes:
        features: texts, template applied, to (N, D) float32 unit vectors.
        templates: of query and bank.
        dim: D.
        tau: the model's logit scale.
        phrases: the noun phrases of queries, or None to leave them out.
    """

    features: Callable[[Sequence[str]], Tensor]
    templates: Templates
    dim: int
    tau: float
    phrases: PhraseSide | None = None

    def queries(self, expressions: Sequence[Expression]) -> Tensor:
        """(N, D) features of expressions."""
        sentences = [self.templates.query.format(expression.text) for expression in expressions]
        if self.phrases is None:
            return self.features(sentences)
        phrases = [self.templates.query.format(self.phrases.of(expression)) for expression in expressions]
        return text_features(self.phrases.cache, sentences, phrases, weight=1 - self.phrases.weight)

    def prompts(self, texts: Sequence[str]) -> Tensor:
        """(K, D) features of auxiliary prompts."""
        return self.features([self.templates.bank.format(text) for text in texts])


def member_templates(view: View, templates: Templates) -> Templates:
    """A view that draws on the picture may speak of what it drew; its template then serves query and bank."""
    return templates if view.template is None else Templates(view.template, view.template)


def query_similarities(scenes: Sequence[Scene], regions: Sequence[Tensor], sides: Sequence[TextSide]) -> Tensor:
    """Cosines of all expressions with all regions of their scene.

    Args:
        scenes: B scenes with at least one expression among them.
        regions: for each of N members (B, R, D) region features, zero in the padding.
        sides: the members' text sides.

    Returns:
        (B, N, E, R) float32.
    """
    counts = [len(scene.expressions) for scene in scenes]
    expressions = [expression for scene in scenes for expression in scene.expressions]
    rows = [pad(side.queries(expressions), counts)[0] for side in sides]
    return torch.stack([row @ flat.mT for row, flat in zip(rows, regions, strict=True)], dim=1)


def bank_similarities(
    scenes: Sequence[Scene], regions: Sequence[Tensor], sides: Sequence[TextSide], bank: Bank | None
) -> Tensor:
    """Cosines of all auxiliary prompts with all regions.

    Args:
        scenes: B scenes; a bank of the scene takes its prompts from their ``texts``.
        regions: for each of N members (B, R, D) region features.
        sides: the members' text sides.
        bank: the auxiliary prompts, or None.

    Returns:
        (B, N, K, R) float32; K is 0 without a bank.
    """
    found = []
    for flat, side in zip(regions, sides, strict=True):
        if bank is None:
            prompts = flat.new_zeros(0, side.dim)
        elif bank.features is not None:
            prompts = bank.features.to(flat)
        elif bank.per_scene:
            texts = [text for scene in scenes for text in scene.texts]
            prompts, _ = pad(side.prompts(texts), [len(scene.texts) for scene in scenes])
        else:
            prompts = side.prompts(bank.prompts)
        found.append(prompts @ flat.mT)
    return torch.stack(found, dim=1)


def scene_bank_mask(scenes: Sequence[Scene], bank: Bank | None) -> Tensor | None:
    """Which prompts count for which expression, on the CPU.

    An expression is never an auxiliary prompt of itself: a bank drawn from the expressions under test leaves out the
    texts equal to the query. A bank that saw no test text needs no mask.

    Returns:
        (B, E, K) bool, or None where all prompts count.
    """
    if bank is None or not bank.transductive:
        return None
    most = max(len(scene.expressions) for scene in scenes)
    longest = max(len(scene.texts) for scene in scenes) if bank.per_scene else len(bank.prompts)
    mask = torch.zeros(len(scenes), most, longest, dtype=torch.bool)
    for index, scene in enumerate(scenes):
        prompts = scene.texts if bank.per_scene else bank.prompts
        queries = [expression.text for expression in scene.expressions]
        mask[index, : len(queries), : len(prompts)] = bank_mask(queries, prompts)
    return mask
