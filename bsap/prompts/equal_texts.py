"""Which texts are the same, and which prompts are equal to a query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def normalise_text(text: str) -> str:
    """The text apart from case and spaces, as far as the identity of two expressions goes.

    Example:
        >>> normalise_text("  The  LEFT one ")
        'the left one'
    """
    return " ".join(text.casefold().split())


def distinct(texts: Iterable[str]) -> dict[str, str]:
    """The first of texts that are equal apart from case and spaces, by what they are without these."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(normalise_text(text), text)
    return found


def bank_mask(queries: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Which prompts count for which query: all but those equal to it, apart from case and spaces.

    For banks drawn from the expressions under test. Texts are all that is compared: leaving out the other expressions
    of the same referent would tell the scorer which expressions belong together, and so leak labels.

    Args:
        queries: E expressions, without templates.
        prompts: K prompts, without templates.

    Returns:
        ``(E, K)`` bool, True where the prompt counts.

    Example:
        >>> bank_mask(["left dog"], ["Left  dog", "cat"]).tolist()
        [[False, True]]
    """
    import torch

    mask = torch.ones(len(queries), len(prompts), dtype=torch.bool)
    positions = _positions(tuple(prompts))
    for row, query in enumerate(queries):
        for column in positions.get(normalise_text(query), ()):
            mask[row, column] = False
    return mask


@lru_cache(maxsize=8)  # the same few hundred prompts come with every scene
def _positions(prompts: tuple[str, ...]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for column, prompt in enumerate(prompts):
        positions.setdefault(normalise_text(prompt), []).append(column)
    return positions
