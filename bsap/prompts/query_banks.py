"""Prompts made from the query itself, which no other expression of the split has a part in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bsap.prompts.sentences import ENGLISH, Sentences

NOUNS = "other_nouns"
WORDS = "dropped_words"

QUERY_BANKS = {
    NOUNS: "the nouns of the query besides the one that it is about, found by a spaCy pipeline (other_nouns:PIPELINE)",
    WORDS: "the query with one word dropped, for each of its words",
}

OfQuery = Callable[[str], Sequence[str]]
"""From a query to its prompts."""


def filled(prompts: Sequence[str], text: str) -> list[str]:
    """Prompts in which ``{}`` stands for the query.

    Example:
        >>> filled(("not {}", "nothing"), "a dog")
        ['not a dog', 'nothing']
    """
    return [prompt.replace("{}", text) for prompt in prompts]


def without_each_word(text: str) -> list[str]:
    """A text with one word dropped, for each of its words; nothing is left of a single word.

    Example:
        >>> without_each_word("big red dog")
        ['red dog', 'big dog', 'big red']
    """
    words = text.split()
    return [" ".join(words[:n] + words[n + 1 :]) for n in range(len(words)) if len(words) > 1]


class OtherNouns:
    """The nouns of a sentence besides the head of what it is about."""

    def __init__(self, sentences: Sentences) -> None:
        self.sentences = sentences

    def __call__(self, text: str) -> list[str]:
        """The nouns, none for a sentence that could not be parsed."""
        parsed = self.sentences(text)
        if parsed is None:
            return []
        nouns = [n for n, tag in enumerate(parsed.tags) if tag in ("NOUN", "PROPN")]
        about = parsed.about()
        return [parsed.words[n] for n in nouns if n != about]


def query_bank(spec: str, store: Path | None) -> OfQuery:
    """What makes the prompts of ``dropped_words``, ``other_nouns`` or ``other_nouns:PIPELINE``; ``store`` keeps parses.

    Raises:
        ModelError: the spaCy pipeline is not installed.
    """
    name, _, pipeline = spec.partition(":")
    if name == WORDS:
        return without_each_word
    return OtherNouns(Sentences(pipeline or ENGLISH, folder=store, use=f"The prompts of the bank {NOUNS}"))
