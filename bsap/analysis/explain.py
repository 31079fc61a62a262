"""The meaning of auxiliary prompts: expressions near their features, and which choices of CLIP they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bsap.errors import ConfigError
from bsap.prompts.banks import Bank, check_learned_bank, load_bank
from bsap.prompts.learned import is_known, learned_scorer
from bsap.runs.saved import SavedRun
from bsap.scoring import BSAP, CLIP, AnswerRule, Scorer, Similarities
from bsap.scoring.functional import clip_logits
from bsap.sweep.stored_split import StoredSplit
from bsap.sweep.sweep import Sweep


@dataclass(frozen=True)
class PromptMeaning:
    """One auxiliary prompt. The shares are of all expressions."""

    prompt: str  # its text, or `#k` for a learned one
    words: tuple[tuple[str, ...], ...]  # for each learned context vector the nearest words of the vocabulary
    expressions: tuple[tuple[str, float], ...]  # the nearest ones of the split with their cosines
    explains: float  # the scorer does not take CLIP's choice, and this is the prompt that fits CLIP's choice best
    fixed: float  # that turned a miss into a hit
    broken: float  # that turned a hit into a miss


def stored_features(run: SavedRun) -> Sweep:
    """The stored features of a finished run, of whole sentences, whether its answers are single regions or sets.

    Raises:
        DataError: if features are missing; says how to make them.
        ConfigError: if the run kept none.
    """
    return Sweep(run, sets=AnswerRule.of(run.settings["model"].get("answer", "top")).several, relations=False)


def bank_and_scorer(sweep: Sweep, spec: str) -> tuple[Bank, Any]:
    """A bank for a run's data and models, and the scorer that it is explained by: BSAP, or what it was learned with.

    Both are given as a configuration names them.

    Raises:
        ConfigError: for a bank of other models, or one learned with a scorer that bsap does not know.
    """
    bank = load_bank(spec, split_texts=sweep.data.texts, seed=sweep.settings["model"]["bank_seed"])
    check_learned_bank(bank, sweep.models)
    sweep.fit({}, bank)
    scorer = "bsap" if bank.features is None else learned_scorer(bank.meta)
    if not is_known(scorer):
        raise ConfigError(
            f"Bank {bank.name!r} was learned with the scorer {scorer!r}, whose module is not imported on behalf of a "
            "file. Call bsap.analysis.explain.explain from Python."
        )
    return bank, scorer


def explain(
    split: StoredSplit,
    bank: Bank,
    *,
    scorer: Scorer = BSAP(),  # noqa: B008 - frozen
    words: Sequence[tuple[tuple[str, ...], ...]] = (),
    nearest: int = 3,
) -> list[PromptMeaning]:
    """Every prompt of a bank with its ``nearest`` expressions of a split, the one that changes most choices first.

    The scorer of a learned bank is its :func:`~bsap.prompts.learned.learned_scorer`, and ``words`` are the words near
    the context vectors of each of its prompts, see :func:`bsap.learning.words.nearest_words`.

    Raises:
        ConfigError: for a bank whose prompts differ between expressions, and for answers that are sets.
    """
    if bank.per_scene or bank.transductive or bank.of_query is not None:
        raise ConfigError(f"Bank {bank.name!r} differs from expression to expression. Choose another bank.")
    if split.sets:
        raise ConfigError("The run answers with sets. What prompts explain away is known for single answers only.")
    member = split.ensemble.members[0]
    features = member.prompts(bank.prompts, bank.template) if bank.features is None else bank.features
    names = bank.prompts or tuple(f"#{index}" for index in range(len(features)))
    texts = list(dict.fromkeys(e.text for part in split.parts for scene in part.scenes for e in scene.expressions))
    rows = member.texts.features([member.templates.query.format(text) for text in texts])
    cosines = F.normalize(features, dim=-1) @ rows.T
    best = cosines.argsort(dim=1, descending=True, stable=True)[:, :nearest]  # `topk` does not say which of equals
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
                (texts[int(i)], float(value)) for value, i in zip(cosines[k, best[k]], best[k], strict=True)
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

    Returns:
        Four tensors (B, E): moved (bool), the prompt with the highest logit at CLIP's choice, CLIP's choice, the
        scorer's.
    """
    clip = CLIP()(replace(similarities, bank_mask=None)).choice
    chosen = scorer(similarities).choice
    logits = clip_logits(similarities.bank, similarities.tau)
    loudest = logits.argmax(-2)
    return clip != chosen, loudest.gather(-1, clip), clip, chosen
