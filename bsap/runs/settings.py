"""Settings as plain data: what YAML, JSON and digests are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

SPEED_SETTINGS = ("region_batch", "store")
"""Settings of the model that change how long a run takes and how much memory, never a number."""


def plain(value: Any) -> Any:
    """The same settings made of dictionaries, lists, strings, numbers, booleans and None only.

    A dataclass that is not one of the package's settings (a view or scorer built in Python) becomes its ``class_path``
    and ``init_args``, so that a configuration file can name it.

    Example:
        >>> from bsap.prompts.templates import Templates
        >>> plain({"templates": Templates(), "views": ("crop",)})
        {'templates': {'query': 'a photo of {}', 'bank': 'a photo of {}'}, 'views': ['crop']}
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        if getattr(value, "named_by_class", False):
            return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": fields}
        return fields
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain(item) for item in value]


def digest(settings: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the settings' canonical JSON.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(plain(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Where two settings differ, a line each.

    Example:
        >>> differences({"model": {"bank": "generic", "strict": True}}, {"model": {"bank": "colours", "strict": True}})
        ["model.bank: 'generic' -> 'colours'"]
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}):
            lines += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]
