"""The noun phrase of an expression: half of the text side of Global-Local CLIP.

Yu, Seo, Son: Zero-shot Referring Image Segmentation with Global-Local Context Features, CVPR 2023. Published settings:
weight 0.5, no template, spaCy's ``en_core_web_lg``. The noun phrase comes from the data file or from spaCy, which is
optional.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bsap.datamodules.scene import Expression
from bsap.errors import DataError, ModelError
from bsap.prompts.templates import Phrases

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc


def noun_phrase(doc: Doc) -> str:
    """The noun phrase that a parsed sentence is about: of its root, or of the root's first dependent, or all of it."""
    roots = [token for token in doc if token.head.i == token.i]
    chunks = list(doc.noun_chunks)
    for token in [*roots[-1:], *[child for root in roots[-1:] for child in list(root.children)[:1]]]:
        for chunk in chunks:
            if chunk.start <= token.i < chunk.end:
                return str(chunk.text)
    return str(doc.text).strip()


@lru_cache(maxsize=4)  # relations, phrases and a bank may share one, which takes a second and 100 MB
def load_parser(model: str, *, use: str = "Noun phrases", otherwise: str = "") -> Language:
    """An installed spaCy pipeline by name or folder; the error says what needs it and what can be done ``otherwise``.

    Raises:
        ModelError: spaCy or the pipeline is not installed.
    """
    try:
        import spacy
    except ImportError as error:
        raise ModelError(f"{use} need spaCy: `pip install 'bsap[phrases]'`{otherwise}.") from error
    try:
        return spacy.load(model)
    except OSError as error:
        raise ModelError(
            f"{use} need spaCy's pipeline {model!r}, which is not installed: `python -m spacy download {model}`"
            f"{otherwise}."
        ) from error


def rejoined(doc: Doc) -> str:
    """The tokens of a parsed sentence joined by single spaces, as Global-Local CLIP's code writes its sentences."""
    return " ".join(token.text for token in doc if token.text != " ")


class Wording:
    """The texts of an expression that go to the text tower: its sentence and its noun phrase.

    Raises:
        ModelError: see :func:`load_parser`.
    """

    def __init__(self, phrases: Phrases) -> None:
        needed = phrases.parser is not None and (phrases.weight or phrases.rejoin)
        self.weight = phrases.weight
        otherwise = ", or give the noun phrases in the data file"
        self._parse = load_parser(phrases.parser, otherwise=otherwise) if needed and phrases.parser else None
        self._rejoined: dict[str, str] | None = {} if phrases.rejoin else None

    def sentence(self, expression: Expression) -> str:
        """The sentence, written as the settings want it."""
        text = expression.text
        if self._rejoined is None or self._parse is None:
            return text
        if text not in self._rejoined:
            self._rejoined[text] = rejoined(self._parse(text))
        return self._rejoined[text]

    def phrase(self, expression: Expression) -> str:
        """The noun phrase of :meth:`sentence`, see :func:`phrase_of`."""
        return phrase_of(replace(expression, text=self.sentence(expression)), self._parse)


def phrase_of(expression: Expression, parse: Callable[[str], Doc] | None = None) -> str:
    """An expression's noun phrase: the data file's own, else found with ``parse`` from :func:`load_parser`.

    Raises:
        DataError: neither a phrase nor a parser.
    """
    if expression.phrase is not None:
        return expression.phrase
    if parse is None:
        raise DataError(
            f"Expression {expression.id} has no noun phrase. Add one to the data file, or set `model.phrases.parser`."
        )
    return noun_phrase(parse(expression.text))
