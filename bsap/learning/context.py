"""Learned context: vectors instead of word embeddings, run through the frozen text tower (CoOp, arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsap.errors import ConfigError, ModelError, check_number, unknown
from bsap.models.encoder import Encoder
from bsap.models.text import run_text_tower, text_tower
from bsap.prompts.banks import load_bank
from bsap.prompts.templates import Templates

INITS = ("words", "random", "bank:NAME")


@dataclass(frozen=True)
class PromptConfig:
    """The auxiliary prompts to learn.

    Attributes:
        count: K, the number of prompts; ignored if they start from a bank.
        length: n, the context vectors of each prompt; ignored if they start from a bank.
        init: initial values: ``words``, ``random``, or ``bank:NAME`` with a shipped bank or a file, as for
            ``--model.bank`` of ``bsap test``.
        words: with ``words``: the text of the first vectors of every prompt; the vectors after it start at random.
        noise: standard deviation of the noise on words and banks, in units of the standard deviation of the token
            embeddings. Without noise, prompts that start with the same words would stay the same.

    Raises:
        ConfigError: for a negative noise.
    """

    count: int = 16
    length: int = 4
    init: str = "words"
    words: str = "a photo of"
    noise: float = 0.3

    def __post_init__(self) -> None:
        check_number("model.prompts.noise", self.noise)


class FrozenTower:
    """The text tower of a frozen encoder, from token embeddings on. No module owns it: it is not trained or saved.

    Args:
        encoder: the model.

    Raises:
        ModelError: for a text tower that is not causal with an end token, such as SigLIP's or a Hugging Face one.
    """

    def __init__(self, encoder: Encoder) -> None:
        tower = text_tower(encoder.model)
        if tower is None or not tower.trimmable:
            raise ModelError(
                f"Model {encoder.label!r}: prompts can be learned for open_clip's own causal text transformers only "
                "(CLIP's, not SigLIP's, CoCa's or a Hugging Face tower)."
            )
        self.encoder, self.tower = encoder, tower

    @property
    def width(self) -> int:
        """W, the length of a token embedding."""
        return int(self.vocabulary.shape[1])

    @property
    def vocabulary(self) -> Tensor:
        """(T, W) all token embeddings."""
        embedding: Any = self.tower.module.token_embedding
        weight: Tensor = embedding.weight
        return weight.detach()

    @property
    def scale(self) -> float:
        """Standard deviation of the token embeddings that were trained (the others are zero)."""
        rows = self.vocabulary
        return float(rows[rows.any(dim=1)].float().std())

    def words(self, text: str) -> Tensor:
        """(L, W) embeddings of a text's tokens, without the start and end tokens."""
        return self._embedded(text)[1:-1]

    def ends(self) -> tuple[Tensor, Tensor]:
        """(W,) embeddings of the start token and of the end token."""
        rows = self._embedded("")
        return rows[0], rows[-1]

    def _embedded(self, text: str) -> Tensor:
        """(L + 2, W) embeddings of a text's tokens, from the start token to the end token."""
        tokens = self.encoder.tokenize([text])
        return self.embed(tokens)[0, : int(self.tower.positions(tokens)[0]) + 1].float()

    def embed(self, tokens: Tensor) -> Tensor:
        """(N, L, W) token embeddings of (N, L) ids."""
        with torch.no_grad():
            return self.tower.embed(tokens.to(self.encoder.device))

    def run(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """(N, D) float32 unit vectors of (N, L, W) embeddings with end tokens at ``eot`` (N,); gradients flow."""
        features = run_text_tower(self.encoder.model, embeddings, eot)
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(features.float(), dim=-1)


class LearnedPrompts(nn.Module):
    """K prompts of learned context vectors between the tower's own start and end tokens (CoOp, arXiv 2109.01134).

    Args:
        tower: the frozen tower.
        context: K prompts, each (n_k, W).

    Attributes:
        context: (K, n, W), the only parameter; rows after a prompt's own n_k are padding.
        lengths: (K,) n_k.

    Raises:
        ConfigError: if a prompt has more vectors than the tower has positions.
    """

    lengths: Tensor
    start: Tensor
    end: Tensor

    def __init__(self, tower: FrozenTower, context: Sequence[Tensor]) -> None:
        super().__init__()
        lengths = [len(rows) for rows in context]
        check_length(max(lengths), tower.encoder)
        padded = [F.pad(rows.float().cpu(), (0, 0, 0, max(lengths) - len(rows))) for rows in context]
        self.context = nn.Parameter(torch.stack(padded))
        self.register_buffer("lengths", torch.tensor(lengths))
        for name, row in zip(("start", "end"), tower.ends(), strict=True):
            self.register_buffer(name, row.clone(), persistent=False)  # weights of the model: not in checkpoints

    def forward(self, tower: FrozenTower) -> Tensor:
        """(K, D) unit vectors."""
        count, length, width = self.context.shape
        ends = self.end.expand(count, 1, width)
        rows = torch.cat([self.start.expand(count, 1, width), self.context, ends], dim=1)
        eot = self.lengths + 1
        # Each prompt ends after its own vectors; the end token does not attend to what follows it.
        places = torch.arange(length + 2, device=rows.device)
        rows = torch.where((places == eot[:, None])[..., None], self.end, rows)
        return tower.run(rows, eot)


def initial_prompts(config: PromptConfig, tower: FrozenTower, templates: Templates) -> list[Tensor]:
    """The initial context of K prompts: K tensors (n_k, W), with noise from torch's global generator.

    Raises:
        ConfigError: for settings that contradict each other or the tower.
    """
    if config.init.startswith("bank:"):
        bank = load_bank(config.init.removeprefix("bank:"))
        if not bank.prompts or bank.of_query is not None:
            raise ConfigError(f"`prompts.init`: bank {bank.name!r} has no prompts to start from. Choose another bank.")
        found = [tower.words((bank.template or templates.bank).format(prompt)) for prompt in bank.prompts]
        return [rows + config.noise * tower.scale * torch.randn(rows.shape).to(rows) for rows in found]
    if config.count < 1 or config.length < 1:
        raise ConfigError(
            f"`prompts` needs `count` and `length` of at least 1, got {config.count} and {config.length}."
        )
    check_length(config.length, tower.encoder)
    drawn = tower.scale * torch.randn(config.count, config.length, tower.width)
    if config.init == "words":
        words = tower.words(config.words).cpu()
        if len(words) > config.length:
            raise ConfigError(
                f"`prompts.words` {config.words!r} are {len(words)} tokens, but `prompts.length` is {config.length}."
            )
        drawn[:, : len(words)] = words + config.noise * drawn[:, : len(words)]
    elif config.init != "random":
        raise unknown("start of learned prompts (`prompts.init`)", config.init, INITS)
    return list(drawn)


def check_length(length: int, encoder: Encoder) -> None:
    """Raise a ConfigError unless so many context vectors fit between start and end."""
    room = encoder.context_length - 2
    if length > room:
        raise ConfigError(
            f"{length} context tokens do not fit: the text tower of {encoder.label!r} has {encoder.context_length} "
            f"positions, two of which are start and end. Use at most {room}."
        )
