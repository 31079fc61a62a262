"""Banks of auxiliary prompts.

A bank is data: a YAML file with a name, a source and a list of prompts. Some banks are shipped, two are computed from
the expressions of the split, and a bank can be a file of the user or learned embeddings.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bsap.datamodules.fields import shown
from bsap.datamodules.files import expanded, parse_json, parse_yaml, read_bytes, text_lines, what_is
from bsap.errors import ConfigError, DataError, check_number, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from bsap.scoring import Scorer

CAPTIONS = "captions"
SCENE = "scene"
LEARNED = "learned:"

_COMPUTED = {
    CAPTIONS: "random distinct expressions of the split, seeded (Red Circle, arXiv 2304.06712, draws 500 captions)",
    SCENE: "all expressions about the same picture",
}


@dataclass(frozen=True)
class Bank:
    """Auxiliary prompts.

    Attributes:
        name: its name in configurations and results.
        prompts: K texts, before any template; none where the bank is of each scene, or is learned embeddings.
        source: where the prompts come from.
        transductive: made from the expressions under test; results say so, and :func:`bank_mask` leaves out the query.
        per_scene: the prompts of a scene are its ``texts``.
        features: ``(K, D)`` learned text embeddings in place of prompts.
        meta: what made the bank, for the results; for a learned bank also what it may be used with.
    """

    name: str
    prompts: tuple[str, ...]
    source: str
    transductive: bool = False
    per_scene: bool = False
    features: Tensor | None = field(default=None, compare=False, repr=False)
    meta: dict[str, Any] = field(default_factory=dict, compare=False)


def load_bank(
    spec: str | Sequence[str], *, split_texts: Sequence[str] | None = None, seed: int = 0, size: int = 500
) -> Bank:
    """The bank that a configuration means.

    Args:
        spec: a list of prompts; a shipped name; a ``.yaml`` or ``.txt`` file; ``"captions"``: ``size`` random
            expressions of the split; ``"scene"``: the expressions of each scene; or ``"learned:PATH"``.
        split_texts: all expressions of the full, unfiltered split, for ``"captions"`` alone. Their order and
            multiplicity do not matter, so that every process draws the same.
        seed: of the drawing.
        size: how many captions to draw; all, where the split has fewer distinct ones.

    Returns:
        The bank.

    Raises:
        ConfigError: unknown name, unreadable or malformed file, no prompts, or prompts that are equal apart from case
            and spaces.

    Example:
        >>> bank = load_bank("coco_categories")
        >>> len(bank.prompts), bank.prompts[:3], bank.transductive
        (80, ('person', 'bicycle', 'car'), False)
    """
    if not isinstance(spec, str):
        if not isinstance(spec, (list, tuple)):
            raise ConfigError(f"A bank is a name, a file or a list of prompts, but got {spec!r:.200}.")
        return Bank(name="list", prompts=_check_prompts(list(spec), where="the list"), source="a list of prompts")
    if spec.startswith(LEARNED):
        return load_learned_bank(expanded(spec.removeprefix(LEARNED)))
    if spec == CAPTIONS:
        return _captions(split_texts, seed=seed, size=size)
    if spec == SCENE:
        return Bank(name=SCENE, prompts=(), source=_COMPUTED[SCENE], transductive=True, per_scene=True)
    path = expanded(spec)
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(_read(path), where=str(path), name=path.stem)
    if path.suffix == ".txt":
        with _as_settings():
            prompts = _check_prompts(text_lines(_read(path), str(path)), where=str(path))
        return Bank(name=path.stem, prompts=prompts, source=f"file {path.name}")
    shipped = _shipped()
    if spec not in shipped:
        if os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
            _read(path)  # says why a folder, a pipe or a device is no bank
            raise ConfigError(f"Bank {path}: a file of prompts is named .yaml, .yml or .txt. Rename the file.")
        raise unknown("bank", spec, [*shipped, *_COMPUTED])
    return _from_yaml(shipped[spec], where=f"shipped bank {spec}", name=spec)


def list_banks() -> tuple[Bank, ...]:
    """Every bank that has a name: the shipped ones, then the computed ones, which have no prompts before a split."""
    computed = (
        Bank(name=name, prompts=(), source=source, transductive=True, per_scene=name == SCENE)
        for name, source in _COMPUTED.items()
    )
    return (*map(load_bank, _shipped()), *computed)


def too_small_for(bank: Bank, scorers: Mapping[str, Scorer]) -> dict[str, int]:
    """The scorers that want more prompts than a bank has, and how many they want; they use what there is.

    Args:
        bank: the bank. One of each scene counts as too small for every scorer that wants a number.
        scorers: by name.
    """
    size = len(bank.prompts) if bank.features is None else len(bank.features)
    return {name: s.prompts_wanted for name, s in scorers.items() if s.prompts_wanted and s.prompts_wanted > size}


def load_learned_bank(path: Path) -> Bank:
    """A bank of learned embeddings.

    Args:
        path: a ``.safetensors`` file with one tensor ``features`` of shape ``(K, D)``, beside a ``.json`` file of the
            same name that says what made it; or a folder that holds ``bank.safetensors`` and ``bank.json``.

    Returns:
        The bank; ``meta`` is the content of the JSON file. :func:`check_learned_bank` tells whether it suits a model.

    Raises:
        ConfigError: a file that is missing or not what it should be.
    """
    tensors = path / "bank.safetensors" if path.is_dir() else path
    notes = tensors.with_suffix(".json")
    for file in (tensors, notes):
        if not file.is_file():
            raise ConfigError(f"Learned bank {path}: {file} {what_is(file)}. Give the folder or the .safetensors file.")
    meta = _read_meta(notes)

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        features = load_file(tensors).get("features")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"Learned bank {tensors}: not a safetensors file ({error}).") from error
    if features is None or features.dim() != 2 or 0 in features.shape or not features.is_floating_point():
        got = "no such tensor" if features is None else f"{tuple(features.shape)} of {features.dtype}"
        raise ConfigError(f"Learned bank {tensors}: expected a tensor `features` of shape (K, D), but got {got}.")
    if not bool(features.isfinite().all()):
        raise ConfigError(f"Learned bank {tensors}: `features` has NaN or infinite values. Learn the bank again.")
    name = meta.get("name") or path.stem
    return Bank(name=str(name), prompts=(), source=f"learned, {path.name}", features=features.float(), meta=meta)


@contextmanager
def _as_settings() -> Iterator[None]:
    """Errors of reading a bank's file as errors of the setting that names it."""
    try:
        yield
    except DataError as error:
        raise ConfigError(str(error)) from error


