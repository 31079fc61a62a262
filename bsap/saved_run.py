"""Reading a run folder back: what ran and what came out, without torch, a model or the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bsap.errors import DataError

NEEDED = ("metrics", "counts", "protocol", "settings", "models", "precision", "complete", "partial", "transductive")
PROTOCOL = ("dataset", "split_by", "split", "proposals", "hit", "bank", "encoders", "views")


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
    lost = _lost(results, NEEDED) or [f"protocol.{key}" for key in _lost(results["protocol"], PROTOCOL)]
    if lost:
        raise DataError(f"{path}: not the results of a run, it lacks {', '.join(lost)}.")
    return dict(results)


def _lost(value: Any, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if not isinstance(value, dict) or key not in value]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as YAML ({error}).") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise DataError(f"{path}: not the settings of a run, it has no section `model`.")
    return settings
