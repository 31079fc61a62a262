"""Scores of models that read a region and a text together: every pair is looked up or scored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError
from bsap.features.bank_texts import bank_texts, nested
from bsap.features.cache import FeatureCache
from bsap.features.member import Member
from bsap.features.regions import region_features
from bsap.features.store import make_key
from bsap.models.interface import PairScorer
from bsap.models.precision import autocast, not_finite
from bsap.prompts.banks import Bank
from bsap.views import View
from bsap.views.packing import pack_size


def pair_scores(
    batch: SceneBatch,
    texts: Sequence[Sequence[str]],
    encoder: PairScorer,
    view: View,
    *,
    resize: str = "squash",
    pack: int | None = None,
    precision: str = "32-true",
    cache: FeatureCache | None = None,
) -> list[Tensor]:
    """Score all regions of each scene with texts.

    Pairs of all scenes are scored in common packs. A picture whose pairs are all stored is neither opened nor encoded.
    ``texts`` are the T texts of each scene, templates already applied; T may differ from scene to scene. ``pack`` is
    the most regions or pairs that are computed at once. The options are those of an ensemble.

    Returns:
        For each scene (T, R) float32 log-odds.

    Raises:
        ModelError: a score is not finite.
    """
    device = batch.boxes.device
    known: dict[tuple[int, str], Tensor] = {}
    keys: dict[tuple[int, str], str] = {}
    if cache is not None:
        for index, scene in enumerate(batch.scenes):
            regions = cache.region_key(scene, encoder, view, pack_size(encoder, pack))
            for text in dict.fromkeys(texts[index]):
                keys[index, text] = make_key(pair=regions, text=text)
                if (found := cache.store.get(keys[index, text])) is not None:
                    known[index, text] = found.to(device)
    missing = [[text for text in dict.fromkeys(some) if (n, text) not in known] for n, some in enumerate(texts)]
    todo = [index for index, some in enumerate(missing) if some and len(batch.scenes[index].proposals)]
    if every := list(dict.fromkeys(text for some in texts for text in some)):
        encoder.tokenize(every)  # a text that is cut at the context length is reported, stored or not
    if todo:
        rest = batch.select(todo).with_pictures()
        with torch.no_grad(), autocast(precision, device):
            states = region_features(rest, encoder, view, resize=resize, pack=pack)
            scores = _all_pairs(states, rest.counts, [missing[index] for index in todo], encoder, pack)
        for index, rows in zip(todo, scores, strict=True):
            for text, row in zip(missing[index], rows, strict=True):
                known[index, text] = row
                if cache is not None:
                    cache.store.put(keys[index, text], row.cpu())
    return [
        torch.stack([known[index, text] for text in some])
        if some and count
        else torch.zeros(len(some), count, device=device)
        for index, (some, count) in enumerate(zip(texts, batch.counts, strict=True))
    ]


def pair_similarities(batch: SceneBatch, bank: Bank | None, member: Member, **options: Any) -> tuple[Tensor, Tensor]:
    """Scores of a batch's expressions and of the auxiliary prompts, as an ensemble joins them.

    The options are those of :func:`pair_scores`.

    Returns:
        (B, E, R) and (B, K, R) float32, with zeros in the padding; (B, E, K, R) for a bank of the query.

    Raises:
        ConfigError: the bank holds features.
        ModelError: a score is not finite.
    """
    encoder = member.encoder
    assert isinstance(encoder, PairScorer)
    if bank is not None and bank.features is not None:
        raise ConfigError(
            f"Bank {bank.name!r} holds learned features, and model {encoder.label!r} scores pairs of regions and "
            "texts. Use a bank of texts."
        )
    queries = [[member.sentence(expression) for expression in scene.expressions] for scene in batch.scenes]
    lists = [bank_texts(scene, bank) for scene in batch.scenes]
    template = None if bank is None else bank.template
    banks = [member.prompt_texts([text for texts in some for text in texts], template) for some in lists]
    texts = [[*q, *b] for q, b in zip(queries, banks, strict=True)]
    scores = pair_scores(batch, texts, encoder, member.view, **options)
    split = [row.split([len(q), len(b)]) for row, q, b in zip(scores, queries, banks, strict=True)]
    found, prompts = _padded([rows for rows, _ in split]), [rows for _, rows in split]
    if bank is None or bank.of_query is None:
        return found, _padded(prompts)
    flat = torch.cat([F.pad(rows, (0, found.shape[-1] - rows.shape[1])) for rows in prompts])
    return found, nested(flat, [[len(texts) for texts in some] for some in lists])


def count_pairs(scenes: Sequence[Scene], bank: Bank | None) -> int:
    """The number of pairs of regions and texts of a run for one model and view, repeated texts included."""
    return sum(
        len(scene.proposals) * (len(scene.expressions) + sum(map(len, bank_texts(scene, bank)))) for scene in scenes
    )


def _all_pairs(
    states: Tensor, counts: Sequence[int], texts: Sequence[Sequence[str]], encoder: PairScorer, pack: int | None
) -> list[Tensor]:
    """(T, R) for each scene, from the states of all regions, scene after scene."""
    rows: list[int] = []
    sentences: list[str] = []
    start = 0
    for count, some in zip(counts, texts, strict=True):
        rows += [start + region for _ in some for region in range(count)]
        sentences += [text for text in some for _ in range(count)]
        start += count
    size = pack_size(encoder, pack)
    scores = [
        encoder.score(states[torch.tensor(rows[at : at + size], device=states.device)], sentences[at : at + size])
        for at in range(0, len(rows), size)
    ]
    joined = torch.cat(scores)
    if not bool(joined.isfinite().all()):
        raise not_finite(encoder.label, "scores")
    parts = joined.split([len(some) * count for count, some in zip(counts, texts, strict=True)])
    return [part.view(len(some), -1) for part, some in zip(parts, texts, strict=True)]


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Stack (T, R) of each scene to (B, max T, max R), with zeros in the padding."""
    most, widest = (max((part.shape[dim] for part in rows), default=0) for dim in (0, 1))
    return torch.stack([F.pad(part, (0, widest - part.shape[1], 0, most - part.shape[0])) for part in rows])
