"""Settings: where a run is written, and all settings as plain data, of which YAML, JSON and digests are made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import Any

from bsap.datamodules.files import expanded
from bsap.errors import ConfigError, check_number

SPEED_SETTINGS = ("region_batch", "store", "check_pictures")
"""Settings of the model that change how long a run takes and how much memory, never a number."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a run is written.

    Attributes:
        root: the folder of all runs; a ``~`` at its beginning means the home folder.
        name: the folder of this run inside ``root``; by default a digest of the resolved configuration, never a clock.
        overwrite: start again from nothing where the folder already holds a run; by default that run is continued. A
            job that SLURM requeues is continued in any case: it has started from nothing once.
        breakdown: fields by which results are also broken down: ``category``, ``words``, ``distractors``.
        all_scores: also record each scorer's scores of all regions, not only of the chosen one. ``predictions.jsonl``
            becomes several times larger; by default off.
        timeout: minutes that a process waits for the other processes, at the start and at the end.
    """

    root: str = "runs"
    name: str | None = None
    overwrite: bool = False
    breakdown: list[str] = dataclasses.field(default_factory=list)
    all_scores: bool = False
    timeout: float = 60.0

    def patience(self) -> timedelta:
        """How long a process waits for the others.

        Raises:
            ConfigError: if ``timeout`` is not a positive number.
        """
        check_number("run.timeout", self.timeout, above=True)
        return timedelta(minutes=self.timeout)

    def folder(self, settings: Any) -> Path:
        """The run's folder, by default named by a digest of the settings.

        Raises:
            ConfigError: if ``name`` is not the name of a folder inside ``root``.
        """
        root = expanded(self.root)
        name = digest(settings) if self.name is None else self.name
        path = PurePath(name)
        # The folder `parts` of a run is emptied when the run ends.
        reserved = {"..", "parts"} & set(path.parts) or any(part.startswith("~") for part in path.parts)
        if not path.parts or path.is_absolute() or reserved or "\0" in name:
            raise ConfigError(
                f"Expected `run.name` to be the name of a folder inside `run.root` ({root}), but got {name!r}. Choose "
                "a plain name, for example `--run.name first`."
            )
        return root / name


def store_folder(store: str | None, run: RunConfig | None) -> Path | None:
    """The feature store's folder, or None when none is kept; ``auto`` is a folder beside the runs."""
    if store == "auto":
        return None if run is None else expanded(run.root) / "features"
    return None if store is None else expanded(store)


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


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change a number, without those of speed and memory: runs with equal ones are the same run."""
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    kept.pop("run", None)
    for section, names in (("data", ("num_workers", "batch_size")), ("model", SPEED_SETTINGS)):
        for name in names:
            kept.get(section, {}).pop(name, None)
    kept["model"]["encoders"] = [
        {key: value for key, value in encoder.items() if key not in ("compile", "channels_last")}
        for encoder in kept["model"].get("encoders") or ()
    ]
    return kept


def region_bank_name(described: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """What tells the region bank that results describe from others, and its name in a table; bare settings are none.

    Example:
        >>> region_bank_name({"split": "train", "regions": 2000, "digest": "0f"}), region_bank_name(None)
        (('0f', '2000 of train'), (None, 'none'))
    """
    if described is None or "digest" not in described:
        return None, "none"
    return described["digest"], f"{described['regions']} of {described['split']}"


def digest(settings: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the settings' canonical JSON.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(plain(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The differences between two settings, a line each.

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


def some(what: str, items: Any) -> list[Any]:
    """A setting that takes several values, of which one may stand alone.

    Raises:
        ConfigError: anything else, or none.

    Example:
        >>> some("view", "crop")
        ['crop']
    """
    if isinstance(items, (str, Mapping)):
        items = [items]
    if not isinstance(items, Sequence) or not len(items):
        raise ConfigError(f"Expected a list of at least one {what}, but got {items!r}.")
    return list(items)