_META: dict[str, Any] = {"name": str, "scorer": (str, Mapping), "learned": Mapping, "settings": Mapping}
"""What ``bank.json`` may hold and what it must be; null stands for a value that is not known."""


def _read_meta(file: Path) -> dict[str, Any]:
    with _as_settings():
        meta = parse_json(read_bytes(file, what="description of a learned bank", fix=""), f"Learned bank {file}")
    if not isinstance(meta, dict):
        raise ConfigError(f"Learned bank {file}: expected a JSON object, but got {type(meta).__name__}.")
    templates = (meta.get("settings") or {}).get("templates") if isinstance(meta.get("settings"), dict) else None
    values = {name: (meta.get(name), kind) for name, kind in _META.items()}
    values["settings.templates"] = (templates, Mapping)
    for name, (value, kind) in values.items():
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                f"Learned bank {file}: `{name}` must not be {shown(value)}. Learn the bank again with `bsap fit`."
            )
    for name, value in (meta.get("learned") or {}).items():
        if name not in ("tau", "lam"):
            raise unknown(f"learned value in {file}", name, ("tau", "lam"))
        check_number(f"learned.{name} of {file}", value, above=name == "tau", most=1.0 if name == "lam" else math.inf)
    return meta


class Model(Protocol):
    """What a learned bank needs to know of a model."""

    @property
    def label(self) -> str:
        """Its name in results."""

    @property
    def weights_sha256(self) -> str:
        """Digest of its weights."""

    @property
    def dim(self) -> int:
        """D."""


def check_learned_bank(bank: Bank, models: Sequence[Model]) -> None:
    """Refuse a learned bank with any model but its own; banks of texts suit all.

    Args:
        bank: the bank.
        models: the ensemble's models.

    Raises:
        ConfigError: with the reason.
    """
    if bank.features is None:
        return
    made_for = bank.meta.get("model")
    sha256 = made_for.get("weights_sha256") if isinstance(made_for, Mapping) else None
    if not isinstance(made_for, Mapping) or not isinstance(sha256, str):
        raise ConfigError(
            f"Learned bank {bank.name!r} does not say which model it was learned with: its JSON file needs "
            "`model` with `weights_sha256`."
        )
    if bank.meta.get("query_context"):
        raise ConfigError(
            f"Learned bank {bank.name!r} was learned together with context before the queries, which tests do not use: "
            "its numbers would mean nothing. Learn the bank again with `bsap fit`."
        )
    for model in models:
        if model.weights_sha256 != sha256:
            raise ConfigError(
                f"Learned bank {bank.name!r} was learned with model {made_for.get('label')!r} (weights {sha256[:12]}), "
                f"not with {model.label!r} (weights {model.weights_sha256[:12]}): features of other weights mean "
                "nothing to it. Learn one with `bsap fit`, or choose another bank."
            )
        if bank.features.shape[1] != model.dim:
            raise ConfigError(
                f"Learned bank {bank.name!r} has features of length {bank.features.shape[1]}, but model "
                f"{model.label!r} has {model.dim}."
            )


