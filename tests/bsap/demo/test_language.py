from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from bsap.demo.draw import Thing, draw_scene
from bsap.demo.kinds import CATEGORIES, PALETTE
from bsap.demo.kinds import PATTERNS as PATTERN_NAMES
from bsap.demo.language import COLOURS, NOUNS, PATTERNS, caption, expressions, scene_caption

PLACE = ["left", "right", "leftmost", "rightmost", "top", "bottom", "upper", "lower", "middle", "center", "from"]
SIZE = ["big", "large", "biggest", "small", "little", "smallest"]


def meaning(words: Sequence[str], table: Mapping[str, Sequence[str]]) -> set[str]:
    text = f" {' '.join(words)} "
    return {name for name, synonyms in table.items() if any(f" {synonym} " in text for synonym in synonyms)}


def matches(text: str, thing: Thing) -> bool:
    words = text.split()
    tables = (("category", NOUNS), ("colour", COLOURS), ("pattern", PATTERNS))
    return all(meaning(words, table) <= {getattr(thing, name)} for name, table in tables)


SAID = [
    (index, scene.things, expressions(index, scene.things, np.random.default_rng(seed)))
    for seed, scene in enumerate(draw_scene(8, seed) for seed in range(40))
    for index in range(len(scene.things))
]


def test_every_attribute_has_words_and_no_word_means_two_of_a_kind() -> None:
    for table, names in ((NOUNS, CATEGORIES), (COLOURS, PALETTE), (PATTERNS, PATTERN_NAMES)):
        assert set(table) == set(names)
        words = [word for synonyms in table.values() for word in synonyms]
        assert len(words) == len(set(words))


def test_two_or_three_different_short_expressions() -> None:
    for _, _, texts in SAID:
        assert 2 <= len(texts) <= 3
        assert len(set(texts)) == len(texts)
        assert all(1 <= len(text.split()) <= 9 and text == text.lower() for text in texts)


def test_what_is_said_by_looks_alone_means_one_thing_only() -> None:
    by_looks = 0
    for index, things, texts in SAID:
        for text in texts:
            assert matches(text, things[index]), (text, things[index])
            if not set(text.split()) & {*PLACE, *SIZE}:
                by_looks += 1
                assert sum(matches(text, thing) for thing in things) == 1, text
    assert by_looks > 0.6 * sum(len(texts) for *_, texts in SAID)


@pytest.mark.parametrize(
    ("words", "better"),
    [
        ({"left", "leftmost"}, lambda a, b: a[0] < b[0]),
        ({"right", "rightmost"}, lambda a, b: a[0] > b[0]),
        ({"top", "upper"}, lambda a, b: a[1] < b[1]),
        ({"bottom", "lower"}, lambda a, b: a[1] > b[1]),
    ],
)
def test_what_is_said_by_place_is_true(words: set[str], better: object) -> None:
    checked = 0
    for index, things, texts in SAID:
        for text in texts:
            if not set(text.split()) & words or "from" in text:
                continue
            centres = [((t.box[0] + t.box[2]) / 2, (t.box[1] + t.box[3]) / 2) for t in things]
            rivals = [n for n, thing in enumerate(things) if n != index and matches(text, thing)]
            assert rivals, f"{text}: looks would have done"
            assert all(better(centres[index], centres[n]) for n in rivals), text  # type: ignore[operator]
            checked += 1
    assert checked > 5


def test_captions_are_true_of_the_thing() -> None:
    rng = np.random.default_rng(0)
    for index, things, _ in SAID[:100]:
        assert matches(caption(things[index], rng), things[index])


def test_scene_captions_name_things_of_the_scene_on_their_side() -> None:
    rng = np.random.default_rng(0)
    for seed in range(40):
        scene = draw_scene(8, seed)
        text = scene_caption(scene.things, scene.picture.width, rng)
        for phrase in text.removeprefix("a photo of ").split(" and "):
            named = [thing for thing in scene.things if matches(phrase, thing)]
            assert named, phrase
            middle = scene.picture.width / 2
            if "left" in phrase:
                assert any(sum(thing.box[::2]) / 2 < middle for thing in named)
            if "right" in phrase:
                assert any(sum(thing.box[::2]) / 2 > middle for thing in named)
