"""Reading files that other programs wrote: bytes, text, JSON, JSON lines and YAML."""

from __future__ import annotations

import codecs
import gc
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bsap.datamodules.fields import Record, shown
from bsap.errors import DataError

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DEEPEST = 100
"""Levels of YAML that are read."""

_MOST_ALIASED = 100_000
"""How many values the aliases of a YAML text may repeat: a text of ten lines can spell a billion."""


def expanded(path: str | Path) -> Path:
    """A path whose leading ``~`` or ``~user`` is the home folder, as a shell understands it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def below(root: Path, path: str) -> Path:
    """A path as it is given where something is there, else below a root."""
    given = expanded(path)
    try:
        return given if given.exists() else root / given
    except (OSError, ValueError):  # no path at all: reading it says so
        return given


def is_regular(path: Path) -> bool:
    """Whether a path is a file with content. Reading a pipe or a device may never end.

    Raises:
        OSError: if there is nothing at the path, or it cannot be looked at.
        ValueError: if the path cannot be one.
    """
    return stat.S_ISREG(path.stat().st_mode)


def what_is(path: Path) -> str:
    """What there is at a path instead of a regular file, as the end of a sentence."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be looked at ({error})"
    return "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device"


def read_bytes(path: str | Path, *, what: str, fix: str) -> bytes:
    """The content of a file that has to be there.

    Args:
        path: the file; may begin with ``~``.
        what: what it holds, for the error message.
        fix: what to do when it is missing, for the error message.

    Raises:
        DataError: if the file is missing, cannot be read, or is a folder, a pipe or a device.
    """
    path = expanded(path)
    try:
        if is_regular(path):
            return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"No {what} at {path}. {fix}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the {what} at {path}: {error}.") from error
    raise DataError(f"Cannot read the {what} at {path}: it {what_is(path)}. Name a regular file.")


def sha256(data: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def as_utf8(data: bytes, where: str) -> bytes:
    """Text without a byte-order mark, as UTF-8. Windows programs write a mark, and UTF-16 or UTF-32 with it.

    Raises:
        DataError: if the bytes are not what their mark says.
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            if encoding == "utf-8":
                return data[len(mark) :]
            try:
                return data.decode(encoding).encode()
            except UnicodeError as error:
                raise DataError(f"{where}: not readable as {encoding}: {error}. Save the file as UTF-8.") from None
    return data


def text_lines(data: bytes, where: str) -> list[str]:
    """The lines of a text file without surrounding white space; blank lines are left out.

    Raises:
        DataError: if the file is not text.
    """
    try:
        text = as_utf8(data, where).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not a text file in UTF-8: {error}.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def parse_json(
    data: bytes | str, where: str, *, hook: Callable[[dict[str, Any]], Any] | None = None, unique: bool = False
) -> Any:
    """JSON, with errors that name the place.

    Args:
        data: the text.
        where: the place, for errors.
        hook: may replace each object as soon as it is read.
        unique: whether an object that names a field twice is an error; JSON keeps the last one. Excludes ``hook``.

    Raises:
        DataError: if the text is not JSON, is nested too deeply, or names a field twice where ``unique``.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise DataError(f"{where}: the field {shown(twice)} occurs twice in one object. Merge what they hold.")
        return values

    text = as_utf8(data, where) if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_hook=hook, object_pairs_hook=once if unique else None)
    except RecursionError:
        raise DataError(f"{where}: not readable as JSON: nested too deeply.") from None
    except ValueError as error:  # JSON syntax, encoding, numbers with too many digits
        raise DataError(f"{where}: not readable as JSON: {error}.") from None


def json_records(data: bytes, name: str) -> Iterator[tuple[int, Record]]:
    """The records of a file of JSON lines, or of one JSON array of them. Blank lines are skipped.

    Yields:
        The number of the line, or of the array's item, counted from 1, and the record.

    Raises:
        DataError: if a line is not JSON, or a record is not an object.
    """
    data = as_utf8(data, name)
    if data.lstrip().startswith(b"["):
        for n, item in enumerate(parse_json(data, name), start=1):
            yield n, Record(item, f"{name}, record {n}")
        return
    for n, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            where = f"{name}, line {n}"
            yield n, Record(parse_json(line, where), where)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around texts that either YAML 1.1 or :class:`_Loader` would read as something else."""


class _Loader(yaml.SafeLoader):
    """YAML in which only ``true``, ``false``, ``null`` and decimal numbers are more than text.

    YAML 1.1, which PyYAML reads, takes ``00011`` for 9, ``1_000`` for 1000, ``1:30`` for 90, ``0x1F`` for 31 and ``no``
    for false: ids, categories and splits of those names would become others.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own form

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803 - PyYAML's own name
        """Refuse deep nesting early: the scanner looks at all open brackets for each token."""
        if self.flow_level >= _DEEPEST:
            raise yaml.YAMLError("nested too deeply")
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """Refuse deep nesting of blocks, too."""
        if len(self.indents) >= _DEEPEST:
            raise yaml.YAMLError("nested too deeply")
        return super().add_indent(column)


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"0|-?[1-9][0-9]*", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?", "-.0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)|-?(?:0|[1-9][0-9]*)\.", "-0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that this package, and any reader of YAML 1.1 or 1.2, reads back as the same data.

    Example:
        >>> print(dump_yaml({"ids": ["00011", "1e5"]}), end="")
        ids:
        - '00011'
        - '1e5'
    """
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))


def parse_yaml(data: bytes | str, where: str) -> Any:
    """YAML as plain data; only ``true``, ``false``, ``null`` and decimal numbers are more than text.

    Raises:
        DataError: if the text is not YAML, is nested too deeply, or repeats too much by aliases.

    Example:
        >>> parse_yaml("{ids: [00011, 1_000, 9], split: no, lr: 1e-3}", "config.yaml")
        {'ids': ['00011', '1_000', 9], 'split': 'no', 'lr': 0.001}
    """
    try:
        loader = _Loader(as_utf8(data, where) if isinstance(data, bytes) else data)
        node = loader.get_single_node()
        if node is None:
            return None
        sizes: dict[yaml.Node, int] = {}
        if _size(node, sizes) - len(sizes) > _MOST_ALIASED:
            raise DataError(f"{where}: aliases repeat more than {_MOST_ALIASED} values. Write the values out.")
        return loader.construct_document(node)
    except RecursionError:
        raise DataError(f"{where}: not readable as YAML: nested too deeply.") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        # PyYAML lets the errors of int() and the like through for `!!int abc`.
        raise DataError(f"{where}: not readable as YAML: {' '.join(str(error).split())}.") from None


def _size(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """How many values a node stands for, aliases written out; an alias of a node inside itself has no end."""
    if node not in sizes:
        sizes[node] = _MOST_ALIASED * 10  # until it is known: the size that an alias inside the node itself adds
        parts: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
        sizes[node] = 1 + sum(_size(part, sizes) for part in inner)
    return sizes[node]


@contextmanager
def paused_gc() -> Iterator[None]:
    """No garbage collection inside: reading millions of objects that all stay, it only costs time, about a third."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
