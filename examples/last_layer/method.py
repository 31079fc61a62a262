"""TLDR (arXiv 2311.18291): a last layer retrained on texts, projected into the classifier's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from bsap.errors import ConfigError, DataError
from bsap.learning.projector import gap_projector
from bsap.models.encoder import Encoder
from bsap.models.text import text_tower

TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class Words:
    """Words for the classes and for the spurious attribute: each name with the words for it, the name itself first."""

    classes: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> Words:
        """Read a YAML file with the keys ``classes`` and ``attributes``; another form is a ConfigError."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            parts = [
                {str(name): tuple(dict.fromkeys(map(str, [name, *words]))) for name, words in part.items()}
                for part in (content["classes"], content["attributes"])
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path}: expected `classes` and `attributes`, lists of words by name: {error}"
            ) from error
        if min(map(len, parts)) < 2:
            raise ConfigError(f"{path}: needs at least two classes and two attributes.")
        return cls(*parts)

    def check(self, encoder: Encoder) -> None:
        """Raise a ConfigError for words that the model never saw in training, with token embeddings of zero."""
        tower = text_tower(encoder.model)
        if tower is None:
            return
        words = sorted({word for part in (self.classes, self.attributes) for ws in part.values() for word in ws})
        tokens = encoder.tokenize(words)
        seen = tower.embed(tokens).any(-1).cpu() | torch.isin(tokens, encoder.tokenize([""]))
        unknown = [word for word, row in zip(words, seen, strict=True) if not bool(row.all())]
        if unknown:
            raise ConfigError(f"Words outside the vocabulary of {encoder.label!r}: {', '.join(unknown)}. Remove them.")


@dataclass(frozen=True)
class Prompts:
    """P texts, the class word of each, and their (P,) classes and attributes."""

    texts: list[str]
    words: list[str]
    labels: Tensor
    attributes: Tensor

    @classmethod
    def of(cls, words: Words, dropped: Sequence[str] = ()) -> Prompts:
        """Every word for a class with every word for an attribute, without the dropped words."""
        rows = [
            (word, colour, label, attribute)
            for (label, ws), (attribute, cs) in product(
                enumerate(words.classes.values()), enumerate(words.attributes.values())
            )
            for word, colour in product(ws, cs)
            if word not in dropped and colour not in dropped
        ]
        return cls(
            texts=[TEMPLATE.format(f"{colour} {word}") for word, colour, *_ in rows],
            words=[row[0] for row in rows],
            labels=torch.tensor([row[2] for row in rows]),
            attributes=torch.tensor([row[3] for row in rows]),
        )


@dataclass(frozen=True)
class Projection:
    """A linear map from CLIP's space into the classifier's feature space: weight (F, D), bias (F,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(N, F) of (N, D)."""
        return x @ self.weight.T + self.bias

    @classmethod
    def fit(
        cls, images: Tensor, features: Tensor, texts: Tensor, *, ignore_gap: bool = True, ridge: float = 1e-2
    ) -> Projection:
        """The ridge regression of (N, F) features of unlabelled pictures on their (N, D) CLIP features, in closed form.

        With ``ignore_gap``, :func:`bsap.learning.projector.gap_projector` first removes the modality gap, the mean
        picture minus the mean of the (M, D) texts. ``ridge`` is the weight of the squared norm per picture.
        """
        n, d = images.shape
        if n < d:
            raise DataError(f"The projection from {d} dimensions needs at least {d} pictures, but there are {n}.")
        x, h, t = images.double(), features.double(), texts.double()
        keep = gap_projector(t, x.mean(0) - t.mean(0), mu=1e6) if ignore_gap else torch.eye(d, dtype=x.dtype)
        rows = (x - x.mean(0)) @ keep.T
        gram = rows.T @ rows + ridge * n / d * torch.eye(d, dtype=x.dtype)
        weight = torch.linalg.solve(gram, rows.T @ (h - h.mean(0))).T @ keep
        return cls(weight.float(), (h.mean(0) - weight @ x.mean(0)).float())


def fit_layer(
    x: Tensor, labels: Tensor, groups: Tensor | None = None, *, classes: int, decay: float = 1e-3
) -> nn.Linear:
    """Logistic regression of (N,) labels on (N, F) features, by L-BFGS; all groups get the same total weight."""
    groups = torch.zeros_like(labels) if groups is None else groups
    counts = groups.bincount()
    weights = 1.0 / (counts[groups] * (counts > 0).sum())
    mean, scale = x.mean(0), x.std(0).mean().clamp(min=1e-6)
    rows = (x - mean) / scale
    layer = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(layer(rows), labels, reduction="none")
        total = (weights * losses).sum() + decay * layer.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():  # the layer for features as they are
        layer.weight /= scale
        layer.bias -= layer.weight @ mean
    return layer.requires_grad_(False)


def unfit_words(words: Words, encoder: Encoder, projection: Projection, layer: nn.Linear) -> dict[str, str]:
    """Words that CLIP takes for another name, or whose projected prompts the classifier takes for another class.

    A name itself is always kept.
    """
    found: dict[str, str] = {}
    for part in (words.classes, words.attributes):
        names = list(part)
        targets = encoder.encode_text([TEMPLATE.format(name) for name in names])
        for index, name in enumerate(names):
            for word in part[name][1:]:
                choice = int((encoder.encode_text([TEMPLATE.format(word)]) @ targets.T).argmax())
                if choice != index:
                    found[word] = f"CLIP takes {word!r} for {names[choice]!r}, not {name!r}"
    prompts = Prompts.of(words)
    decisions = layer(projection(encoder.encode_text(prompts.texts)))
    for index, name in enumerate(words.classes):
        for word in words.classes[name][1:]:
            rows = [n for n, w in enumerate(prompts.words) if w == word and int(prompts.labels[n]) == index]
            choice = int(decisions[rows].mean(0).argmax())
            if choice != index and word not in found:
                found[word] = f"the classifier takes {word!r} for {list(words.classes)[choice]!r}, not {name!r}"
    return found


def group_accuracy(layer: nn.Linear, x: Tensor, labels: Tensor, groups: Tensor) -> tuple[float, float]:
    """Mean accuracy and the accuracy of the worst group."""
    hits = (layer(x).argmax(-1) == labels).double()
    by_group = [float(hits[groups == group].mean()) for group in groups.unique()]
    return float(hits.mean()), min(by_group)
