"""The text towers of open_clip, run from token embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bsap.errors import ModelError


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
        """(N, L, W) token embeddings, without positions, of (N, L) token ids."""
        return cast("Tensor", cast("nn.Module", self.module.token_embedding)(tokens))

    def positions(self, tokens: Tensor) -> Tensor:
        """(N,) the position whose output is a sentence's feature, of (N, L) token ids."""
        if self.pool == "argmax":
            return tokens.argmax(dim=1)
        if self.pool == "eos":
            return (tokens == self.eos).int().argmax(dim=1)
        return torch.full((len(tokens),), 0 if self.pool == "first" else tokens.shape[1] - 1, device=tokens.device)


def text_tower(model: nn.Module) -> TextTower | None:
    """The text tower of an open_clip model, or None where it is not one that :func:`run_text_tower` can run."""
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
