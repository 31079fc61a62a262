"""Text features: every distinct text of a run is looked up or encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from bsap.features.cache import FeatureCache
from bsap.features.stored_model import Model
from bsap.models.precision import autocast


class TextCache:
    """The text features of one encoder, in memory, in the feature store, or from the text tower.

    In RefCOCO's val split 7,714 of 10,834 expressions are distinct, and a bank returns with every batch.

    Args:
        encoder: encodes the texts that are not known yet.
        precision: Lightning's name of the precision in which the text tower runs, whatever surrounds the call.
        cache: the feature store, or None.
    """

    def __init__(self, encoder: Model, *, precision: str = "32-true", cache: FeatureCache | None = None) -> None:
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
        self._add(texts, normalize)
        return self._tables[normalize].take(texts, self.encoder.dim, self.encoder.device)

    def prepare(self, texts: Sequence[str], *, normalize: bool = True) -> None:
        """Encode what :meth:`features` will be asked for, each text of all processes in one of them; all call it.

        Raises:
            SystemExit: another process could not encode its share.
        """
        self._add(texts, normalize, together=True)

    def _add(self, texts: Sequence[str], normalize: bool, *, together: bool = False) -> None:
        """Put the texts that are new into memory."""
        table = self._tables[normalize]
        new = [text for text in dict.fromkeys(texts) if text not in table.rows]
        if new or together:  # the other processes count on this one, even if it has no new text
            # Ordinary tensors even inside Lightning's inference mode: validation fills a cache that training reads.
            with torch.inference_mode(False), torch.no_grad(), autocast(self.precision, self.encoder.device):
                table.append(new, self._stored_or_encoded(new, normalize, together))

    def _stored_or_encoded(self, texts: Sequence[str], normalize: bool, together: bool) -> Tensor:
        encode: Callable[[Sequence[str]], Tensor] = partial(self.encoder.encode_text, normalize=normalize)
        if together:
            encode = partial(encode_together, encode=encode, encoder=self.encoder)
        if self.cache is None:
            return encode(texts)
        keys = [self.cache.text_key(text, self.encoder, normalize=normalize) for text in texts]
        found = [self.cache.store.get(key) for key in keys]
        todo = [index for index, feature in enumerate(found) if feature is None]
        if len(todo) < len(texts):
            # Tokenised all the same: a text that is cut at the context length is reported, stored or not.
            self.encoder.tokenize([text for text, feature in zip(texts, found, strict=True) if feature is not None])
        if todo or together:
            new = encode([texts[index] for index in todo])
            for index, feature in zip(todo, new.cpu(), strict=True):
                found[index] = feature
                self.cache.store.put(keys[index], feature)
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
    """N sentences ensembled with their N noun phrases, as Global-Local CLIP does.

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


def encode_together(texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], encoder: Model) -> Tensor:
    """(N, D) features of a process's N distinct texts, of which each process encodes a share; all call it.

    The encoder takes over which of its texts lost their end in other processes.

    Raises:
        SystemExit: on processes that encoded their share, if another one could not.
        Exception: what ``encode`` raised, after the others were told.
    """
    nothing = torch.zeros(0, encoder.dim, device=encoder.device)
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return encode(texts) if texts else nothing
    rank, world = dist.get_rank(), dist.get_world_size()
    # By length, so that shares take equally long.
    every = sorted({text for some in _from_all(list(texts)) for text in some}, key=lambda text: (len(text), text))
    if not every:
        return nothing
    longest = -(-len(every) // world)
    share, failure = nothing.new_zeros(longest, encoder.dim), None
    try:
        mine = every[rank::world]
        share[: len(mine)] = encode(mine)
    except Exception as error:
        failure = error
    states = _from_all((failure is None, encoder.truncated.intersection(every)))
    if failure is not None:
        raise failure
    if not all(good for good, _ in states):
        raise SystemExit(2)
    own = set(texts)
    encoder.truncated.update(text for _, some in states for text in some if text in own)
    shares = [torch.empty_like(share) for _ in range(world)]
    dist.all_gather(shares, share)
    place = {text: index for index, text in enumerate(every)}
    rows = torch.tensor([place[text] for text in texts], dtype=torch.long, device=encoder.device)
    return torch.stack(shares, dim=1).flatten(0, 1)[rows]


def _from_all(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
