"""Files that survive their writer: whole or not at all, or record by record; and never two writers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bsap.errors import ConfigError
from bsap.runs.records import Record, read_records

LOCK = ".lock"
"""In the run folder itself, not in ``parts``: a network's disk keeps an open file's folder from being removed."""


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never half of it.

    Raises:
        ConfigError: if it cannot be written; the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a machine that goes down may leave the new name on an empty file
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"Cannot write {path}: {error.strerror}. Mend that, or choose another `--run.root`; records written so "
            "far are kept."
        ) from error


class PartFile:
    """A new file of records that grows batch by batch.

    Written without a buffer of its own: what was written once survives the process, and a failed write is not tried
    again at the worst moment. A record cut off in the middle can only be the last one, and readers leave it out.

    Args:
        folder: ``parts`` of a run folder.
        attempt: which attempt at the run this is, from :func:`next_attempt`; the same on all processes.
        rank: the process that writes.

    Raises:
        ConfigError: if the file cannot be written.
    """

    def __init__(self, folder: Path, attempt: int, rank: int) -> None:
        self.path = folder / f"{attempt}-{rank}.jsonl"
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise ConfigError(f"Cannot write {self.path}: {error.strerror}.") from error

    def write(self, text: str) -> None:
        """Append to the file, at once.

        Raises:
            ConfigError: if it cannot be written, for example because the disk is full.
        """
        rest = memoryview(text.encode("utf-8"))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise ConfigError(
                f"Cannot write {self.path}: {error.strerror}. What was written before is kept: mend that (make room on "
                "the disk) and run the same command again to continue."
            ) from error

    def close(self) -> None:
        """Close the file; again is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _attempt(path: Path) -> int:
    """The attempt that a file in ``parts`` is of."""
    number = path.name.partition(".")[0].partition("-")[0]
    return int(number) if number.isdecimal() else 0


def next_attempt(folder: Path) -> int:
    """The number of a new attempt at the run of a folder, for the one process that holds its lock."""
    return 1 + max(map(_attempt, (folder / "parts").iterdir()), default=0)


def read_parts(folder: Path) -> Iterator[Record]:
    """All records of a run folder, merged or not; ids may repeat, and then the last one is of the newest attempt."""
    merged = folder / "predictions.jsonl"
    for path in [merged] * merged.exists() + sorted((folder / "parts").glob("*.jsonl"), key=_attempt):
        yield from read_records(path)


def note_attempt(folder: Path, attempt: int, made_by: dict[str, Any]) -> None:
    """Leave beside an attempt's records what made them.

    Raises:
        ConfigError: if it cannot be written.
    """
    write_atomic(folder / "parts" / f"{attempt}.json", json.dumps(made_by) + "\n")


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """What made the records in ``parts``, attempt by attempt, with the number of ``expressions`` each recorded."""
    counts: dict[int, set[str]] = {}
    for path in (folder / "parts").glob("*.jsonl"):
        counts.setdefault(_attempt(path), set()).update(record["id"] for record in read_records(path))
    found = []
    for path in sorted((folder / "parts").glob("*.json"), key=_attempt):
        with contextlib.suppress(ValueError):  # the machine went down while it was written
            found.append({**json.loads(path.read_bytes()), "expressions": len(counts.get(_attempt(path), ()))})
    return found


class FolderLock:
    """Keeps two runs from writing one folder at the same time.

    A lock of the operating system, which goes when its process does, however that ends: no stale lock files, no host
    names, no clocks. Where the file system knows no locks there is none.

    Args:
        folder: a run folder.

    Raises:
        ConfigError: if another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = -1
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # lockf, not flock: worker processes must not inherit it and hold it after this process is gone
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self.release()
                raise ConfigError(
                    f"Another process is writing {folder}. Wait for it, or choose another `--run.name`."
                ) from error

    def release(self) -> None:
        """Let others have the folder."""
        with contextlib.suppress(OSError):
            if self._descriptor >= 0:
                os.close(self._descriptor)
        self._descriptor = -1
