import builtins
import sys
from types import MappingProxyType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bsap.datamodules.scene import Expression, Referent
from bsap.errors import ConfigError, DataError, ModelError
from bsap.features.texts import TextCache, text_features
from bsap.prompts.phrases import Wording, load_parser, noun_phrase, phrase_of
from bsap.prompts.templates import Phrases


def parsed(words, tags, heads, deps):
    """A sentence with a parse written by hand; spaCy's pipelines are no packages of the registry."""
    pytest.importorskip("spacy")
    from spacy.lang.en import English
    from spacy.tokens import Doc

    return Doc(English().vocab, words=words, pos=tags, heads=heads, deps=deps)


def man_doc():
    return parsed(
        ["a", "tall", "man", "holding", "the", "red", "kite"],
        ["DET", "ADJ", "NOUN", "VERB", "DET", "ADJ", "NOUN"],
        [2, 2, 2, 2, 6, 6, 3],
        ["det", "amod", "ROOT", "acl", "det", "amod", "dobj"],
    )


def verb_doc():
    return parsed(
        ["the", "dog", "sits", "left"],
        ["DET", "NOUN", "VERB", "ADV"],
        [1, 2, 2, 2],
        ["det", "nsubj", "ROOT", "advmod"],
    )


def bare_doc():
    return parsed(["far", "left"], ["ADV", "ADV"], [1, 1], ["advmod", "ROOT"])


def two_roots_doc():
    return parsed(
        ["a", "cat", "the", "old", "chair"],
        ["DET", "NOUN", "DET", "ADJ", "NOUN"],
        [1, 1, 4, 4, 4],
        ["det", "ROOT", "det", "amod", "ROOT"],
    )


@pytest.mark.parametrize(
    ("doc", "phrase"),
    [(man_doc, "a tall man"), (verb_doc, "the dog"), (bare_doc, "far left"), (two_roots_doc, "the old chair")],
    ids=["root", "dependant", "none", "last-root"],
)
def test_noun_phrase(doc, phrase):
    assert noun_phrase(doc()) == phrase


def expression(phrase):
    referent = Referent("1", ("1",), np.zeros((1, 4), np.float32), (None,))
    return Expression("toy/unc/val/7", 0, "a tall man holding the red kite", referent, phrase)


def test_the_files_phrase_comes_first():
    assert phrase_of(expression("tall man"), lambda text: pytest.fail("not needed")) == "tall man"
    assert phrase_of(expression(None), lambda text: man_doc()) == "a tall man"
    with pytest.raises(DataError, match="Expression toy/unc/val/7 has no noun phrase"):
        phrase_of(expression(None))


def test_without_spacy(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **options):
        if name == "spacy":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "spacy", raising=False)
    with pytest.raises(ModelError, match=r"need spaCy: `pip install 'bsap\[phrases\]'`, or give the noun phrases"):
        Wording(Phrases(weight=0.5, parser="en_no_such"))


def test_without_the_pipeline(tmp_path):
    spacy = pytest.importorskip("spacy")
    with pytest.raises(ModelError, match=r"pipeline 'en_no_such'.*: `python -m spacy download en_no_such`"):
        load_parser("en_no_such")
    spacy.blank("en").to_disk(tmp_path)
    assert len(load_parser(str(tmp_path))("two words")) == 2


class Table:
    dim = 2
    device = torch.device("cpu")
    rows = MappingProxyType({"s": (3.0, 0.0), "p": (0.0, 1.0)})

    def encode_text(self, texts, *, normalize=True):
        rows = torch.tensor([self.rows[text] for text in texts])
        return F.normalize(rows, dim=-1) if normalize else rows


def test_sentences_and_phrases_are_summed_with_their_own_lengths():
    cache = TextCache(Table())
    got = text_features(cache, ["s", "p"], ["p", "p"], weight=0.25)
    mixed = torch.tensor([0.25 * 3, 0.75])
    assert torch.allclose(got, torch.stack([mixed / mixed.norm(), torch.tensor([0.0, 1.0])]))
    assert torch.allclose(text_features(cache, ["s"], ["p"], weight=1.0), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="`phrases` to be 1 texts, but got 2"):
        text_features(cache, ["s"], ["p", "p"])
    with pytest.raises(ValueError, match=r"`weight` to be in \[0, 1\], but got 2"):
        text_features(cache, ["s"], ["p"], weight=2)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("thats the man", "that s the man"),
        ("man  on left", "man on left"),
        ("red-ish thing's edge.", "red - ish thing 's edge ."),
    ],
)
def test_sentences_may_be_written_as_the_tokens_of_the_parser(tmp_path, text, written):
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path)
    plain = expression(None)
    plain = type(plain)(plain.id, 0, text, plain.referent, None)
    assert Wording(Phrases(parser=str(tmp_path), rejoin=True)).sentence(plain) == written
    assert Wording(Phrases(parser=str(tmp_path))).sentence(plain) == text
    with pytest.raises(ConfigError, match=r"`phrases\.rejoin` needs `phrases\.parser`"):
        Phrases(rejoin=True)


def test_the_phrase_is_that_of_the_rejoined_sentence(monkeypatch):
    import bsap.prompts.phrases as room

    parses = {"a tall man holding the red kite": two_roots_doc, "a cat the old chair": two_roots_doc}
    monkeypatch.setattr(room, "load_parser", lambda name, otherwise: lambda text: parses[text]())
    wording = Wording(Phrases(weight=0.5, parser="any", rejoin=True))
    assert wording.sentence(expression(None)) == "a cat the old chair"
    assert wording.phrase(expression(None)) == "the old chair"
    assert wording.phrase(expression("tall man")) == "tall man"
