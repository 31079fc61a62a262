"""Banks of auxiliary prompts.

A bank is data: a YAML file with a name, a source and a list of prompts. Some banks are shipped, two are computed from
the expressions of the split, some are made from each query, and a bank can be a file of the user or learned embeddings.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bsap.datamodules.fields import shown
from bsap.datamodules.files import expanded, parse_json, parse_yaml, read_bytes, text_lines, what_is
from bsap.errors import ConfigError, DataError, check_names, check_number, unknown
from bsap.prompts.equal_texts import distinct, normalise_text
from bsap.prompts.query_banks import QUERY_BANKS, OfQuery, OtherNouns, filled, query_bank

if TYPE_CHECKING:
    from torch import Tensor

    from bsap.prompts.sentences import Sentences
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
        transductive: made from the expressions under test; results say so, and
            :func:`~bsap.prompts.equal_texts.bank_mask` leaves out the query.
        per_scene: the prompts of a scene are its ``texts``.
        template: the sentence around each prompt, where the bank has its own.
        of_query: for a bank whose prompts are made from each query, what makes them.
        features: ``(K, D)`` learned text embeddings in place of prompts.
        meta: what made the bank, for the results; for a learned bank also what it may be used with.
    """

    name: str
    prompts: tuple[str, ...]
    source: str
    transductive: bool = False
    per_scene: bool = False
    template: str | None = None
    of_query: OfQuery | None = field(default=None, compare=False, repr=False)
    features: Tensor | None = field(default=None, compare=False, repr=False)
    meta: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def size(self) -> int:
        """K; 0 where each scene or each query has prompts of its own."""
        return len(self.prompts if self.features is None else self.features)

    @property
    def sentences(self) -> Sentences | None:
        """What parses the queries, for a bank that is made from their parses."""
        return self.of_query.sentences if isinstance(self.of_query, OtherNouns) else None

    def prompts_of(self, query: str) -> tuple[str, ...]:
        """The distinct prompts of a query.

        Example:
            >>> load_bank(["not {}", "a dog"]).prompts_of("a cat")
            ('not a cat', 'a dog')
        """
        return tuple(distinct(self.prompts if self.of_query is None else self.of_query(query)).values())


def load_bank(
    spec: str | Sequence[str],
    *,
    split_texts: Sequence[str] | None = None,
    seed: int = 0,
    size: int = 500,
    store: Path | None = None,
) -> Bank:
    """The bank that a configuration means.

    Args:
        spec: a list of prompts, in which ``{}`` stands for the query; a shipped name; a ``.yaml`` or ``.txt`` file;
            ``"captions"``: ``size`` random expressions of the split; ``"scene"``: the expressions of each scene;
            ``"other_nouns"`` or ``"dropped_words"``: made from each query; or ``"learned:PATH"``.
        split_texts: all expressions of the full, unfiltered split, for ``"captions"`` alone. Their order and
            multiplicity do not matter, so that every process draws the same.
        seed: of the drawing.
        size: how many captions to draw; all, where the split has fewer distinct ones.
        store: folder of the feature store, where parses are kept, or None.

    Returns:
        The bank.

    Raises:
        ConfigError: unknown name, unreadable or malformed file, no prompts, or prompts that are equal apart from case
            and spaces.
        ModelError: the spaCy pipeline of ``"other_nouns"`` is not installed.

    Example:
        >>> bank = load_bank("coco_categories")
        >>> len(bank.prompts), bank.prompts[:3], bank.transductive
        (80, ('person', 'bicycle', 'car'), False)
    """
    if not isinstance(spec, str):
        if not isinstance(spec, (list, tuple)):
            raise ConfigError(f"A bank is a name, a file or a list of prompts, but got {spec!r:.200}.")
        return _of_texts("list", _check_prompts(list(spec), where="the list"), "a list of prompts")
    if spec.startswith(LEARNED):
        return load_learned_bank(expanded(spec.removeprefix(LEARNED)))
    if spec == CAPTIONS:
        return _captions(split_texts, seed=seed, size=size)
    if spec == SCENE:
        return Bank(name=SCENE, prompts=(), source=_COMPUTED[SCENE], transductive=True, per_scene=True)
    if (name := spec.partition(":")[0]) in QUERY_BANKS:
        return Bank(name=name, prompts=(), source=QUERY_BANKS[name], of_query=query_bank(spec, store))
    path = expanded(spec)
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(_read(path), where=str(path), name=path.stem)
    if path.suffix == ".txt":
        with _as_settings():
            prompts = _check_prompts(text_lines(_read(path), str(path)), where=str(path))
        return _of_texts(path.stem, prompts, f"file {path.name}")
    shipped = _shipped()
    if spec not in shipped:
        if os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
            _read(path)  # says why a folder, a pipe or a device is no bank
            raise ConfigError(f"Bank {path}: a file of prompts is named .yaml, .yml or .txt. Rename the file.")
        raise unknown("bank", spec, [*shipped, *_COMPUTED, *QUERY_BANKS])
    return _from_yaml(shipped[spec], where=f"shipped bank {spec}", name=spec)


