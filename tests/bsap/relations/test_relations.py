"""Relations against the published rules once more, and against cases worked out by hand."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsap.errors import ConfigError
from bsap.prompts.sentences import Sentence, Sentences
from bsap.relations.boxes import between_weights, relation_matrix
from bsap.relations.combine import combine, step_names
from bsap.relations.entities import RELATIONS, Entity, Relation, understand
from bsap.relations.settings import Relations, relation_settings
from support import plain_rules

PUBLISHED = Relations(published=True)
# Four boxes: small ones at the left, at the right and at the top, and a large one around the right one.
BOXES = [[0, 40, 10, 50], [80, 40, 90, 50], [40, 0, 50, 10], [60, 20, 100, 60]]

DOG_LEFT_OF_CAT = "the/DET/1/det dog/NOUN/1/ROOT left/ADV/1/advmod of/ADP/2/prep the/DET/5/det cat/NOUN/3/pobj"
GOAT_ON_THE_LEFT = "the/DET/1/det goat/NOUN/1/ROOT on/ADP/1/prep the/DET/4/det left/NOUN/2/pobj"
LEFT_SIDE = "goat/NOUN/0/ROOT on/ADP/0/prep left/ADJ/3/amod side/NOUN/1/pobj"
BIGGEST_DOG = "biggest/ADJ/1/amod dog/NOUN/1/ROOT"
TWO_MOST = "biggest/ADJ/2/amod left/ADJ/2/amod dog/NOUN/2/ROOT"
NESTED = (
    "dog/NOUN/0/ROOT left/ADV/0/advmod of/ADP/1/prep cat/NOUN/2/pobj behind/ADP/3/prep the/DET/6/det bus/NOUN/4/pobj"
)
VERB = "man/NOUN/1/nsubj stands/VERB/1/ROOT behind/ADP/1/prep the/DET/4/det dog/NOUN/2/pobj"
BESIDE_A_VERB = "he/PRON/1/nsubj stands/VERB/1/ROOT left/ADV/1/advmod"
TIED = "left/ADJ/1/amod ear/NOUN/1/ROOT of/ADP/1/prep the/DET/4/det red/ADJ/5/amod dog/NOUN/2/pobj"
BEHIND_NOTHING = "dog/NOUN/0/ROOT behind/ADV/0/advmod"
FAR_LEFT = "far/ADV/1/advmod left/ADV/1/ROOT"
PLAIN = "a/DET/1/det dog/NOUN/1/ROOT"
BETWEEN = "dog/NOUN/0/ROOT between/ADP/0/prep the/DET/3/det cat/NOUN/1/pobj and/CCONJ/3/cc a/DET/6/det bus/NOUN/3/conj"
BETWEEN_ONE = "dog/NOUN/0/ROOT between/ADP/0/prep cars/NOUN/1/pobj"
EVERY = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, str)}


def scored(text: str, count: int) -> list[float]:
    """A distribution that depends on the text alone."""
    logits = np.random.default_rng(zlib.crc32(text.encode())).normal(size=count) * 3
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


def chosen(sentence, text, boxes):
    meaning = understand(sentence, PUBLISHED)
    whole = scored(text, len(boxes))
    if meaning.entity is None:
        return whole
    parts = [scored(part.text, len(boxes)) for part in meaning.entity.all()]
    return combine(meaning.entity, whole, parts, boxes, published=True).weights.tolist()


def agrees(doc, sentence, boxes):
    weights = chosen(sentence, doc.text, boxes)
    expected, choice = plain_rules.published(doc, lambda text: scored(text, len(boxes)), boxes)
    assert int(np.argmax(weights)) == choice, doc.text
    if not np.isnan(expected).any():
        np.testing.assert_allclose(weights, expected, atol=1e-9)
    else:
        assert not any(weights)


# --- what a sentence says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "status", "said"),
    [
        (DOG_LEFT_OF_CAT, "used", "the dog (left: the cat)"),
        (GOAT_ON_THE_LEFT, "used", "the goat (most left)"),
        (LEFT_SIDE, "used", "goat (most left)"),
        (BIGGEST_DOG, "used", "biggest dog (most bigger)"),
        (TWO_MOST, "used", "biggest left dog (most bigger, most left)"),
        (NESTED, "used", "dog (left: cat (above: the bus))"),
        (VERB, "nothing_found", None),
        (BESIDE_A_VERB, "nothing_found", None),
        (TIED, "used", "left ear (most left)"),
        (BEHIND_NOTHING, "nothing_found", None),
        (FAR_LEFT, "no_entity", None),
        (PLAIN, "plain", None),
        (BETWEEN, "plain", None),
    ],
)
def test_what_is_understood(parsed, sentence, status, said):
    meaning = understand(Sentence.of(parsed(sentence)))
    assert meaning.status == status
    assert (None if meaning.entity is None else str(meaning.entity)) == said


def test_what_only_the_published_code_does(parsed):
    meaning = understand(Sentence.of(parsed(BEHIND_NOTHING)), PUBLISHED)
    assert (meaning.status, str(meaning.entity)) == ("noun_phrase", "dog")
    assert str(understand(Sentence.of(parsed(TIED)), PUBLISHED).entity) == "left ear of the red dog (most left)"
    assert understand(Sentence.of(parsed(NESTED)), Relations(entities=2)).status == "many_entities"
    assert understand(Sentence.of(parsed(NESTED)), Relations(entities=3)).status == "used"
    assert understand(Sentence.of(parsed(NESTED)), Relations(entities=2, published=True)).status == "used"


def test_ten_entities_are_scored_as_a_whole():
    """dog left of cat left of cat ..., ten animals."""
    words, heads, chunks = ["dog"], [0], [(0, 1)]
    for _ in range(9):
        n = len(words)
        words += ["left", "of", "cat"]
        heads += [n - 1, n, n + 1]
        chunks.append((n + 2, n + 3))
    count = len(words)
    sentence = Sentence(tuple(words), (True,) * count, tuple(heads), ("dep",) * count, ("NOUN",) * count, tuple(chunks))
    assert understand(sentence).status == "many_entities"
    assert understand(sentence, Relations(entities=10)).status == "used"


def test_what_cannot_be_read():
    assert understand(None).status == "unparsed"
    assert understand(Sentence((), (), (), (), (), ())).status == "empty"
    count = 4000  # each word hangs on the one before: deeper than Python calls itself
    chain = tuple(max(0, n - 1) for n in range(count))
    deep = Sentence(("left",) * count, (True,) * count, chain, ("dep",) * count, ("ADV",) * count, ((0, 1),))
    assert understand(deep).status == "unparsed"


def test_between_is_an_option_of_our_own(parsed):
    ours = Relations(between=True)
    meaning = understand(Sentence.of(parsed(BETWEEN)), ours)
    assert (meaning.status, str(meaning.entity)) == ("used", "dog (between: the cat and a bus)")
    assert [part.text for part in meaning.entity.all()] == ["dog", "the cat", "a bus"]
    assert understand(Sentence.of(parsed(BETWEEN_ONE)), ours).status == "nothing_found"
    assert understand(Sentence.of(parsed(BETWEEN)), PUBLISHED).status == "plain"


# --- boxes ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_box_relations_by_one_pair_at_a_time(count, seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 12, (count, 2))], 1).astype(float)
    for name in RELATIONS:
        expected = [[plain_rules.holds(name, a, b) for b in boxes.tolist()] for a in boxes.tolist()]
        np.testing.assert_allclose(relation_matrix(name, boxes), expected, atol=1e-12)
    first, second = rng.dirichlet(np.ones(count)), rng.dirichlet(np.ones(count))
    total = np.zeros(count)
    for a in range(count):
        for b in range(count):
            for c in range(count):
                if len({a, b, c}) == 3:
                    around = [*np.minimum(boxes[b, :2], boxes[c, :2]), *np.maximum(boxes[b, 2:], boxes[c, 2:])]
                    total[a] += first[b] * second[c] * plain_rules.holds("inside", boxes[a].tolist(), around)
    np.testing.assert_allclose(between_weights(boxes, first, second), total, atol=1e-12)


def test_a_box_without_area_is_inside_nothing():
    assert relation_matrix("inside", [[1, 1, 1, 3], [0, 0, 4, 4]])[0].tolist() == [0, 0]


# --- choices ----------------------------------------------------------------------------------------------------------


def test_a_relation_by_hand():
    """dog 0.6 / 0.3 / 0.1 / 0, cat at the right box: left of it are boxes 0, 2 and, by its centre, 3."""
    entity = Entity("dog", (Relation("left", (Entity("cat"),)),))
    found = combine(entity, [0.25] * 4, [[0.1, 0.6, 0.3, 0.0], [0.0, 1.0, 0.0, 0.0]], BOXES)
    np.testing.assert_allclose(found.weights, [0.25 * 0.25, 0, 0.25 * 0.75, 0])
    assert found.steps == (0, 1, 2)
    assert step_names(entity) == ["sentence", "dog", "left: cat"]


def test_a_superlative_by_hand():
    """Region r keeps p_r times the p of all that it surpasses: 0.5 * 0.5 for the left one against the right one."""
    found = combine(Entity("dog", (), ("left",)), [0.5, 0.5], [[0.2, 0.8]], BOXES[:2])
    np.testing.assert_allclose(found.weights, [0.5, 0.0])
    assert found.steps == (0, 1, 0)


def test_a_contradiction_is_left_out_or_chooses_the_first_region_as_published():
    """Nothing is left of the leftmost box."""
    entity = Entity("dog", (Relation("left", (Entity("cat"),)),), ("bigger",))
    parts = [[0.2, 0.2, 0.2, 0.4], [1.0, 0.0, 0.0, 0.0]]
    whole = [0.1, 0.1, 0.7, 0.1]
    ours, published = (combine(entity, whole, parts, BOXES, published=value) for value in (False, True))
    assert ours.steps == (2, 2, None, 3)
    assert published.steps == (2, 2, None, None)
    assert not published.weights.any()


def test_one_region_is_the_choice_whatever_is_said():
    entity = Entity("dog", (Relation("left", (Entity("cat"),)),), ("bigger",))
    assert combine(entity, [1.0], [[1.0], [1.0]], BOXES[:1]).steps == (0, 0, 0, 0)


@pytest.mark.parametrize("name", EVERY)
def test_hand_parsed_sentences_choose_as_the_published_rules(parsed, name):
    doc = parsed(EVERY[name])
    for count in (1, 2, 3, 4):
        agrees(doc, Sentence.of(doc), BOXES[:count])


def test_sentences_of_refcoco_choose_as_the_published_rules(real_data, pipeline):
    """Every eighth referent of RefCOCO val, with the annotated boxes and similarities fixed by the text."""
    parse, seen = Sentences(pipeline), 0
    path = real_data / "reclip/refcoco_val.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][::8]
    texts = [sentence["raw"].lower() for line in lines for sentence in line["sentences"]]
    parse.prepare(texts)
    docs = dict(zip(texts, parse._parser.pipe(texts, disable=["ner", "lemmatizer"]), strict=True))
    for line in lines:
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (annotation["bbox"] for annotation in line["anns"])]
        for text in (sentence["raw"].lower() for sentence in line["sentences"]):
            agrees(docs[text], parse(text), boxes)
            seen += understand(parse(text), PUBLISHED).entity is not None
    assert len(texts) > 1200
    assert seen > 600


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings():
    with pytest.raises(ConfigError, match="no threshold of `answer` makes sense"):
        relation_settings(True, several=True)
    assert relation_settings(False, several=True) is None
    assert relation_settings(False) is None
    assert relation_settings(True) == Relations() == relation_settings({})
    assert relation_settings({"between": True}) == Relations(between=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"betwen": True}, "Unknown setting of `relations` 'betwen'. Did you mean 'between'"),
        ({"between": "yes"}, "`relations.between` must be true or false, but got 'yes'"),
        ({"parser": ""}, "`relations.parser` must be the name of a spaCy pipeline"),
        ({"entities": 0}, "`relations.entities` must be a whole number, at least 1, but got 0"),
        ({"entities": True}, "`relations.entities` must be a whole number"),
        ("yes", "`relations` must be true, false or settings, but got 'yes'"),
    ],
)
def test_bad_settings(value, message):
    with pytest.raises(ConfigError, match=message):
        relation_settings(value)
