"""Sentences to features: templates, the text tower from token embeddings, and each distinct text encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from bsap.errors import ConfigError, ModelError
from bsap.models.precision import autocast


@dataclass(frozen=True)
class Templates:
    """The sentences that queries and auxiliary prompts are put into.

    Args:
        query: template of the expressions, with exactly one ``{}``.
        bank: template of the auxiliary prompts, with exactly one ``{}``.

    Raises:
        ConfigError: a template without exactly one ``{}``.

    Example:
        >>> Templates(bank="{}").query.format("the left dog")
        'a photo of the left dog'
    """

    query: str = "a photo of {}"
    bank: str = "a photo of {}"

    def __post_init__(self) -> None:
        for name, template in (("query", self.query), ("bank", self.bank)):
            rest = template.replace("{}", "", 1)
            if rest == template or "{" in rest or "}" in rest:
                raise ConfigError(f"Template `{name}` must hold exactly one {{}} and no other brace, got {template!r}.")


@dataclass(frozen=True)
class Phrases:
    """Queries ensembled with their noun phrases, as Global-Local CLIP does (see :mod:`bsap.prompts.phrases`).

    Args:
        weight: of the noun phrase; 0 leaves phrases out, 0.5 is published.
        parser: the spaCy pipeline for expressions whose data file gives no phrase, for example ``en_core_web_lg``.

    Raises:
        ConfigError: a weight outside [0, 1].
    """

    weight: float = 0.0
    parser: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"`phrases.weight` must be in [0, 1], but got {self.weight}.")


@dataclass(frozen=True)
class TextTower:
    """The parts of an open_clip text transformer, wherever the model keeps them.

    Attributes:
        module: what holds ``token_embedding``, ``transformer``, ``ln_final`` and the rest.
        pool: how a sentence's feature is taken: ``argmax``, ``eos``, ``first`` or ``last``.
        eos: the end token's id, for ``eos``.
    """

    module: nn.Module
    pool: str
    eos: int

    @property
    def mask(self) -> Tensor | None:
        """(C, C) additive causal mask, or None where every token sees all others."""
        return cast("Tensor | None", self.module.attn_mask)

    @property
    def trimmable(self) -> bool:
        """Whether tokens behind the end token cannot change the result, so that they need not be run.

        They cannot if no token sees a later one and the feature is taken at the end token. SigLIP, CLIPA and MobileCLIP
        see all tokens.
        """
        return self.mask is not None and self.pool in ("argmax", "eos")

    def embed(self, tokens: Tensor) -> Tensor:
        """(N, L, W) token embeddings, without positions.

        Args:
            tokens: (N, L) token ids.
        """
        embeddings: Tensor = self.module.token_embedding(tokens)  # type: ignore[operator]
        return embeddings

    def positions(self, tokens: Tensor) -> Tensor:
        """(N,) the position whose output is a sentence's feature.

        Args:
            tokens: (N, L) token ids.
        """
        if self.pool == "argmax":
            return tokens.argmax(dim=1)
        if self.pool == "eos":
            return (tokens == self.eos).int().argmax(dim=1)
        return torch.full((len(tokens),), 0 if self.pool == "first" else tokens.shape[1] - 1, device=tokens.device)


def text_tower(model: nn.Module) -> TextTower | None:
    """The text tower of an open_clip model, or None where it is not one that :func:`run_text_tower` can run.

    Args:
        model: CLIP, CustomTextCLIP or CoCa.
    """
    from open_clip.transformer import TextTransformer

    text = getattr(model, "text", None)
    if text is None:
        tower = TextTower(model, getattr(model, "text_pool_type", "argmax"), int(getattr(model, "text_eos_id", 2)))
    elif not isinstance(text, TextTransformer) or text.cls_emb is not None or text.use_pad_mask:
        return None  # Hugging Face towers; CoCa's class token stands behind all positions and masks the padding
    else:
        tower = TextTower(text, text.pool_type, int(getattr(text, "eos_id", 2)))
    return tower if tower.pool in ("argmax", "eos", "first", "last") else None


def run_text_tower(model: nn.Module, embeddings: Tensor, eot: Tensor) -> Tensor:
    """Run a text tower from token embeddings: the path of written sentences and of learned prompts alike.

    The causal mask and the position embeddings are cropped to L, which leaves the features unchanged. Gradients flow
    to ``embeddings`` through the frozen tower.

    Args:
        model: an open_clip CLIP or CustomTextCLIP.
        embeddings: (N, L, W) token embeddings without positions, L at most the context length C.
        eot: (N,) long, the position of each end token, whose output is the sentence's feature.

    Returns:
        (N, D) features, not normalised.

    Raises:
        ModelError: a text tower of another kind (CoCa, Hugging Face).
        ValueError: L does not fit the tower.
    """
    tower = text_tower(model)
    if tower is None:
        raise ModelError(
            "This model's text tower cannot run from token embeddings: only open_clip's own text transformers without "
            "an appended class token can (not CoCa, not Hugging Face towers)."
        )
    text: Any = tower.module
    length, context = embeddings.shape[1], len(text.positional_embedding)
    if length > context or (tower.mask is None and length != context):
        wanted = f"at most {context}" if tower.mask is not None else f"exactly {context} (not causal)"
        raise ValueError(f"Expected argument `embeddings` to be {wanted} tokens long, but got {length}.")
    x = (embeddings + text.positional_embedding[:length]).to(text.transformer.get_cast_dtype())
    mask = None if tower.mask is None else tower.mask[:length, :length]
    x = text.transformer(x, attn_mask=mask)
    x = text.ln_final(x[torch.arange(len(x), device=x.device), eot.to(x.device)])
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return cast("Tensor", x)


class TextEncoder(Protocol):
    """What a cache needs of an encoder."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def device(self) -> torch.device:
        """Where features are wanted."""

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """(N, D) features of N texts."""


