"""Reading a pickle without running it.

``refs(*).p`` files are pickles from the network, and a pickle is a program. This reader is a machine that knows only
the instructions which build plain data: lists, tuples, dictionaries, sets, strings, bytes, numbers, booleans and None.
It has no instruction that imports, calls or changes an object, so nothing in a file can run. Protocols 0 to 5 are read,
those that Python 2 wrote included; Python 2's byte strings become text through latin-1.

Python's own unpickler with a forbidding ``find_class`` would be faster but still hands a file ways to exhaust memory or
time: a memo index of four billion, or tuples nested so that hashing one as a key takes years. Here memory grows with
the file's size only, and dictionary keys and set members must be scalars.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from typing import Any

from bsap.errors import DataError


class UnsafePickleError(DataError):
    """A pickle that asks for more than plain data."""


_SCALARS = (str, int, float, bool, bytes, type(None))
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_EMPTY = {ord("]"): list, ord("}"): dict, ord(")"): tuple, 0x8F: set}
_NUMBERS = {ord("K"): ("<B", 1), ord("J"): ("<i", 4), ord("G"): (">d", 8)}
_USHORT, _UINT = struct.Struct("<H").unpack_from, struct.Struct("<I").unpack_from
# instruction -> (bytes of its length field, codec; None keeps bytes)
_SIZED: dict[int, tuple[int, str | None]] = {
    0x8C: (1, "utf-8"),
    0x8D: (8, "utf-8"),
    ord("U"): (1, "latin-1"),
    ord("T"): (4, "latin-1"),
    ord("C"): (1, None),
    ord("B"): (4, None),
    0x8E: (8, None),
}
_LONGS = {0x8A: 1, 0x8B: 4}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_HIGHEST_PROTOCOL = 5


class _MalformedError(Exception):
    """The bytes are no pickle, or one that is cut short."""


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
        return machine.run()
    except _MalformedError as error:
        reason = str(error)
    except (IndexError, struct.error):
        reason = "it ends too early"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise DataError(
        f"{name}: not a readable pickle at byte {machine.position} of {len(data)}: {reason}. Download the file again."
    )


class _Machine:
    """A stack machine over the harmless part of the pickle language."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.position = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        """Follow the instructions up to STOP.

        The commonest instructions are handled here, where locals are fast: a full refs file has millions.
        """
        data, memo, at = self.data, self.memo, 0
        stack = self.stack
        while True:
            code = data[at]
            if code == 0x72:  # LONG_BINPUT
                memo[_UINT(data, at + 1)[0]] = stack[-1]
                at += 5
            elif code == 0x68:  # BINGET
                stack.append(memo[data[at + 1]])
                at += 2
            elif code == 0x71:  # BINPUT
                memo[data[at + 1]] = stack[-1]
                at += 2
            elif code == 0x6A:  # LONG_BINGET
                stack.append(memo[_UINT(data, at + 1)[0]])
                at += 5
            elif code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                at += 1
            elif code == 0x58:  # BINUNICODE
                end = at + 5 + _UINT(data, at + 1)[0]
                if end > len(data):
                    raise _MalformedError("it ends too early")
                stack.append(data[at + 5 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif code == 0x4D:  # BININT2
                stack.append(_USHORT(data, at + 1)[0])
                at += 3
            elif code == 0x28:  # MARK
                self.marked.append(stack)
                stack = []
                at += 1
            elif code in _EMPTY:
                stack.append(_EMPTY[code]())
                at += 1
            elif code == 0x2E:  # STOP
                if len(stack) != 1 or self.marked:
                    raise _MalformedError("its end leaves unfinished values")
                return stack[0]
            else:
                self.stack, self.position = stack, at + 1
                if code in _SIZED:
                    stack.append(self.sized(*_SIZED[code]))
                else:
                    self.rarer(code)
                stack, at = self.stack, self.position

    def rarer(self, code: int) -> None:
        """Everything that is not frequent enough to stand in the loop."""
        stack = self.stack
        if code in b"aesu\x90":
            self.fill(code)
        elif code in _NUMBERS:
            form, size = _NUMBERS[code]
            stack.append(struct.unpack(form, self.take(size))[0])
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in b"ltd\x91":
            self.collect(code)
        elif code in _TUPLES:
            size = _TUPLES[code]
            if len(stack) < size:
                raise _MalformedError("a tuple without its items")
            stack[-size:] = [tuple(stack[-size:])]
        elif code in _LONGS:
            size = int.from_bytes(self.take(_LONGS[code]), "little")
            stack.append(int.from_bytes(self.take(size), "little", signed=True))
        elif code in b"ILFSVgp":
            self.line(code)
        elif code == 0x80:
            if self.take(1)[0] > _HIGHEST_PROTOCOL:
                raise _MalformedError("a pickle protocol above 5")
        elif code == 0x95:
            self.take(8)
        else:
            self.refuse(code)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; the position moves behind them."""
        start, end = self.position, self.position + size
        if end > len(self.data):
            raise _MalformedError("it ends too early")
        self.position = end
        return self.data[start:end]

    def sized(self, width: int, codec: str | None) -> str | bytes:
        """A string or bytes behind a length of ``width`` bytes."""
        value = self.take(int.from_bytes(self.take(width), "little"))
        if codec is None:
            return value
        return value.decode(codec, "surrogatepass" if codec == "utf-8" else "strict")

    def line(self, code: int) -> None:
        """The instructions of protocol 0, whose argument is the rest of a line."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise _MalformedError("it ends too early")
        argument = self.data[self.position : end]
        self.position = end + 1
        if code == 0x67:  # GET
            self.stack.append(self.memo[int(argument)])
        elif code == 0x70:  # PUT
            self.memo[int(argument)] = self.stack[-1]
        elif code == 0x49:  # INT, which also spells booleans
            self.stack.append({b"00": False, b"01": True}[argument] if argument in (b"00", b"01") else int(argument))
        elif code == 0x4C:  # LONG
            self.stack.append(int(argument.rstrip(b"L")))
        elif code == 0x46:  # FLOAT
            self.stack.append(float(argument))
        elif code == 0x56:  # UNICODE
            self.stack.append(argument.decode("raw-unicode-escape"))
        else:  # STRING, in quotes and escaped as Python 2 wrote it
            argument = argument.strip()
            if len(argument) < 2 or argument[0] != argument[-1] or argument[0] not in b"'\"":
                raise _MalformedError("a string without quotes")
            self.stack.append(codecs.escape_decode(argument[1:-1])[0].decode("latin-1"))

    def since_mark(self) -> list[Any]:
        """The values since the last mark, which leaves with them."""
        if not self.marked:
            raise _MalformedError("the end of a group that never began")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def fill(self, code: int) -> None:
        """APPEND, APPENDS, SETITEM, SETITEMS, ADDITEMS: put values into the container below them."""
        if code == 0x61:
            items = [self.stack.pop()]
        elif code == 0x73:
            items = self.stack[-2:]
            del self.stack[-2:]
        else:
            items = self.since_mark()
        container = self.stack[-1]
        if code in b"ae" and type(container) is list:
            container.extend(items)
        elif code in b"su" and type(container) is dict:
            container.update(self.pairs(items))
        elif code == 0x90 and type(container) is set:
            container.update(self.scalars(items))
        else:
            raise _MalformedError(f"items for a {type(container).__name__}")

    def collect(self, code: int) -> None:
        """LIST, TUPLE, DICT, FROZENSET: make a container of the values since the mark."""
        items = self.since_mark()
        if code == 0x6C:
            self.stack.append(items)
        elif code == 0x74:
            self.stack.append(tuple(items))
        elif code == 0x64:
            self.stack.append(self.pairs(items))
        else:
            self.stack.append(frozenset(self.scalars(items)))

    def pairs(self, items: list[Any]) -> dict[Any, Any]:
        """Alternating keys and values as a dictionary."""
        if len(items) % 2:
            raise _MalformedError("a key without its value")
        return dict(zip(self.scalars(items[::2]), items[1::2], strict=True))

    def scalars(self, items: list[Any]) -> list[Any]:
        """The items, if hashing them is harmless."""
        for item in items:
            if not isinstance(item, _SCALARS):
                raise _MalformedError(f"a {type(item).__name__} as a key")
        return items

    def refuse(self, code: int) -> None:
        """Name the instruction that is not one of plain data."""
        known = {op.code: op for op in pickletools.opcodes}.get(chr(code))
        if known is None:
            raise _MalformedError(f"no pickle instruction has the code {code:#04x}")
        raise UnsafePickleError(
            f"{self.name}: refused at byte {self.position - 1}: the pickle instruction {known.name} is not one of "
            "plain data (lists, dictionaries, strings and numbers). Nothing was executed. Do not open this file with "
            "Python's own pickle. Download it from a source you trust."
        )
