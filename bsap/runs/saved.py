"""Reading a run folder: what ran and what came out, without torch, a model or the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict, cast

from bsap.datamodules.files import parse_json, parse_yaml, read_bytes
from bsap.errors import DataError
from bsap.runs.json_types import Check, checker
from bsap.runs.schema import NUMBERS, Results


class _Config(TypedDict):
    """The keys that every ``config.yaml`` of a run folder has."""

    model: dict[str, Any]


_check_results, _check_config = checker(Results), checker(_Config)


@dataclass(frozen=True)
class SavedRun:
    """A run folder: its resolved settings, as ``config.yaml`` holds them, and ``results.json``, where it has one."""

    folder: Path
    settings: dict[str, Any]
    results: Results | None

    def finished(self) -> Results:
        """The results.

        Raises:
            DataError: if there are none, or if they or ``predictions.jsonl`` were changed since.
        """
        if self.results is None:
            raise unfinished(self.folder, "results.json")
        for name, problem in self.changed().items():
            raise DataError(
                f"{self.folder / name} was changed after the run: {problem}. Restore the file, or run `bsap test` "
                "again with `--run.overwrite true`. `bsap score` shows which numbers differ."
            )
        return self.results

    def changed(self) -> dict[str, str]:
        """The files that were changed after the run, each with the reason.

        A missing file counts as unchanged. Runs of version 0.1.0 did not record SHA-256s.
        """
        found: dict[str, str] = {}
        path = self.folder / "predictions.jsonl"
        if self.results is None:
            return found
        if path.exists():
            data = path.read_bytes()
            expected, digest = self.results.get("predictions_sha256"), sha256(data).hexdigest()
            # Cheaper than reading every record: a line begins with its id and the picture.
            ids = Counter(line.partition(b', "picture"')[0] for line in data.splitlines())
            twice = sum(count > 1 for count in ids.values())
            if expected not in (None, digest):
                found[path.name] = f"its SHA-256 is {digest}, but results.json says {expected}"
            elif twice:
                found[path.name] = f"{twice} of its expressions occur{'s' if twice == 1 else ''} more than once"
        expected, digest = self.results.get("numbers_sha256"), numbers_digest(self.results)
        if expected not in (None, digest):
            found["results.json"] = f"the SHA-256 of its numbers is {digest}, but it says {expected}"
        return found


def numbers_digest(results: Mapping[str, Any]) -> str:
    """The SHA-256 of :data:`~bsap.runs.schema.NUMBERS`, however the file spells and orders them."""
    values = json.loads(json.dumps({key: results[key] for key in NUMBERS if key in results}))
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_run(folder: Path) -> SavedRun:
    """Read a run folder, for example ``runs/1f0c...``.

    Raises:
        DataError: if it is no run folder, or a file in it cannot be read.
    """
    results_file, config_file = folder / "results.json", folder / "config.yaml"
    if not (results_file.exists() or config_file.exists()):
        raise DataError(f"{folder} is no run folder: {_reason(folder)}")
    if results_file.exists():
        results = read_results(results_file)
        return SavedRun(folder, cast(dict[str, Any], results["settings"]), results)
    return SavedRun(folder, read_config(config_file), None)


def unfinished(folder: Path, name: str) -> DataError:
    """The error for a run folder that lacks a file which a finished run has."""
    parts = len(list((folder / "parts").glob("*.jsonl")))
    state = f"; its records so far are in {folder / 'parts'}" if parts else ""
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


def read_results(path: Path) -> Results:
    """Read ``results.json``.

    Raises:
        DataError: if it is not the results of a run; says what is missing or wrong.
    """
    return cast(Results, _read(path, "results", parse_json, _check_results))


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.yaml``.

    Raises:
        DataError: if it is not the settings of a run; says what is missing or wrong.
    """
    return cast(dict[str, Any], _read(path, "settings", parse_yaml, _check_config))


def _read(path: Path, what: str, parse: Callable[[bytes, str], Any], check: Check) -> Any:
    found = parse(read_bytes(path, what=what, fix="Run `bsap test` again."), str(path))
    if (problem := check(found)) is not None:
        raise DataError(f"{path}: not the {what} of a run, {problem}.")
    return found
