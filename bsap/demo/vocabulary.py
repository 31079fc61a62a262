"""The words that the demo's model knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import open_clip
from safetensors import safe_open

MODEL_FOLDER = Path(__file__).parent / "model"
"""The shipped model, an open_clip ``local-dir:`` folder."""


def unseen_words(texts: Iterable[str], folder: Path = MODEL_FOLDER) -> list[str]:
    """The words of some texts that the model never saw in training; it cannot tell them from each other.

    Args:
        texts: expressions or prompts.
        folder: a model written by :func:`bsap.demo.train.export`, whose unseen tokens have rows of zeros.

    Returns:
        The words in lower case, sorted.

    Example:
        >>> unseen_words(["a photo of a red cup", "a giraffe"])
        ['giraffe']
    """
    tokenizer, seen = _knowledge(folder)
    words = {word for text in texts for word in re.findall(r"[^\W_]+", text.lower())}
    return sorted(word for word in words if not all(seen[token] for token in tokenizer.encode(word)))


@lru_cache(maxsize=2)
def _knowledge(folder: Path) -> tuple[open_clip.SimpleTokenizer, list[bool]]:
    with safe_open(folder / "open_clip_model.safetensors", framework="pt") as file:
        return open_clip.SimpleTokenizer(), file.get_tensor("token_embedding.weight").any(dim=1).tolist()