class TextCache:
    """Encodes each distinct text once and keeps its feature.

    In RefCOCO's val split 7,714 of 10,834 expressions are distinct, and a bank returns with every batch.

    Args:
        encoder: what has ``encode_text(texts) -> (N, D)``, ``device`` and ``dim``.
        normalize: keep unit vectors; otherwise the tower's own lengths, for features that are summed first.
        precision: the encoders', in which the text tower runs whatever surrounds the call.
    """

    def __init__(self, encoder: TextEncoder, *, normalize: bool = True, precision: str = "32-true") -> None:
        self.encoder = encoder
        self.normalize, self.precision = normalize, precision
        self._rows: dict[str, int] = {}
        self._features: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def features(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 features of N texts, on the encoder's device.

        Args:
            texts: N sentences, templates already applied.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            # Ordinary tensors even inside Lightning's inference mode: validation fills a cache that training reads.
            with torch.inference_mode(False), torch.no_grad(), autocast(self.precision, self.encoder.device):
                self._append(self.encoder.encode_text(new, normalize=self.normalize))
            self._rows.update({text: len(self._rows) + i for i, text in enumerate(new)})
        if self._features is None:
            return torch.empty((0, self.encoder.dim), device=self.encoder.device)
        if self._features.device != self.encoder.device:
            self._features = self._features.to(self.encoder.device)
        rows = torch.tensor([self._rows[text] for text in texts], dtype=torch.long)
        return self._features[rows.to(self._features.device)]

    def _append(self, features: Tensor) -> None:
        # Room doubles, so that a split's texts are copied a few times, not once per batch.
        used, needed = len(self._rows), len(self._rows) + len(features)
        if self._features is None or needed > len(self._features):
            room = features.new_empty((max(2 * used, needed), features.shape[1]))
            if self._features is not None:
                room[:used] = self._features[:used].to(room.device)
            self._features = room
        self._features[used:needed] = features.to(self._features.device)
