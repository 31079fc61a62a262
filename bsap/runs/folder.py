"""The run folder: what ran, what every expression became, and the result, on disk as soon as it is known.

``runs/<name>/`` holds ``config.yaml``, ``origin.json``, ``predictions.jsonl`` and ``results.json``; while a run is
under way its records are in ``parts/``, one file per process and attempt, so that a killed run continues where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from bsap.datamodules.files import dump_yaml, parse_json, read_bytes
from bsap.errors import BSAPError, ConfigError, DataError
from bsap.runs.parts import LOCK, FolderLock, PartFile, Parts, next_attempt, read_parts, write_atomic
from bsap.runs.records import dump_record, read_predictions
from bsap.runs.saved import numbers_digest, read_config, read_run
from bsap.runs.schema import MadeBy, Record, Results, RunSettings
from bsap.runs.settings import RunConfig, differences, identity

RESTART = "To start again from nothing, add `--run.overwrite true`."


class RunFolder:
    """Writes one run folder, continues an unfinished run, and refuses to mix two different runs.

    Of several processes the first one calls :meth:`prepare` and :meth:`finish`; all of them write records.

    Attributes:
        path: the folder.
        attempt: the number of this attempt at the run; after :meth:`prepare`, the same on all processes.
        damaged: how many lines of earlier attempts have a wrong checksum: their expressions are computed again.

    Raises:
        ConfigError: if ``config.name`` would leave the folder of all runs.
    """

    def __init__(self, config: RunConfig, settings: RunSettings) -> None:
        self.config, self.settings = config, settings
        self.path = config.folder(identity(settings))
        self.attempt = 0
        self._lock: FolderLock | None = None
        self._part: PartFile | None = None
        self._records: dict[str, Record] = {}
        self.damaged = 0

    def prepare(self) -> None:
        """Make the folder, lock it, and read what an earlier attempt left.

        Raises:
            ConfigError: if the folder cannot be written, is in use, or holds something else or a run with other
                settings.
            DataError: if the predictions of a finished run were changed or are damaged.
        """
        config = self.path / "config.yaml"
        # A start that came no further, on a full disk for example, leaves only files of ours.
        foreign = [p for p in self.path.iterdir() if not _ours(p.name)] if self.path.is_dir() else self.path.exists()
        if foreign and not config.exists():
            raise ConfigError(
                f"{self.path} exists and is not a run folder (it has no config.yaml). Choose another `--run.name`."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
            (self.path / "parts").mkdir(exist_ok=True)
            if self.config.overwrite and not _requeued():
                self._remove_old()
            self.attempt = next_attempt(self.path)
        except OSError as error:
            raise ConfigError(
                f"Cannot write the run folder {self.path}: {error}. Choose another `--run.root`."
            ) from error
        found = self._read()
        self._records, self.damaged = found.records, found.damaged
        # A run that failed before its first record has nothing that other settings could spoil.
        if self._records and config.exists():
            self._refuse("with other settings", identity(_old(read_config, config)), identity(self.settings))
        text = dump_yaml(self.settings | {"run": asdict(self.config)})
        write_atomic(config, text)

    def _remove_old(self) -> None:
        """Remove an earlier run. Its configuration stays until it is replaced: it marks the folder as ours."""
        for part in (self.path / "parts").iterdir():
            part.unlink()
        for name in ("results.json", "predictions.jsonl", "origin.json"):
            (self.path / name).unlink(missing_ok=True)

    def _read(self) -> Parts:
        """Records of a finished run and of unfinished attempts."""
        parts = read_parts(self.path)
        records: dict[str, Record] = {}
        # Without results the predictions were not finished: their records are still in parts.
        if (self.path / "results.json").exists() and (self.path / "predictions.jsonl").exists():
            read_run(self.path).finished()
            records = {record["id"]: record for record in read_predictions(self.path / "predictions.jsonl")}
        return Parts(records | parts.records, parts.damaged, parts.attempts)

    def finished(self, scenes: Iterable[Sequence[str]]) -> list[Record]:
        """The records of earlier attempts, of the scenes of which every expression has one with all that is wanted.

        Scenes are given as the ids of their expressions.
        """
        records = self._records
        if self.config.all_scores:
            records = {
                key: record
                for key, record in records.items()
                if all("scores" in choice for choice in record["scorers"].values())
            }
        return [records[key] for keys in scenes if all(key in records for key in keys) for key in keys]

    def check_origin(self, found: dict[str, Any], *, resumed: bool) -> None:
        """Write down the digests of data, weights and bank; those of a run that is continued must be the same.

        Raises:
            ConfigError: if they differ from those of the earlier attempt, or if nothing says what those were.
        """
        path = self.path / "origin.json"
        if resumed:
            if not path.exists():
                raise ConfigError(
                    f"{path} is missing: it says which data and weights the records in this folder come from, so that "
                    f"the run cannot be continued without it. Restore the file. {RESTART}"
                )
            old = _old(lambda path: parse_json(read_bytes(path, what="origin", fix=RESTART), str(path)), path)
            self._refuse("of other data or weights under the same settings", old, found)
        write_atomic(path, json.dumps(found, indent=2) + "\n")

    def _refuse(self, what: str, old: Any, new: Any) -> None:
        if lines := differences(old, new):
            raise ConfigError(
                f"{self.path} holds a run {what}:\n  "
                + "\n  ".join(lines)
                + f"\nChoose another `--run.name`. {RESTART}"
            )

    def open_part(self, rank: int) -> None:
        """Open the file that this process writes its records to, or raise a ConfigError."""
        self._part = PartFile(self.path / "parts", self.attempt, rank)

    def note_attempt(self, made_by: MadeBy) -> None:
        """Write down beside the records of this attempt what makes them, or raise a ConfigError."""
        write_atomic(self.path / "parts" / f"{self.attempt}.json", json.dumps(made_by) + "\n")

    @property
    def open(self) -> bool:
        """Whether this process may write records."""
        return self._part is not None

    def write(self, records: Iterable[Record]) -> None:
        """Put records on disk at once."""
        assert self._part is not None
        self._part.write(records)

    def done(self) -> int:
        """The number of expressions that have a record on disk."""
        return len(self._read().records)

    def merge(self, expression_ids: Sequence[str]) -> tuple[list[Record], Parts]:
        """All records in the order of the expressions, and what made them.

        Raises:
            DataError: if an expression has no record.
        """
        found = self._read()
        absent = [key for key in expression_ids if key not in found.records]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(expression_ids)} expressions were not seen, among them "
                f"{', '.join(absent[:5])}. Run the same command again to compute them."
            )
        return [found.records[key] for key in expression_ids], found

    def finish(self, records: Sequence[Record], results: Results) -> None:
        """Write ``predictions.jsonl`` and ``results.json``, and remove ``parts``.

        Raises:
            ConfigError: if they cannot be written; ``parts`` is kept.
        """
        lines = "".join(dump_record(record) + "\n" for record in records)
        predictions, path = self.path / "predictions.jsonl", self.path / "results.json"
        results = {**results, "predictions_sha256": sha256(lines.encode()).hexdigest()}
        results = {**results, "numbers_sha256": numbers_digest(results)}
        if not (path.exists() and predictions.exists() and predictions.read_bytes() == lines.encode()):
            path.unlink(missing_ok=True)  # results without their predictions would be taken for damaged
            write_atomic(predictions, lines)
        write_atomic(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        shutil.rmtree(self.path / "parts", ignore_errors=True)  # all of it is in the merged files now

    def close(self) -> None:
        """Close the part file and release the lock."""
        if self._part is not None:
            self._part.close()
            self._part = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _old(read: Callable[[Path], Any], path: Path) -> Any:
    """Read a file that an earlier attempt left, or raise a ConfigError if it is damaged."""
    try:
        return read(path)
    except BSAPError as error:
        raise ConfigError(f"{path} is damaged: {error} {RESTART}") from error


def _ours(name: str) -> bool:
    return name in (LOCK, "parts") or name.startswith(".config.yaml.")


def _requeued() -> bool:
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
