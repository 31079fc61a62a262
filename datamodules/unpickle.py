"""Reading a pickle without running it.

``refs(*).p`` files are pickles from the network, and a pickle is a program. This reader is Python's own unpickler, the
one that is written in Python, with only the instructions that build plain data: lists, tuples, dictionaries, sets,
strings, bytes, numbers, booleans and None. It has no instruction that imports, calls or changes an object, so nothing
in a file can run. Protocols 0 to 5 are read, those that Python 2 wrote included; Python 2's byte strings become text
through latin-1.

The unpickler that is written in C, with a forbidding ``find_class``, would be faster but still hands a file ways to
exhaust memory or time: a memo index of four billion, or tuples nested so that hashing one as a key takes years. Here
memory grows with the file's size only, and dictionary keys and set members must be scalars.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bsap.errors import DataError


class UnsafePickleError(DataError):
    """A pickle that asks for more than plain data."""


_PLAIN = (
    "PROTO FRAME MARK GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET"
)
"""The instructions that build plain data, beside STOP, by their names in :mod:`pickletools`."""

_HASHED = {
    "SETITEM": slice(-2, -1),
    "SETITEMS": slice(None, None, 2),
    "DICT": slice(None, None, 2),
    "ADDITEMS": slice(None),
    "FROZENSET": slice(None),
}
"""Which values of the stack an instruction takes as keys or members."""

_SCALARS = {str, int, float, bool, bytes, type(None)}


def load_plain_pickle(data: bytes, name: str) -> object:
    r"""The plain data that a pickle describes.

    Args:
        data: the pickle's bytes.
        name: what to call it in errors, usually the file.

    Returns:
        Lists, tuples, dictionaries and sets of str, bytes, int, float, bool and None.

    Raises:
        UnsafePickleError: if the pickle asks for anything else. Nothing of it has been executed.
        DataError: if the bytes are not a pickle or are cut short.

    Example:
        >>> import pickle
        >>> load_plain_pickle(pickle.dumps([{"ref_id": 1, "split": "val"}]), "refs(unc).p")
        [{'ref_id': 1, 'split': 'val'}]
        >>> load_plain_pickle(b"cos\nsystem\n(S'true'\ntR.", "refs(unc).p")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ...
        bsap.datamodules.unpickle.UnsafePickleError: refs(unc).p: refused at byte 0 ...
    """
    machine = _Machine(data, name)
    try:
        return machine.load()
    except (IndexError, KeyError, struct.error):
        reason = "it ends too early, or an instruction lacks its values"
    except pickle.UnpicklingError as error:
        reason = str(error)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    at = f"byte {machine.file.tell()} of {len(data)}"
    raise DataError(f"{name}: not a readable pickle at {at}: {reason}. Download the file again.")


class _Machine(pickle._Unpickler):
    """Python's unpickler without the buffer that it reads frames into, which takes half of its time."""

    def __init__(self, data: bytes, name: str) -> None:
        self.file, self.name = io.BytesIO(data), name
        super().__init__(self.file, encoding="latin-1")
        self.read, self.readline = self.file.read, self.file.readline
        self.stack: list[Any] = []
        self.metastack: list[list[Any]] = []
        self.append = self.stack.append
        self.proto = 0

    def load(self) -> object:
        """Follow the instructions up to STOP."""
        read, steps = self.read, _STEPS
        with suppress(StopIteration):
            while True:
                steps[read(1)](self)
        if len(self.stack) != 1 or self.metastack:
            raise pickle.UnpicklingError("its end leaves unfinished values")
        return self.stack[0]


def _stop(machine: _Machine) -> None:
    raise StopIteration


def _refuse(machine: _Machine) -> None:
    """Name the instruction that is not one of plain data."""
    at = machine.file.tell() - 1
    code = machine.file.getvalue()[at]
    known = {op.code: op.name for op in pickletools.opcodes}.get(chr(code))
    if known is None:
        raise pickle.UnpicklingError(f"no pickle instruction has the code {code:#04x}")
    raise UnsafePickleError(
        f"{machine.name}: refused at byte {at}: the pickle instruction {known} is not one of plain data (lists, "
        "dictionaries, strings and numbers). Nothing was executed. Do not open this file with Python's own pickle. "
        "Download it from a source you trust."
    )


def _step(op: pickletools.OpcodeInfo) -> Callable[[Any], object]:
    """What an instruction of plain data does: as Python defines it, once its keys are known to be scalars."""
    follow: Callable[[Any], object] = pickle._Unpickler.dispatch[ord(op.code)]
    if op.name == "FRAME":
        return lambda machine: machine.read(8)
    if op.name not in _HASHED:
        return follow
    hashed = _HASHED[op.name]

    def check_and_follow(machine: _Machine) -> None:
        if not _SCALARS.issuperset(map(type, machine.stack[hashed])):
            raise pickle.UnpicklingError("a container as a key")
        follow(machine)

    return check_and_follow


_STEPS: dict[bytes, Callable[[Any], object]] = {bytes([code]): _refuse for code in range(256)}
_STEPS |= {op.code.encode("latin-1"): _step(op) for op in pickletools.opcodes if op.name in _PLAIN.split()}
_STEPS[b"."] = _stop