def list_banks() -> tuple[Bank, ...]:
    """Every bank that has a name: the shipped ones, then the computed ones, which have no prompts before a split."""
    computed = (
        Bank(name=name, prompts=(), source=source, transductive=True, per_scene=name == SCENE)
        for name, source in _COMPUTED.items()
    )
    of_query = (Bank(name=name, prompts=(), source=source) for name, source in QUERY_BANKS.items())
    return (*map(load_bank, _shipped()), *computed, *of_query)


def too_small_for(bank: Bank, scorers: Mapping[str, Scorer]) -> dict[str, int]:
    """The scorers that want more prompts than a bank has, and how many they want; they use what there is.

    A bank of each scene is too small for every scorer that wants a number.
    """
    return {name: s.prompts_wanted for name, s in scorers.items() if s.prompts_wanted and s.prompts_wanted > bank.size}


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
"""The keys of ``bank.json`` that are checked, and their types; null stands for a value that is not known."""


@_as_settings()
def _read_meta(file: Path) -> dict[str, Any]:
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
    learned = meta.get("learned") or {}
    check_names(f"learned value in {file}", learned, ("tau", "lam"))
    for name, value in learned.items():
        check_number(f"learned.{name} of {file}", value, above=name == "tau", most=1.0 if name == "lam" else math.inf)
    return meta


class Model(Protocol):
    """The properties of a model that a learned bank depends on."""

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
    """Refuse, with a ConfigError, a learned bank with any model but its own; banks of texts suit all."""
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


def _captions(texts: Sequence[str] | None, *, seed: int, size: int) -> Bank:
    if texts is None:
        raise ConfigError(
            f"Bank {CAPTIONS!r} is drawn from the expressions of a split, but there is no split. Name another bank."
        )
    if size < 1:
        raise ConfigError(f"Bank {CAPTIONS!r} must draw at least 1 expression, but the size is {size}.")
    found = distinct(text for text in sorted(texts) if normalise_text(text))
    if not found:
        raise ConfigError(f"Bank {CAPTIONS!r} is empty: the split has no expressions.")
    drawn = random.Random(seed).sample(sorted(found), min(size, len(found)))
    meta = {"seed": seed, "size": len(drawn), "distinct": len(found)}
    prompts = tuple(found[key] for key in drawn)
    return Bank(name=CAPTIONS, prompts=prompts, source=_COMPUTED[CAPTIONS], transductive=True, meta=meta)


def _shipped() -> dict[str, str]:
    """Text of each shipped bank by name."""
    folder = files("bsap.configs") / "banks"
    found = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda file: file.name)
    }


@_as_settings()
def _read(path: Path) -> bytes:
    names = ", ".join([*_shipped(), *_COMPUTED, *QUERY_BANKS])
    fix = f"Give a YAML or UTF-8 text file, or one of {names}."
    return read_bytes(path, what="bank", fix=fix)


@_as_settings()
def _from_yaml(data: bytes | str, *, where: str, name: str) -> Bank:
    content = parse_yaml(data, where)
    if not isinstance(content, Mapping):
        raise ConfigError(f"Bank {where}: expected the keys name, source and prompts, but got {shown(content)}.")
    check_names(f"key of bank {where}", content, ("name", "source", "template", "prompts"))
    for key in ("name", "source"):
        if not isinstance(content.get(key, ""), str):
            raise ConfigError(f"Bank {where}: `{key}` must be a text, but got {shown(content[key])}.")
    template = content.get("template")
    if template is not None and not (isinstance(template, str) and template.count("{}") == 1):
        raise ConfigError(f"Bank {where}: `template` must hold exactly one {{}}, but got {shown(template)}.")
    # Around the empty text, the template of all banks leaves half a sentence; a bank with its own knows what it does.
    prompts = _check_prompts(content.get("prompts"), where=where, blank=template is not None)
    source = content.get("source") or f"file {Path(where).name}"
    return _of_texts(content.get("name") or name, prompts, source, template=template)


def _of_texts(name: str, prompts: tuple[str, ...], source: str, *, template: str | None = None) -> Bank:
    """A bank of texts, of the query where ``{}`` stands in one."""
    of_query = partial(filled, prompts) if any("{}" in prompt for prompt in prompts) else None
    return Bank(name=name, prompts=prompts, source=source, template=template, of_query=of_query)


def _check_prompts(prompts: object, *, where: str, blank: bool = False) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not prompts:
        raise ConfigError(f"Bank {where} is empty: list at least one text under `prompts`, but got {shown(prompts)}.")
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            kind = type(prompt).__name__
            raise ConfigError(f"Bank {where}, prompt {number}: {shown(prompt)} is a {kind}. Put texts in quotes.")
        if not (key := normalise_text(prompt)) and not blank:
            raise ConfigError(f"Bank {where}, prompt {number} is blank. Remove it.")
        if key in seen:
            raise ConfigError(
                f"Bank {where}, prompt {number}: {shown(prompt)} repeats prompt {seen[key]}, apart from case and "
                "spaces. Remove one: a repeated prompt counts twice."
            )
        seen[key] = number
    return tuple(prompts)
