"""Text features: every distinct text of a run is looked up or encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bsap.features.cache import CachedModel, FeatureCache
from bsap.features.shared_texts import encode_together
from bsap.models.precision import autocast


class TextEncoder(CachedModel, Protocol):
    """The text side of an encoder, such as :class:`bsap.models.interface.DualEncoder`."""

    @property
    def device(self) -> torch.device:
        """Where features are made."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of N texts; notes the texts that are longer than the context."""

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """(N, D) float32 features of N texts."""


class TextCache:
    """The text features of one encoder, in memory, in the feature store, or from the text tower.

    In RefCOCO's val split 7,714 of 10,834 expressions are distinct, and a bank returns with every batch.

    Args:
        encoder: encodes the texts that are not known yet.
        precision: Lightning's name of the precision in which the text tower runs, whatever surrounds the call.
        cache: the feature store, or None.
    """

    def __init__(self, encoder: TextEncoder, *, precision: str = "32-true", cache: FeatureCache | None = None) -> None:
        self.encoder, self.precision, self.cache = encoder, precision, cache
        self._tables = {True: _Table(), False: _Table()}

    def __len__(self) -> int:
        return sum(len(table.rows) for table in self._tables.values())

    def features(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """(N, D) float32 features of N texts, on the encoder's device.

        Args:
            texts: N sentences, templates already applied.
            normalize: unit vectors; otherwise the lengths that the text tower gives, for features that are summed.
        """
        table, device = self._tables[normalize], self.encoder.device
        self._add(texts, normalize, lambda new: self.encoder.encode_text(new, normalize=normalize))
        return table.take(texts, self.encoder.dim, device)

    def prepare(self, texts: Sequence[str], *, normalize: bool = True) -> None:
        """Encode the texts of all processes, each in one of them; to be called by all processes.

        Args:
            texts: sentences that :meth:`features` of this process will be asked for.
            normalize: as for :meth:`features`.

        Raises:
            SystemExit: another process could not encode its share.
        """
        encoder = self.encoder

        def together(new: Sequence[str]) -> Tensor:
            encode = partial(encoder.encode_text, normalize=normalize)
            return encode_together(new, encode, encoder.dim, encoder.device, encoder.truncated)

        self._add(texts, normalize, together, always=True)

    def _add(
        self, texts: Sequence[str], normalize: bool, encode: Callable[[Sequence[str]], Tensor], *, always: bool = False
    ) -> None:
        """Put the texts that are new into memory; ``always`` calls ``encode`` even for none."""
        table = self._tables[normalize]
        new = [text for text in dict.fromkeys(texts) if text not in table.rows]
        if new or always:
            # Ordinary tensors even inside Lightning's inference mode: validation fills a cache that training reads.
            with torch.inference_mode(False), torch.no_grad(), autocast(self.precision, self.encoder.device):
                table.append(new, self._stored_or(encode, new, normalize, always))

    def _stored_or(
        self, encode: Callable[[Sequence[str]], Tensor], texts: Sequence[str], normalize: bool, always: bool
    ) -> Tensor:
        if self.cache is None:
            return encode(texts)
        keys = [self.cache.text_key(text, self.encoder, normalize=normalize) for text in texts]
        found = [self.cache.get(key) for key in keys]
        todo = [index for index, feature in enumerate(found) if feature is None]
        if len(todo) < len(texts):
            # Tokenised all the same: a text that is cut at the context length is reported, stored or not.
            self.encoder.tokenize([text for text, feature in zip(texts, found, strict=True) if feature is not None])
        if todo or always:
            new = encode([texts[index] for index in todo])
            for index, feature in zip(todo, new.cpu(), strict=True):
                found[index] = feature
                self.cache.put(keys[index], feature)
            if len(todo) == len(found):
                return new
        return torch.stack([feature for feature in found if feature is not None]).to(self.encoder.device)


class _Table:
    """Rows of features by their text."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._features: Tensor | None = None

    def append(self, texts: Sequence[str], features: Tensor) -> None:
        # Room doubles, so that a split's texts are copied a few times, not once per batch.
        used, needed = len(self.rows), len(self.rows) + len(features)
        if self._features is None or needed > len(self._features):
            room = features.new_empty((max(2 * used, needed), features.shape[1]))
            if self._features is not None:
                room[:used] = self._features[:used].to(room.device)
            self._features = room
        self._features[used:needed] = features.to(self._features.device)
        self.rows.update({text: used + i for i, text in enumerate(texts)})

    def take(self, texts: Sequence[str], dim: int, device: torch.device) -> Tensor:
        if self._features is None:
            return torch.empty((0, dim), device=device)
        if self._features.device != device:
            self._features = self._features.to(device)
        rows = torch.tensor([self.rows[text] for text in texts], dtype=torch.long)
        return self._features[rows.to(device)]


def text_features(cache: TextCache, sentences: Sequence[str], phrases: Sequence[str], *, weight: float = 0.5) -> Tensor:
    """Sentences ensembled with their noun phrases, as Global-Local CLIP does.

    Args:
        cache: of the encoder.
        sentences: N sentences.
        phrases: N noun phrases, see :func:`bsap.prompts.phrases.phrase_of`.
        weight: of the sentence.

    Returns:
        (N, D) float32 unit vectors of weight * sentence + (1 - weight) * phrase.

    Raises:
        ValueError: another number of phrases than of sentences, or a weight outside [0, 1].

    Source: Yu, Seo, Son: Zero-shot Referring Image Segmentation with Global-Local Context Features, CVPR 2023.
    """
    if len(sentences) != len(phrases):
        raise ValueError(f"Expected argument `phrases` to be {len(sentences)} texts, but got {len(phrases)}.")
    if not 0 <= weight <= 1:
        raise ValueError(f"Expected argument `weight` to be in [0, 1], but got {weight}.")
    both = cache.features([*sentences, *phrases], normalize=False)
    return F.normalize(weight * both[: len(sentences)] + (1 - weight) * both[len(sentences) :], dim=-1)
