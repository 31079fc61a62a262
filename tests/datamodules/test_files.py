from __future__ import annotations

import gc
import json
import os
import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsap.datamodules.files import (
    as_utf8,
    below,
    dump_yaml,
    expanded,
    json_records,
    parse_json,
    parse_yaml,
    paused_gc,
    read_bytes,
    text_lines,
)
from bsap.errors import DataError


def test_json_errors_name_the_line() -> None:
    lines = json_records(b'{"a": 1}\n\n{"a": }\n', "x.jsonl")
    assert next(lines)[0] == 1
    with pytest.raises(DataError, match=r"x\.jsonl, line 3: not readable as JSON"):
        next(lines)
    for data in (b"[" * 200_000, b"\xff\xfe\xfa", b'{"a": ' + b"9" * 5000 + b"}", b"", b"{", b"\x00"):
        with pytest.raises(DataError, match=r"^x\.json: not readable as"):
            parse_json(data, "x.json")


def test_lines_and_an_array_give_the_same_records() -> None:
    values = [{"a": n, "b": "ä\u2028"} for n in range(3)]
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    array = json.dumps(values, indent=1)
    for text in (lines, array):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            assert [record.values for _, record in json_records(text.encode(encoding), "x")] == values


@given(st.text(st.characters(exclude_characters="\0")))
def test_marks_are_dropped(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode().removeprefix("\ufeff")
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert as_utf8(text.encode(encoding), "x").decode() == text
    expected = [line.strip() for line in text.splitlines() if line.strip()]
    assert text_lines(text.encode("utf-8-sig"), "x") == expected


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No list at .*gone.* Make one"):
        read_bytes(tmp_path / "gone", what="list", fix="Make one.")
    with pytest.raises(DataError, match=r"Cannot read the list .* a folder"):
        read_bytes(tmp_path, what="list", fix="")
    with pytest.raises(DataError, match="Cannot read the list"):
        read_bytes(Path("a\0b"), what="list", fix="")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match=r"Cannot read the list .* a pipe or a device"):
            read_bytes(path, what="list", fix="")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.json").write_text("[]")
    assert read_bytes("~/x.json", what="list", fix="") == b"[]"
    assert below(Path("/other"), "~/x.json") == tmp_path / "x.json"
    assert below(tmp_path, "x.json") == tmp_path / "x.json"
    assert str(expanded("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"


AS_WRITTEN = ("00011", "1_000", "1:30", "0o17", "0x1F", "0b1", "+1", "no", "yes", "on", "off", "2020-01-01", "=", "-0")
SCALARS = {"9": 9, "-12": -12, "0": 0, "true": True, "False": False, "null": None, "~": None, "1e-3": 0.001, "1.": 1.0}
SCALARS |= {".5": 0.5, "-2.5": -2.5, ".inf": float("inf"), "1.0e-05": 1e-05}


def test_yaml_keeps_what_is_not_a_plain_number() -> None:
    for text in AS_WRITTEN:
        assert parse_yaml(f"a: [{text}]\nb: {text}\n{text}: 1", "x") == {"a": [text], "b": text, text: 1}
    for text, value in SCALARS.items():
        read = parse_yaml(f"[{text}]", "x")
        assert read == [value]
        assert type(read[0]) is type(value)


texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8))
def test_yaml_reads_what_is_dumped(value: object) -> None:
    assert parse_yaml(dump_yaml(value), "x") == value
    assert yaml.safe_load(dump_yaml(value)) == value
    assert parse_yaml(json.dumps(value), "x") == value


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
BOMB += "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(12))
MERGES = "a: &a {k: 1}\n" + "".join(f"b{n}: &a {{<<: [*a, *a]}}\n" for n in range(40))


@pytest.mark.parametrize(
    "text",
    [
        BOMB, MERGES, "[" * 100_000, "{a: " * 100_000, "- " * 100_000, "&a [*a]", "a: &a {<<: *a}", "!!int abc",
        "!!bool abc", "!!float ''", "!!int ''", "!!timestamp abc", "!!int " + "9" * 5000, "9" * 5000, "? [1]\n: 2",
        "!!python/object:os.x {}", "!!python/object/apply:os.system [true]", "a: b: c", "\x00", "*a", "<<: 3",
        "!!set [a]", "a: [", "'", "--- a\n--- b",
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_yaml_that_is_refused(text: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=r"^banks\.yaml: ") as caught:
        parse_yaml(text, "banks.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * 2**20
    assert len(str(caught.value)) < 1000


def test_aliases_within_reason() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: {x: *a, y: *a}\n", "x") == {"a": [1, 2], "b": {"x": [1, 2], "y": [1, 2]}}
    assert len(parse_yaml("\n".join(f"- {n}" for n in range(20_000)), "x")) == 20_000
    assert parse_yaml("", "x") is None


def test_collection_is_resumed() -> None:
    assert gc.isenabled()
    with paused_gc():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), paused_gc():
        _ = 1 // 0
    assert gc.isenabled()
