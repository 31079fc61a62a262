"""Banks: what is shipped, what is drawn from a split, what a user may bring, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bsap.errors import ConfigError
from bsap.prompts.banks import Bank, check_learned_bank, list_banks, load_bank
from bsap.prompts.equal_texts import bank_mask, normalise_text
from bsap.prompts.learned import learned_scorer

SHIPPED = ("attributes", "coco_categories", "colours", "generic", "negations", "positions")
SHORT = {
    "empty": ("", "a photo of", "a photo of something"),
    "negated": ("not {}", "a photo without {}"),
    "objects": ("object", "thing", "damaged object"),
}


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- shipped ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_banks_load_and_say_who_says_so(name: str) -> None:
    bank = load_bank(name)
    assert bank.name == name
    assert len(bank.prompts) >= 10
    assert len(bank.source) > 20
    assert not bank.transductive
    assert not bank.per_scene
    assert bank.features is None
    assert all(prompt == normalise_text(prompt) for prompt in bank.prompts)


@pytest.mark.parametrize("name", SHORT)
def test_short_banks(name: str) -> None:
    bank = load_bank(name)
    assert (bank.name, bank.prompts, bank.transductive) == (name, SHORT[name], False)
    assert bank.template == (None if name == "objects" else "{}")
    assert (bank.of_query is not None) == (name == "negated")
    assert pickle.loads(pickle.dumps(bank)).prompts_of("a dog") == tuple(p.replace("{}", "a dog") for p in SHORT[name])


@pytest.mark.parametrize(
    ("query", "prompts"),
    [("big red dog", ("red dog", "big dog", "big red")), ("dog", ()), ("dog Dog", ("Dog",)), ("  a   b ", ("b", "a"))],
)
def test_a_query_with_its_words_dropped_one_by_one(query: str, prompts: tuple[str, ...]) -> None:
    assert load_bank("dropped_words").prompts_of(query) == prompts


def test_coco_categories_stand_in_the_order_of_their_ids() -> None:
    prompts = load_bank("coco_categories").prompts
    assert len(set(prompts)) == 80
    # By position among the 80, not by COCO's ids, which have gaps.
    for position, name in {
        0: "person",
        10: "fire hydrant",
        24: "backpack",
        56: "chair",
        62: "tv",
        79: "toothbrush",
    }.items():
        assert prompts[position] == name


def test_list_banks_shows_shipped_and_computed() -> None:
    banks = list_banks()
    computed = ("captions", "scene", "other_nouns", "dropped_words")
    assert tuple(bank.name for bank in banks) == (*sorted([*SHIPPED, *SHORT]), *computed)
    assert [bank.name for bank in banks if bank.transductive] == ["captions", "scene"]
    assert [bank.name for bank in banks if bank.per_scene] == ["scene"]
    assert all(bank.source for bank in banks)


def test_banks_can_be_sent_to_other_processes() -> None:
    bank = load_bank("colours")
    assert pickle.loads(pickle.dumps(bank)) == bank


def test_importing_banks_does_not_import_torch() -> None:
    code = "import sys, bsap.prompts.banks as b; b.list_banks(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    full = write(tmp_path / "a.yaml", "name: mine\nsource: me\nprompts: [a cat, 'no', two  dogs]\n")
    assert load_bank(full) == Bank(name="mine", prompts=("a cat", "no", "two  dogs"), source="me")
    bare = write(tmp_path / "b.yml", "prompts:\n  - a cat\n")
    assert load_bank(bare) == Bank(name="b", prompts=("a cat",), source="file b.yml")
    lines = write(tmp_path / "c.txt", "a cat\n\n  a dog \r\nÖl\n")
    assert load_bank(lines) == Bank(name="c", prompts=("a cat", "a dog", "Öl"), source="file c.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "", "expected the keys name, source and prompts"),
        ("a.yaml", "- a cat\n", "expected the keys name, source and prompts"),
        ("a.yaml", "name: x\n", "is empty"),
        ("a.yaml", "prompts: []\n", "is empty"),
        ("a.yaml", "prompts: a cat\n", "is empty: list at least one text"),
        ("a.yaml", "name: [a, b]\nprompts: [a]\n", r"`name` must be a text, but got \['a', 'b'\]"),
        ("a.yaml", "promts: [a]\n", r"Unknown key of bank .*'promts'. Did you mean 'prompts'"),
        ("a.yaml", "prompts:\n  - yes it is\n  - true\n", "prompt 2: True is a bool. Put texts in quotes"),
        ("a.yaml", "prompts: [a, 7]\n", "prompt 2: 7 is a int"),
        ("a.yaml", "prompts: [a, '  ']\n", "prompt 2 is blank"),
        ("a.yaml", "prompts: [a]\ntemplate: a photo\n", "`template` must hold exactly one {}, but got 'a photo'"),
        ("a.yaml", "prompts: ['', ' ']\ntemplate: '{}'\n", "prompt 2: ' ' repeats prompt 1"),
        ("a.yaml", "prompts: [A  cat, dog, a cat]\n", "prompt 3: 'a cat' repeats prompt 1"),
        ("a.yaml", "name: x\nprompts:\n  - [a\n", r"a.yaml: not readable as YAML"),
        ("a.yaml", "name: x\nsource: this: that\nprompts: [a]\n", r"a.yaml: not readable as YAML: .*line 2"),
        ("a.txt", "\n \n", "is empty"),
        ("a.txt", "dog\nDog\n", "prompt 2: 'Dog' repeats prompt 1"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_bank(write(tmp_path / name, text))
    assert str(tmp_path / name) in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No bank at .*none.yaml.* coco_categories"):
        load_bank(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.txt").write_bytes("Öl".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.txt: not a text file in UTF-8"):
        load_bank(str(tmp_path / "latin.txt"))


def test_what_is_no_file_of_prompts_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "mine").write_text("a dog")
    learned = f"learned:{tmp_path / 'pipe'}"
    for spec, message in (
        (str(tmp_path / "pipe"), "is a pipe or a device"),
        (str(tmp_path), "is a folder"),
        (str(tmp_path / "mine"), r"is named \.yaml, \.yml or \.txt. Rename"),
        (learned, "pipe is a pipe or a device. Give the folder or the .safetensors file"),
        ("x" * 300, "Unknown bank"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_bank(spec)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown bank 'color'. Did you mean 'colours'.*captions.*scene"):
        load_bank("color")


# --- computed ---------------------------------------------------------------------------------------------------------


def test_captions_are_distinct_seeded_and_independent_of_order() -> None:
    texts = [f"Man {i}" for i in range(900)] + [f"man  {i}" for i in range(900)] + ["man 3", " "]
    bank = load_bank("captions", split_texts=texts)
    assert bank.transductive
    assert not bank.per_scene
    assert len({normalise_text(prompt) for prompt in bank.prompts}) == len(bank.prompts) == 500
    assert set(bank.prompts) <= set(texts)
    assert bank.meta == {"seed": 0, "size": 500, "distinct": 900}
    shuffled = random.Random(1).sample(texts, len(texts))
    assert load_bank("captions", split_texts=shuffled).prompts == bank.prompts
    assert load_bank("captions", split_texts=texts, seed=1).prompts != bank.prompts
    # A draw, not the head of the list: about half of either half.
    low = sum(int(prompt.split()[1]) < 450 for prompt in bank.prompts)
    assert 200 < low < 300


def test_captions_of_a_small_split_are_all_of_it() -> None:
    bank = load_bank("captions", split_texts=["a", "b", "A "], size=10)
    assert sorted(map(normalise_text, bank.prompts)) == ["a", "b"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "there is no split"),
        ({"split_texts": [" "]}, "is empty"),
        ({"split_texts": ["a"], "size": 0}, "at least 1"),
    ],
)
def test_captions_need_expressions(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_bank("captions", **kwargs)


def test_the_scene_bank_has_its_texts_elsewhere() -> None:
    bank = load_bank("scene")
    assert (bank.prompts, bank.per_scene, bank.transductive) == ((), True, True)


def test_the_mask_leaves_out_equal_texts_alone() -> None:
    queries = ["Left dog", "the left dog", "cat", ""]
    prompts = ["left  dog", "LEFT DOG ", "left dogs", "cat"]
    mask = bank_mask(queries, prompts)
    assert mask.dtype == torch.bool
    plain = [[q.lower().split() != p.lower().split() for p in prompts] for q in queries]
    assert mask.tolist() == plain
    assert bank_mask([], prompts).shape == (0, 4)
    assert bank_mask(queries, []).shape == (4, 0)


@pytest.mark.skipif("BSAP_TEST_DATA" not in os.environ, reason="BSAP_TEST_DATA names no real data")
def test_real_expressions_are_drawn_and_masked() -> None:
    lines = (Path(os.environ["BSAP_TEST_DATA"]) / "reclip/refcoco_val.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [sentence["raw"].lower() for line in lines for sentence in json.loads(line)["sentences"]]
    bank = load_bank("captions", split_texts=texts)
    mask = bank_mask(texts, bank.prompts)
    # Every prompt is some expression, so every column loses a row, and no expression loses two prompts.
    assert len(bank.prompts) == 500
    assert (~mask).any(0).all()
    assert (~mask).sum(1).max() == 1


# --- learned ----------------------------------------------------------------------------------------------------------


def test_a_learned_bank_is_a_tensor_and_what_made_it(tmp_path: Path) -> None:
    features = torch.randn(4, 8)
    save_file({"features": features}, tmp_path / "bank.safetensors")
    write(tmp_path / "bank.json", json.dumps({"name": "mine", "model": "demo"}))
    for spec in (f"learned:{tmp_path}", f"learned:{tmp_path / 'bank.safetensors'}"):
        bank = load_bank(spec)
        assert bank.features is not None
        assert torch.equal(bank.features, features)
        assert (bank.name, bank.prompts, bank.meta["model"]) == ("mine", (), "demo")


@pytest.mark.parametrize(
    ("tensors", "notes", "message"),
    [
        (None, "{}", "bank.safetensors does not exist"),
        ({"features": torch.ones(2, 3)}, None, "bank.json does not exist"),
        ({"features": torch.ones(2, 3)}, "{", "not readable as JSON"),
        ({"features": torch.ones(2, 3)}, "[]", "expected a JSON object"),
        ({"other": torch.ones(2, 3)}, "{}", "expected a tensor `features`"),
        ({"features": torch.ones(3)}, "{}", r"of shape \(K, D\), but got \(3,\)"),
        ({"features": torch.ones(0, 3)}, "{}", r"but got \(0, 3\)"),
        ({"features": torch.full((2, 3), torch.nan)}, "{}", "NaN or infinite"),
        (b"rubbish", "{}", "not a safetensors file"),
    ],
)
def test_damaged_learned_banks(tmp_path: Path, tensors: Any, notes: str | None, message: str) -> None:
    if isinstance(tensors, bytes):
        (tmp_path / "bank.safetensors").write_bytes(tensors)
    elif tensors is not None:
        save_file(tensors, tmp_path / "bank.safetensors")
    if notes is not None:
        write(tmp_path / "bank.json", notes)
    with pytest.raises(ConfigError, match=message):
        load_bank(f"learned:{tmp_path}")


# --- hostile and damaged files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
        ),
        "prompts: " + "[" * 100_000,
        "prompts: !!int abc\n",
        "prompts: !!python/object/apply:os.system [true]\n",
        "&a [*a]\n",
        "prompts: [" + "x" * 200_000 + ", 5]\n",
    ],
    ids=["aliases", "nesting", "int", "python", "itself", "long"],
)  # fmt: skip
def test_hostile_yaml_is_one_short_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_bank(write(tmp_path / "bank.yaml", text))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("value", ["no", "00011", "1_000", "1:30", "0x1F", "~x", "2024-01-01"])
def test_prompts_are_read_as_they_are_written(tmp_path: Path, value: str) -> None:
    assert load_bank(write(tmp_path / "bank.yaml", f"prompts: [{value}]\n")).prompts == (value,)


@given(
    meta=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "scorer", "learned", "settings", "tau", "model", "weights_sha256"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_description_of_a_learned_bank_is_read_or_refused(tmp_path: Path, meta: object) -> None:
    save_file({"features": torch.ones(2, 3)}, tmp_path / "bank.safetensors")
    (tmp_path / "bank.json").write_text(json.dumps(meta))
    model = SimpleNamespace(label="m", weights_sha256="0", dim=3)
    with contextlib.suppress(ConfigError):
        bank = load_bank(f"learned:{tmp_path}")
        learned_scorer(bank.meta)
        check_learned_bank(bank, [model])  # type: ignore[list-item]