def normalise_text(text: str) -> str:
    """The text apart from case and spaces, as far as the identity of two expressions goes.

    Example:
        >>> normalise_text("  The  LEFT one ")
        'the left one'
    """
    return " ".join(text.casefold().split())


def bank_mask(queries: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Which prompts count for which query: all but those equal to it, apart from case and spaces.

    For banks drawn from the expressions under test. Texts are all that is compared: leaving out the other expressions
    of the same referent would tell the scorer which expressions belong together, and so leak labels.

    Args:
        queries: E expressions, without templates.
        prompts: K prompts, without templates.

    Returns:
        ``(E, K)`` bool, True where the prompt counts.

    Example:
        >>> bank_mask(["left dog"], ["Left  dog", "cat"]).tolist()
        [[False, True]]
    """
    import torch

    mask = torch.ones(len(queries), len(prompts), dtype=torch.bool)
    positions = _positions(tuple(prompts))
    for row, query in enumerate(queries):
        for column in positions.get(normalise_text(query), ()):
            mask[row, column] = False
    return mask


@lru_cache(maxsize=8)  # the same few hundred prompts come with every scene
def _positions(prompts: tuple[str, ...]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for column, prompt in enumerate(prompts):
        positions.setdefault(normalise_text(prompt), []).append(column)
    return positions


def _captions(texts: Sequence[str] | None, *, seed: int, size: int) -> Bank:
    if texts is None:
        raise ConfigError(
            f"Bank {CAPTIONS!r} is drawn from the expressions of a split, but there is no split. Name another bank."
        )
    if size < 1:
        raise ConfigError(f"Bank {CAPTIONS!r} must draw at least 1 expression, but the size is {size}.")
    distinct: dict[str, str] = {}
    for text in sorted(texts):
        if key := normalise_text(text):
            distinct.setdefault(key, text)
    if not distinct:
        raise ConfigError(f"Bank {CAPTIONS!r} is empty: the split has no expressions.")
    drawn = random.Random(seed).sample(sorted(distinct), min(size, len(distinct)))
    meta = {"seed": seed, "size": len(drawn), "distinct": len(distinct)}
    prompts = tuple(distinct[key] for key in drawn)
    return Bank(name=CAPTIONS, prompts=prompts, source=_COMPUTED[CAPTIONS], transductive=True, meta=meta)


def _shipped() -> dict[str, str]:
    """Text of each shipped bank by name."""
    folder = files("bsap.configs") / "banks"
    found = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in sorted(found, key=_name)}


def _name(file: Any) -> str:
    return str(file.name)


def _read(path: Path) -> bytes:
    fix = f"Give a YAML or UTF-8 text file, or one of {_names()}."
    with _as_settings():
        return read_bytes(path, what="bank", fix=fix)


def _names() -> str:
    return ", ".join([*_shipped(), *_COMPUTED])


def _from_yaml(data: bytes | str, *, where: str, name: str) -> Bank:
    with _as_settings():
        content = parse_yaml(data, where)
    if not isinstance(content, Mapping):
        raise ConfigError(f"Bank {where}: expected the keys name, source and prompts, but got {shown(content)}.")
    for key in content:
        if key not in ("name", "source", "prompts"):
            raise unknown(f"key of bank {where}", key, ("name", "source", "prompts"))
    prompts = _check_prompts(content.get("prompts"), where=where)
    source = content.get("source") or f"file {Path(where).name}"
    return Bank(name=str(content.get("name") or name), prompts=prompts, source=str(source))


def _check_prompts(prompts: object, *, where: str) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not prompts:
        raise ConfigError(f"Bank {where} is empty: list at least one text under `prompts`, but got {shown(prompts)}.")
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            kind = type(prompt).__name__
            raise ConfigError(f"Bank {where}, prompt {number}: {shown(prompt)} is a {kind}. Put texts in quotes.")
        if not (key := normalise_text(prompt)):
            raise ConfigError(f"Bank {where}, prompt {number} is blank. Remove it.")
        if key in seen:
            raise ConfigError(
                f"Bank {where}, prompt {number}: {shown(prompt)} repeats prompt {seen[key]}, apart from case and "
                "spaces. Remove one: a repeated prompt counts twice."
            )
        seen[key] = number
    return tuple(prompts)
