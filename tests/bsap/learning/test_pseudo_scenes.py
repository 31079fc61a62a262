from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsap.errors import ConfigError, DataError
from bsap.learning.pseudo_scenes import PseudoScenes, TextConfig, TextScene, check_lengths, drop_words, read_texts
from bsap.prompts.equal_texts import normalise_text

WORDS = st.sampled_from(["red cup", "cup", "the red cup", "blue bird", "bird", "left dog", "Red  cup"])
REFERENT = st.lists(WORDS, min_size=1, max_size=3, unique=True).map(tuple)
SCENES = st.lists(st.lists(REFERENT, min_size=1, max_size=4).map(tuple), min_size=1, max_size=4)


def features(texts: Any) -> torch.Tensor:
    return torch.tensor([[float(len(text)), float(sum(map(ord, text)))] for text in texts])


@given(SCENES, st.integers(2, 6), st.integers(0, 3))
def test_a_stand_in_is_never_the_query(referents: Any, regions: int, epoch: int) -> None:
    scenes = [TextScene(str(n), groups) for n, groups in enumerate(referents)]
    made: list[str] = []

    def spy(texts: Any) -> torch.Tensor:
        made[:] = texts
        return features(texts)

    pseudo = PseudoScenes(scenes, TextConfig(regions=regions), spy, seed=0)
    for scene in scenes:
        example = pseudo.example(scene, epoch)
        if example is None:
            continue
        assert example.regions.shape == (1, regions, 2)
        stand_ins = [normalise_text(text) for text in made]
        for e, query in enumerate(example.texts):
            assert normalise_text(query) not in stand_ins
            right = {stand_ins[r] for r in range(regions) if example.iou[e, r] == 1}
            assert len(right) == 1, "all that is right for a query has one text"
            assert [float(text in right) for text in stand_ins] == example.iou[e].tolist()
            whole = [group for group in scene.referents if query in group]
            words = {word for group in whole for text in group for word in normalise_text(text).split()}
            assert set(min(right).split()) <= words, "the stand-in is of the query's own referent"


def test_draws_depend_on_seed_epoch_and_scene_alone() -> None:
    texts = tuple((f"thing number {n}", f"object {n}", f"it {n}") for n in range(8))
    scenes = [TextScene("a", texts[:4]), TextScene("b", texts[4:])]

    def draw(seed: int, epoch: int) -> Any:
        example = PseudoScenes(scenes, TextConfig(regions=4), features, seed=seed).example(scenes[0], epoch)
        assert example is not None
        return example.texts, example.regions.tolist()

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(0, 1)
    assert draw(0, 0) != draw(1, 0)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_word_dropout(words: list[str], share: float, seed: int) -> None:
    text = " ".join(words)
    kept = drop_words(text, share, random.Random(seed)).split()
    rest = iter(words)
    assert all(word in rest for word in kept), "in order"
    assert kept
    assert len(kept) < len(words) or len(words) == 1


def test_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\ufeffa red cup\n the bird \n", encoding="utf-8")
    assert read_texts(file) == [
        TextScene("texts.txt:1", (("a red cup",),)),
        TextScene("texts.txt:2", (("the bird",),)),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\n\nthree\n", r"texts\.txt, line 2: empty\. Remove it"),
        (b"one\n   \n", r"texts\.txt, line 2: empty"),
        (b"one\nOne\n", r"needs at least two different sentences"),
        (b"", r"needs at least two different sentences"),
        (b"\xff\xfe", r"cannot be read as UTF-8"),
        (None, r"No text file at .*texts\.txt. Set `--data.text_file`"),
    ],
)
def test_bad_text_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(file)


def test_overlong_lines() -> None:
    scenes = [TextScene("t.txt:1", (("one two",),)), TextScene("t.txt:2", (("one two three four",),))]
    check_lengths(scenes, 6, lambda text: len(text.split()) + 2)
    with pytest.raises(DataError, match=r"t\.txt:2: 'one two three four' is 6 tokens long, but the model reads 5"):
        check_lengths(scenes, 5, lambda text: len(text.split()) + 2)


def test_expressions_that_differ_in_case_alone_are_one() -> None:
    """Their stand-in is one of them without a word, never the other one."""
    scene = TextScene("s", (("Red Cup", "red  cup"),))
    others = TextScene("t", (("a bird", "the dog"),))
    pseudo = PseudoScenes([scene, others], TextConfig(regions=2), features, seed=0)
    assert all(pseudo.example(scene, epoch) is not None for epoch in range(5))


def test_texts_that_can_be_no_query_are_counted() -> None:
    scenes = [TextScene("s", (("cup",), ("bird", "Bird"), ("red cup",))), TextScene("t", (("dog", "pet"),))]
    pseudo = PseudoScenes(scenes, TextConfig(), features, seed=0)
    assert (pseudo.expressions, pseudo.unpaired) == (6, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regions": 1}, r"`model\.text\.regions` must be a number of at least 2, but got 1"),
        ({"dropout": 2.0}, r"`model\.text\.dropout` must be a number of at least 0 and at most 1, but got 2\.0"),
        ({"mu": -1.0}, r"`model\.text\.mu` must be a number of at least 0"),
        ({"rho": 0.0}, r"`model\.text\.rho` must be a number greater than 0"),
        ({"gap": "regionz"}, r"Unknown modality gap .* Did you mean 'regions'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextConfig(**settings)
