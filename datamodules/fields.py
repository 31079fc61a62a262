"""Typed access to the fields of records that other people's programs wrote."""

from __future__ import annotations

import reprlib
from array import array
from dataclasses import fields
from typing import Any, TypeVar, cast

from bsap.errors import ConfigError, DataError, check_names

T = TypeVar("T")

_INT64 = 2**63
_FLOAT32 = 3.4e38
_LONGEST = 120


class _Short(reprlib.Repr):
    def repr_array(self, x: array[Any], level: int) -> str:  # packed polygons are lists in their file
        return self.repr_list(x[: self.maxlist + 1].tolist(), level)


_short = _Short()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """A value as an error message shows it: short, whatever it is.

    Example:
        >>> shown([1, 2, 3, 4, 5, 6, 7, 8])
        '[1, 2, 3, 4, 5, 6, ...]'
    """
    try:
        text = _short.repr(value)
    except Exception:  # numbers with too many digits, structures nested too deeply
        return f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def whole(value: object) -> int | None:
    """A whole number, also one that a program wrote with a point as 100.0; None for anything else.

    Example:
        >>> whole(100), whole(100.0), whole(100.5), whole(True)
        (100, 100, None, None)
    """
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def identity(value: object, where: str) -> str:
    """An id as text: files write the same id as a number here and as a string there.

    Example:
        >>> identity(580957, "line 1"), identity("580957", "line 2")
        ('580957', '580957')
    """
    if isinstance(value, str) and value and is_text(value):
        return value
    exact = whole(value)
    if exact is not None and abs(exact) < _INT64:
        return str(exact)
    raise DataError(f"{where}: expected an id (an integer or a text), but got {shown(value)}.")


def is_text(value: str) -> bool:
    """Whether a string can be written to a UTF-8 file and used in a path."""
    if value.isascii():
        return "\0" not in value
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def number(value: object, where: str) -> float:
    """A number that is finite in single precision, too."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _FLOAT32:  # not so: NaN
        return float(value)
    raise DataError(f"{where}: expected a finite number, but got {shown(value)}.")


class Record:
    """Named fields with the place they came from; whatever is not as expected becomes a :class:`DataError`.

    Args:
        value: what should be a mapping.
        where: file and record, the beginning of every error message.

    Example:
        >>> record = Record({"width": 640, "file_name": "a.jpg"}, "instances.json, image 7")
        >>> record.size("width")
        640
        >>> record.identity("id")
        Traceback (most recent call last):
        ...
        bsap.errors.DataError: instances.json, image 7: the field 'id' is missing.
    """

    __slots__ = ("values", "where")

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object with named fields, but got {shown(value)}.")
        self.values: dict[Any, Any] = value
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def __getitem__(self, key: str) -> Any:
        value = self.values.get(key)
        if value is None:
            raise DataError(f"{self.where}: the field {key!r} is missing.")
        return value

    def get(self, key: str) -> Any:
        """The field's value, or None."""
        return self.values.get(key)

    def text(self, key: str) -> str:
        """A text that holds more than white space."""
        value = self[key]
        if not isinstance(value, str) or not value.strip() or not is_text(value):
            raise DataError(f"{self.where}: {key!r} must be a text that is not empty, but got {shown(value)}.")
        return value

    def identity(self, key: str) -> str:
        """An id, as text."""
        value = self[key]
        if type(value) is int and -_INT64 < value < _INT64:  # nearly always, hundreds of thousands of times
            return str(value)
        return identity(value, f"{self.where}, {key!r}")

    def size(self, key: str) -> int:
        """A positive whole number of pixels."""
        value = self[key]
        pixels = whole(value)
        if pixels is None or not 0 < pixels < 2**24:
            raise DataError(f"{self.where}: {key!r} must be a positive number of pixels, but got {shown(value)}.")
        return pixels

    def items(self, key: str) -> list[Any]:
        """A list."""
        value = self[key]
        if not isinstance(value, list):
            raise DataError(f"{self.where}: {key!r} must be a list, but got {shown(value)}.")
        return value


def from_mapping(kind: type[T], value: object, where: str) -> T:
    """An instance of a dataclass from a mapping of its fields, as YAML holds it; lists become tuples.

    Raises:
        ConfigError: if the value is not a mapping, has an unknown key, or lacks a field without default.

    Example:
        >>> from dataclasses import dataclass
        >>> Point = dataclass(type("Point", (), {"__annotations__": {"x": int, "y": int}}))
        >>> from_mapping(Point, {"x": 1, "z": 2}, "points.yaml")
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: Unknown key of points.yaml 'z'. Known: x, y.
    """
    known = [field.name for field in fields(cast(Any, kind))]
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected the keys {', '.join(known)}, but got {shown(value)}.")
    check_names(f"key of {where}", value, known)
    try:
        return kind(**{key: tuple(item) if isinstance(item, list) else item for key, item in value.items()})
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).rpartition('__init__() ')[2]}.") from None
