"""The meaning of auxiliary prompts: words near their context, expressions near their features, and what they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from bsap.datamodules.files import expanded
from bsap.errors import ConfigError
from bsap.learning.context import FrozenTower
from bsap.prompts.banks import LEARNED, Bank
from bsap.scoring import BSAP, CLIP, Scorer, Similarities
from bsap.scoring.functional import clip_logits
from bsap.sweep.stored_split import StoredSplit


@dataclass(frozen=True)
class PromptMeaning:
    """One auxiliary prompt.

    Attributes:
        prompt: its text, or ``#k`` for a learned one.
        words: for each learned context vector the nearest words of the vocabulary.
        expressions: the nearest expressions of the split with their cosines.
        explains: share of the expressions for which the scorer does not take CLIP's choice, and this is the prompt that
            fits CLIP's choice best.
        fixed: share of the expressions for which that turned a miss into a hit.
        broken: share of the expressions for which that turned a hit into a miss.
    """

    prompt: str
    words: tuple[tuple[str, ...], ...]
    expressions: tuple[tuple[str, float], ...]
    explains: float
    fixed: float
    broken: float


def explain(
    split: StoredSplit,
    bank: Bank,
    *,
    scorer: Scorer = BSAP(),  # noqa: B008 - frozen
    file: Path | None = None,
    tower: FrozenTower | None = None,
    nearest: int = 3,
) -> list[PromptMeaning]:
    """Every prompt of a bank, the one that changes most choices first.

    Args:
        split: the expressions and their regions.
        bank: prompts that are the same for all expressions.
        scorer: the scorer; for a learned bank :func:`~bsap.prompts.learned.learned_scorer`.
        file: the tensors of a learned bank, to find words near its context.
        tower: the model's text tower, to find words near the context.
        nearest: number of words and expressions to list.

    Raises:
        ConfigError: for a bank whose prompts differ between expressions.
    """
    if bank.per_scene or bank.transductive or bank.of_query is not None:
        raise ConfigError(f"Bank {bank.name!r} differs from expression to expression. Choose another bank.")
    member = split.ensemble.members[0]
    features = member.prompts(bank.prompts, bank.template) if bank.features is None else bank.features
    names = bank.prompts or tuple(f"#{index}" for index in range(len(features)))
    words = nearest_words(file, tower, nearest)
    texts = list(dict.fromkeys(e.text for part in split.parts for scene in part.scenes for e in scene.expressions))
    rows = member.texts.features([member.templates.query.format(text) for text in texts])
    cosines = F.normalize(features, dim=-1) @ rows.T
    best = cosines.topk(min(nearest, len(texts)), dim=1)
    counts: dict[str, Counter[int]] = {name: Counter() for name in ("explains", "fixed", "broken")}
    total = 0
    for part, similarities in split.similarities(bank):
        total += int(part.real.sum())
        if not part.valid.shape[-1]:
            continue
        hits = part.iou >= 0.5
        moved, prompt, before, after = explained_away(similarities, scorer)
        moved &= part.real & part.valid.any(-1, keepdim=True)
        was, is_ = (hits.gather(-1, choice[..., None])[..., 0] for choice in (before, after))
        for name, chosen in (("explains", moved), ("fixed", moved & ~was & is_), ("broken", moved & was & ~is_)):
            counts[name].update(prompt[chosen].tolist())
    meanings = [
        PromptMeaning(
            prompt=name,
            words=words[k] if words else (),
            expressions=tuple(
                (texts[int(i)], float(value)) for value, i in zip(best.values[k], best.indices[k], strict=True)
            ),
            **{key: count[k] / max(total, 1) for key, count in counts.items()},
        )
        for k, name in enumerate(names)
    ]
    return sorted(meanings, key=lambda meaning: -meaning.explains)


def explained_away(
    similarities: Similarities,
    scorer: Scorer = BSAP(),  # noqa: B008 - frozen
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each expression, whether a scorer does not take CLIP's choice, and which prompt fits CLIP's choice best.

    Args:
        similarities: of a padded batch of scenes, without a bank mask.
        scorer: the scorer.

    Returns:
        Four tensors (B, E): moved (bool), the prompt with the highest logit at CLIP's choice, CLIP's choice, the
        scorer's.
    """
    clip = CLIP()(replace(similarities, bank_mask=None)).choice
    chosen = scorer(similarities).choice
    logits = clip_logits(similarities.bank, similarities.tau)
    loudest = logits.argmax(-2)
    return clip != chosen, loudest.gather(-1, clip), clip, chosen


def nearest_words(file: Path | None, tower: FrozenTower | None, count: int) -> list[tuple[tuple[str, ...], ...]]:
    """For each prompt and each of its context vectors the words with the most similar token embeddings.

    Empty for banks of texts, and if the tokenizer has no table of its words.
    """
    decoder = None if tower is None else getattr(tower.encoder.tokenizer, "decoder", None)
    if tower is None or decoder is None or file is None:
        return []
    tensors = load_file(file)
    if "context" not in tensors:
        return []
    context, lengths = tensors["context"], tensors.get("lengths")
    whole = lengths is not None and lengths.dtype == torch.int64 and lengths.shape == context.shape[:1]
    if context.shape[2:] != (tower.width,) or lengths is None or not whole or bool((lengths < 0).any()):
        raise ConfigError(
            f"Learned bank {file}: expected `context` of shape (K, n, {tower.width}) and `lengths` of shape (K,), but "
            f"got {tuple(context.shape)} and {None if lengths is None else tuple(lengths.shape)}. Learn the bank again."
        )
    known = tower.vocabulary.any(dim=1)
    known[tower.encoder.tokenize([""])[0].to(known.device)] = False  # start, end and padding are no words
    seen = known.nonzero()[:, 0]
    vocabulary = F.normalize(tower.vocabulary[seen].float().cpu(), dim=-1)
    found = []
    for rows, length in zip(context, lengths.tolist(), strict=True):
        indices = (F.normalize(rows[:length], dim=-1) @ vocabulary.T).topk(min(count, len(seen)), dim=1).indices
        found.append(tuple(tuple(_word(decoder[int(seen[i])]) for i in row) for row in indices))
    return found


def _word(token: str) -> str:
    """A token without its end mark."""
    return token.replace("</w>", "")


def learned_file(spec: str) -> Path | None:
    """The tensors of a ``learned:`` bank, None for another bank."""
    if not spec.startswith(LEARNED):
        return None
    path = expanded(spec.removeprefix(LEARNED))
    return path / "bank.safetensors" if path.is_dir() else path


def rows_of(meanings: Sequence[PromptMeaning]) -> list[tuple[str, str, str, float, float, float]]:
    """Rows for a terminal: prompt, the nearest word of each vector, two expressions, the three shares."""
    return [
        (
            meaning.prompt,
            " ".join(words[0] for words in meaning.words if words),
            "\n".join(f"{value:.2f} {text}" for text, value in meaning.expressions[:2]),
            meaning.explains,
            meaning.fixed,
            meaning.broken,
        )
        for meaning in meanings
    ]
