"""A pipeline of spaCy's interface that parses a toy English: no pipeline with a real parser is on the registry."""

from __future__ import annotations

from typing import Any

PLACES = ("left", "right", "behind", "between")


class ToyPipeline:
    """Parses "A left of B", "A between B and C", and noun phrases whose other words hang on the last noun.

    Attributes:
        asked: how many texts were parsed.
    """

    pipe_names = ("tagger", "parser", "ner")

    def __init__(self, language: str = "en") -> None:
        from spacy.lang.en import English

        self.meta: dict[str, Any] = {"lang": language, "name": "toy", "version": "1.2.3"}
        self.vocab = English().vocab
        self.asked = 0

    def pipe(self, texts: Any, disable: Any = ()) -> Any:
        """Documents, one for each text; unparsable as a whole where one text is."""
        assert list(disable) == ["ner"]
        for text in texts:
            self.asked += 1
            if "unparsable" in text:
                raise ValueError("[E088] Text is too long.")
            yield self.parse(text)

    def parse(self, text: str) -> Any:
        """One document."""
        from spacy.tokens import Doc

        words = text.split()
        place = next((n for n, word in enumerate(words) if word in PLACES and 0 < n < len(words) - 1), None)
        if place is None or words[place - 1] in ("the", "on", "from"):
            noun = max((n for n, word in enumerate(words) if word not in (*PLACES, "on", "the", "from")), default=0)
            heads = [noun] * len(words)
            deps = ["ROOT" if n == noun else "amod" for n in range(len(words))]
            tags = ["NOUN" if n == noun else "ADJ" for n in range(len(words))]
            return Doc(self.vocab, words=words, heads=heads, deps=deps, pos=tags)
        subject, last = place - 1, len(words) - 1
        joint = words.index("and") if "and" in words else None
        other = last if joint is None else joint - 1
        heads, deps, tags = [other] * len(words), ["amod"] * len(words), ["ADJ"] * len(words)
        for n in range(place):
            heads[n] = subject
        deps[subject], tags[subject], tags[other] = "ROOT", "NOUN", "NOUN"
        heads[place], deps[place] = subject, "prep"
        first = place
        if words[place + 1] == "of":
            heads[place + 1], deps[place + 1], first = place, "prep", place + 1
        heads[other], deps[other] = first, "pobj"
        if joint is not None:
            heads[joint], deps[joint] = other, "cc"
            for n in range(joint + 1, last):
                heads[n] = last
            heads[last], deps[last], tags[last] = other, "conj", "NOUN"
        return Doc(self.vocab, words=words, heads=heads, deps=deps, pos=tags)
