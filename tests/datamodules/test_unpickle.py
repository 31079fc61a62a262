from __future__ import annotations

import contextlib
import pickle
import pickletools
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsap.datamodules.unpickle import UnsafePickleError, load_plain_pickle
from bsap.errors import DataError

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
    | st.integers(min_value=2**2000, max_value=2**2040)
)
keys = st.text() | st.integers() | st.booleans() | st.none() | st.binary()
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner) | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=25,
)


def has_bytes(value: object) -> bool:
    if isinstance(value, dict):
        return any(has_bytes(v) for pair in value.items() for v in pair)
    if isinstance(value, (list, tuple)):
        return any(map(has_bytes, value))
    return isinstance(value, bytes)


@settings(max_examples=300, deadline=None)
@given(value=plain, protocol=st.integers(0, 5))
def test_reads_what_python_writes(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    if protocol < 3 and has_bytes(value):  # these protocols write bytes as a call of _codecs.encode
        with pytest.raises(UnsafePickleError):
            load_plain_pickle(data, "x")
        return
    read = load_plain_pickle(data, "x")
    assert read == value
    assert repr(read) == repr(value)  # 1 == True == 1.0


@pytest.mark.parametrize("protocol", range(6))
def test_shared_and_long_values(protocol: int) -> None:
    """More than 255 memo entries, shared objects, sets where the protocol has them, long strings."""
    shared = ["ä", "\udc80"]
    value = [[shared, {str(n): n}, "x" * n, n * 10**n, -n, n / 7] for n in range(400)]
    read = load_plain_pickle(pickle.dumps(value, protocol=protocol), "x")
    assert read == value
    assert read[0][0] is read[399][0]  # type: ignore[index]
    if protocol >= 4:
        sets = [{1, "a"}, frozenset({2.5, None})]
        assert load_plain_pickle(pickle.dumps(sets, protocol=protocol), "x") == sets


def test_python_2_strings_are_latin_1() -> None:
    """What Python 2.7 writes, with protocols 0 and 2, for a list of unicode, str, long and bool."""
    expected = ["é", "café", 3, 2**70, True, 'it\'s "quoted"\n']
    zero = b"(lp0\nV\xe9\np1\naS'caf\\xe9'\np2\naL3L\naL1180591620717411303424L\naI01\naS'it\\'s \"quoted\"\\n'\np3\na."
    assert load_plain_pickle(zero, "x") == expected
    two = (
        b"\x80\x02]q\x00(X\x02\x00\x00\x00\xc3\xa9q\x01U\x04caf\xe9q\x02\x8a\x01\x03"
        b'\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@\x88U\x0eit\'s "quoted"\nq\x03e.'
    )
    assert load_plain_pickle(two, "x") == expected


class Exploit:
    """Its pickle runs code that leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.witness), "w"))


def payloads(witness: Path) -> dict[str, bytes]:
    touch = f"open('{witness}', 'w')"
    found = {f"reduce, protocol {p}": pickle.dumps([Exploit(witness)], protocol=p) for p in range(6)}
    found |= {
        "GLOBAL": b"cos\nsystem\n(S'touch %b'\ntR." % str(witness).encode(),
        "INST": b"(S'%b'\nios\nsystem\n." % f"touch {witness}".encode(),
        "OBJ": b"(cos\nsystem\nS'touch %b'\no." % str(witness).encode(),
        "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c"
        + bytes([len(touch)])
        + touch.encode()
        + b"\x85R.",
        "NEWOBJ": b"\x80\x02cbuiltins\nset\n)\x81.",
        "NEWOBJ_EX": b"\x80\x04\x8c\x08builtins\x8c\x03set\x93)}\x92.",
        "BUILD": b"]}S'x'\nK\x01sb.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"Pabc\n.",
        "BINPERSID": b"K\x01Q.",
        "NEXT_BUFFER": b"\x80\x05\x97.",
        "READONLY_BUFFER": b"\x80\x05]\x98.",
        "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.",
        "OrderedDict": pickle.dumps(OrderedDict(a=1)),
        "complex": pickle.dumps(1j),
        "REDUCE without a callable": b"](K\x01tR.",
    }
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    pickle.loads(payloads(witness)["reduce, protocol 2"])
    assert witness.exists(), "the payload must work where it is not refused"
    witness.unlink()
    for name, data in payloads(witness).items():
        with pytest.raises(UnsafePickleError, match="refused at byte") as caught:
            load_plain_pickle(data, "refs(unc).p")
        assert "refs(unc).p" in str(caught.value), name
        assert not witness.exists(), name


def test_every_instruction_is_plain_or_refused() -> None:
    """No instruction of the language may raise anything but DataError, whatever it stands on."""
    refused = set()
    for op in pickletools.opcodes:
        for before in (b"", b"]", b"(", b"}K\x01K\x02", b"K\x01", b"]("):
            for after in (b".", b"\x01\x00\x00\x00\x00\x00\x00\x00.", b"1\n1\n.", b"'a'\n."):
                try:
                    load_plain_pickle(before + op.code.encode("latin-1") + after, "x")
                except UnsafePickleError as error:
                    if f"at byte {len(before)}: the pickle instruction {op.name} " in str(error):
                        refused.add(op.name)
                except DataError:
                    pass
    assert refused == {
        "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4",
        "PERSID", "BINPERSID", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "POP", "POP_MARK", "DUP",
    }  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x06].",
        b"not a pickle at all",
        b"<!DOCTYPE html><html>404</html>",
        b"]",
        b"](",
        b"](.",
        b"]].",
        b".",
        b"e.",
        b"K\x01K\x02e.",
        b"}K\x01s.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"}K\x01\x85K\x01s.",
        b"h\x00.",
        b"j\xff\xff\xff\xff.",
        b"Iabc\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"Fabc\n.",
        b"S'abc\n.",
        b"Sabc\n.",
        b"S'\\x'\n.",
        b"X\xff\xff\xff\xffabc.",
        b"X\x02\x00\x00\x00\xff\xfe.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x85.",
    ],
)
def test_malformed_pickles_are_data_errors(data: bytes) -> None:
    with pytest.raises(DataError, match="not a readable pickle") as caught:
        load_plain_pickle(data, "refs(unc).p")
    assert not isinstance(caught.value, UnsafePickleError)


def test_every_truncation_and_many_flips_are_data_errors(root: Path) -> None:
    data = (root / "tiny" / "refs(own).p").read_bytes()
    for end in range(0, len(data), 3):
        with pytest.raises(DataError):
            load_plain_pickle(data[:end], "x")
    for at in range(0, len(data), 2):
        for flip in (1, 64, 128):
            with contextlib.suppress(DataError):
                load_plain_pickle(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :], "x")


def test_bombs_neither_grow_nor_hang() -> None:
    """Inputs that make Python's own unpickler allocate gigabytes or hash for years."""
    nested = b"K\x01\x85" + b"q\x00h\x00\x86" * 200  # pairs of pairs of pairs ...
    started = time.perf_counter()
    tracemalloc.start()
    load_plain_pickle(b"]r\xff\xff\xff\xff.", "x")  # a memo index of four billion
    load_plain_pickle(nested + b".", "x")
    with pytest.raises(DataError, match="as a key"):
        load_plain_pickle(b"}" + nested + b"K\x01s.", "x")
    with pytest.raises(DataError):
        load_plain_pickle(b"\x8f(" + nested + b"\x90.", "x")
    with pytest.raises(DataError):
        load_plain_pickle(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "x")
    load_plain_pickle(b"]" * 100_000 + b"a" * 99_999 + b".", "x")  # nested so deeply that recursion would fail
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert time.perf_counter() - started < 20
