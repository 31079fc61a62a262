"""The catalogue of datasets and where each can be had: ``configs/sources.yaml`` and files of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TypeVar

from bsap.datamodules.fields import from_mapping, shown
from bsap.datamodules.files import parse_yaml, read_bytes
from bsap.errors import ConfigError, check_names, unknown

FORMS = ("refer_zip", "hub_referents", "hub_sets", "hub_reviews", "hub_samples", "ref_l4", "reclip")
"""The forms that :mod:`bsap.datamodules.sources.forms` converts."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place where a dataset can be had; see ``configs/sources.yaml`` for the fields."""

    name: str
    form: str
    address: str
    objects: str | None = None
    about_mb: float = 0
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset and its sources; see ``configs/sources.yaml`` for the fields."""

    name: str
    about: str
    licence: str
    sources: tuple[Source, ...]
    split_by: str | None = None
    splits: tuple[str, ...] = ()
    pictures: str | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def chosen(self, source: str | None) -> tuple[Source, ...]:
        """The sources to try, in order: all, or the one of a name."""
        if source is None:
            return self.sources
        found = tuple(s for s in self.sources if s.name == source)
        if not found:
            raise unknown(f"source of {self.name}", source, [s.name for s in self.sources])
        return found


@dataclass(frozen=True, kw_only=True)
class SharedFile:
    """A file, or pictures by name, that several datasets use."""

    name: str
    address: str
    licence: str = ""
    member: str | None = None
    about_mb: float = 0
    sha256: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """Datasets and shared files, by name."""

    datasets: dict[str, Dataset]
    files: dict[str, SharedFile]

    def dataset(self, name: str) -> Dataset:
        """The dataset of a name; raises a ConfigError with the nearest names for an unknown one."""
        if name not in self.datasets:
            raise unknown("dataset", name, self.datasets)
        return self.datasets[name]


def read_catalogue(own: Sequence[str] = ()) -> Catalogue:
    """The shipped catalogue, with the user's files added in order.

    Args:
        own: YAML files in the form of ``configs/sources.yaml``; what they name replaces what has the same name.

    Raises:
        ConfigError: for a file that does not have the form.
        DataError: for a file that is missing or not YAML.
    """
    shipped = files("bsap.configs") / "sources.yaml"
    contents = [("sources.yaml", parse_yaml(shipped.read_bytes(), "sources.yaml"))]
    for file in own:
        data = read_bytes(file, what="catalogue of sources", fix="Set `--sources` to a file that exists.")
        contents.append((file, parse_yaml(data, file)))
    datasets: dict[str, Dataset] = {}
    shared: dict[str, SharedFile] = {}
    for file, content in contents:
        for name, value in _entries(content, file, "datasets").items():
            datasets[name] = _dataset(name, value, file)
        for name, value in _entries(content, file, "files").items():
            shared[name] = _made(SharedFile, name, value, f"{file}, {name}")
    for dataset in datasets.values():
        for needed in (dataset.pictures, *(source.objects for source in dataset.sources)):
            if needed is not None and needed not in shared:
                raise unknown(f"file that {dataset.name} needs", needed, shared)
    return Catalogue(datasets, shared)


def _entries(content: object, file: str, key: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected the keys datasets and files, but got {shown(content)}.")
    check_names(f"key of {file}", content, ("datasets", "files"))
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: `{key}` must be a mapping of names, but is {shown(value)}.")
    return value


def _dataset(name: str, value: object, file: str) -> Dataset:
    where = f"{file}, {name}"
    if not isinstance(value, dict) or not isinstance(value.get("sources"), list) or not value["sources"]:
        raise ConfigError(f"{where}: a dataset needs a list of `sources`, but got {shown(value)}.")
    sources = tuple(_made(Source, None, source, f"{where}, sources") for source in value["sources"])
    check_names(f"form of a source of {name}", (source.form for source in sources), FORMS)
    rest = {**value, "sources": sources, "splits": tuple(map(str, value.get("splits") or ()))}
    return _made(Dataset, name, rest, where)


def _made(kind: type[T], name: str | None, value: object, where: str) -> T:
    """An entry of the catalogue; null means that a key is left out."""
    if not isinstance(value, dict):
        return from_mapping(kind, value, where)
    given = {key: item for key, item in value.items() if item is not None}
    return from_mapping(kind, given if name is None else given | {"name": name}, where)
