"""Learned context is held to what the same words give when they are written out."""

from __future__ import annotations

import pytest
import torch

from bsap.errors import ConfigError, ModelError
from bsap.learning.context import FrozenTower, LearnedPrompts, PromptConfig, initial_prompts
from bsap.models.encoder import Encoder
from bsap.prompts.banks import load_bank
from bsap.prompts.templates import Templates


def test_a_bank_to_start_from_gives_the_banks_own_features(tower: FrozenTower, encoder: Encoder) -> None:
    """Prompts of different lengths in one batch, run together."""
    context = initial_prompts(PromptConfig(init="bank:coco_categories", noise=0.0), tower, Templates())
    prompts = LearnedPrompts(tower, context)
    written = encoder.encode_text([f"a photo of {word}" for word in load_bank("coco_categories").prompts])
    torch.testing.assert_close(prompts(tower), written, atol=1e-5, rtol=0)
    assert len(set(prompts.lengths.tolist())) > 1


def test_what_stands_behind_a_prompts_end_is_not_seen(tower: FrozenTower) -> None:
    prompts = LearnedPrompts(tower, [torch.randn(2, tower.width), torch.randn(5, tower.width)])
    before = prompts(tower)
    prompts.context.data[0, 2:] += 7.0
    torch.testing.assert_close(prompts(tower), before)
    prompts(tower)[0].sum().backward()
    assert prompts.context.grad is not None
    assert prompts.context.grad[0, :2].abs().min() > 0
    assert not prompts.context.grad[0, 2:].any()
    assert not prompts.context.grad[1].any()


def test_words_then_random_vectors(tower: FrozenTower) -> None:
    torch.manual_seed(0)
    rows = torch.stack(initial_prompts(PromptConfig(count=5, length=4, noise=0.0), tower, Templates()))
    torch.testing.assert_close(rows[:, :3], tower.words("a photo of").expand(5, 3, -1))
    assert not torch.equal(rows[0, 3], rows[1, 3])
    torch.manual_seed(0)
    noisy = torch.stack(initial_prompts(PromptConfig(count=5, length=4, noise=0.5), tower, Templates()))
    assert not torch.equal(noisy[0, 0], noisy[1, 0])


def test_random_vectors_are_of_the_vocabularys_size(tower: FrozenTower) -> None:
    rows = torch.stack(initial_prompts(PromptConfig(count=50, length=8, init="random"), tower, Templates()))
    seen = tower.vocabulary[tower.vocabulary.any(dim=1)]
    assert float(rows.std()) == pytest.approx(float(seen.std()), rel=0.05)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PromptConfig(length=23), r"23 context tokens do not fit: .* has 24 positions.* Use at most 22"),
        (PromptConfig(length=2), r"are 3 tokens, but `prompts.length` is 2"),
        (PromptConfig(count=0), r"`count` and `length` of at least 1"),
        (PromptConfig(init="word"), r"Unknown start of learned prompts .* Did you mean 'words'"),
        (PromptConfig(init="bank:scene"), r"bank 'scene' has no prompts to start from"),
    ],
)
def test_wrong_settings(tower: FrozenTower, config: PromptConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        initial_prompts(config, tower, Templates())


def test_a_tower_that_sees_all_tokens_is_refused(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder.model, "attn_mask", None)
    with pytest.raises(ModelError, match="causal text transformers only"):
        FrozenTower(encoder)
