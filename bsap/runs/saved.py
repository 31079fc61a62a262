"""Reading a run folder back: what ran and what came out, without torch, a model or the data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from bsap.errors import DataError

Kinds = dict[str, type | UnionType]

NEEDED: Kinds = {
    "metrics": dict,
    "counts": dict,
    "protocol": dict,
    "settings": dict,
    "models": list,
    "precision": dict,
    "complete": bool,
    "partial": bool,
    "transductive": bool,
}
PROTOCOL: Kinds = {
    "dataset": str | None,
    "split_by": str | None,
    "split": str | None,
    "proposals": dict | None,
    "hit": str,
    "bank": dict | None,
    "encoders": list,
    "views": list,
}
COUNTS: Kinds = {"seen": int, "selected": int, "skipped": int, "published": int | None}


@dataclass(frozen=True)
class SavedRun:
    """A run folder.

    Attributes:
        folder: where it is.
        settings: the resolved settings, as ``config.yaml`` holds them.
        results: ``results.json``, or None where the folder holds none.
    """

    folder: Path
    settings: dict[str, Any]
    results: dict[str, Any] | None

    def finished(self) -> dict[str, Any]:
        """The results.

        Raises:
            DataError: if there are none.
        """
        if self.results is None:
            raise unfinished(self.folder, "results.json")
        return self.results


def read_run(folder: Path) -> SavedRun:
    """Read a run folder.

    Args:
        folder: for example ``runs/1f0c...``.

    Raises:
        DataError: if it is no run folder, or a file in it cannot be read.
    """
    results_file, config_file = folder / "results.json", folder / "config.yaml"
    if not (results_file.exists() or config_file.exists()):
        raise DataError(f"{folder} is no run folder: {_reason(folder)}")
    results = _read_results(results_file) if results_file.exists() else None
    settings = _read_config(config_file) if results is None else results["settings"]
    return SavedRun(folder, settings, results)


def unfinished(folder: Path, name: str) -> DataError:
    """The error for a run folder that lacks a file which a finished run has."""
    parts = len(list((folder / "parts").glob("*.jsonl")))
    state = f", its records so far lie in {folder / 'parts'}" if parts else ""
    return DataError(
        f"{folder} has no {name}: the run is not finished{state}. Run `bsap test` again with the same settings to "
        f"finish it, for example `bsap test -c {folder / 'config.yaml'}`."
    )


def _reason(folder: Path) -> str:
    if folder.is_file():
        return f"it is a file. Name the folder, for example {folder.parent}."
    if not folder.exists():
        return "it does not exist."
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if runs:
        return f"it holds {len(runs)} of them. Name the run itself, for example {runs[0]}."
    return "it has neither results.json nor config.yaml."


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error
    if (problem := _problem(results)) is not None:
        raise DataError(f"{path}: not the results of a run, {problem}.")
    return dict(results)


def _problem(results: Any) -> str | None:
    """What keeps a file from being the results of a run, or None."""
    faults = _faults(results, NEEDED, "") or [
        *_faults(results["protocol"], PROTOCOL, "protocol."),
        *_faults(results["counts"], COUNTS, "counts."),
        *_faults(results["settings"], {"model": dict}, "settings."),
        *_faults({"breakdown": {}, **results}, {"breakdown": dict}, ""),
    ]
    if faults:
        return ", ".join(faults)
    if not results["metrics"] or not all(results["metrics"].values()):
        return "it holds no metric"
    encoders = results["protocol"]["encoders"]
    if not all(isinstance(encoder, dict) and "name" in encoder for encoder in encoders):
        return f"its protocol.encoders is {json.dumps(encoders)[:40]}"
    return None


def _faults(value: Any, kinds: Kinds, prefix: str) -> list[str]:
    """What a section lacks, or holds of another type than expected."""
    lost = [prefix + key for key in kinds if not isinstance(value, dict) or key not in value]
    if lost:
        return [f"it lacks {', '.join(lost)}"]
    return [
        f"its {prefix}{key} is {json.dumps(value[key])[:40]}"
        for key, kind in kinds.items()
        if not isinstance(value[key], kind)
    ]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as YAML ({error}).") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise DataError(f"{path}: not the settings of a run, it has no section `model`.")
    return settings
