"""Files that survive the end of their writer: whole files, or lines with a checksum; and never two writers."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

from bsap.datamodules.files import parse_json
from bsap.errors import ConfigError, DataError
from bsap.runs.json_types import checker
from bsap.runs.records import dump_record, parse_record
from bsap.runs.schema import Attempt, MadeBy, Record

LOCK = ".lock"
"""In the run folder itself, not in ``parts``: on a network disk an open file keeps its folder from being removed."""


_check_made_by = checker(MadeBy)


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
            f"Cannot write {path}: {error.strerror}. Fix this (for example, free disk space) or choose another "
            "folder, then run the same command again. Everything that was written before is kept."
        ) from error


def seal(text: str) -> str:
    """A line of text with its checksum after a tab: the first 16 hexadecimal digits of its SHA-256.

    Example:
        >>> seal("{}").split()
        ['{}', '44136fa355b3678a']
    """
    return f"{text}\t{sha256(text.encode()).hexdigest()[:16]}\n"


def unseal(line: bytes) -> bytes | None:
    """The text of a line from :func:`seal` without its line break; None where the checksum is absent or wrong.

    Example:
        >>> unseal(seal("{}").encode().rstrip()), unseal(b"{}")
        (b'{}', None)
    """
    text, _, checksum = line.rpartition(b"\t")
    return text if sha256(text).hexdigest()[:16].encode() == checksum else None


class PartFile:
    """A new file of records that grows batch by batch.

    Written without a buffer of its own: what was written once survives the process, and a failed write is not tried
    again at the worst moment. Readers leave out a line that was cut off or damaged, because its checksum is wrong.
    All processes of one attempt at a run have its number, from :func:`next_attempt`, and each a file of its own.

    Raises:
        ConfigError: if the file cannot be written.
    """

    def __init__(self, folder: Path, attempt: int, rank: int) -> None:
        self.path = folder / f"{attempt}-{rank}.jsonl"
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise ConfigError(f"Cannot write {self.path}: {error.strerror}.") from error

    def write(self, records: Iterable[Record]) -> None:
        """Append records to the file, at once.

        Raises:
            ConfigError: if they cannot be written, for example because the disk is full.
        """
        rest = memoryview("".join(seal(dump_record(record)) for record in records).encode())
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise ConfigError(
                f"Cannot write {self.path}: {error.strerror}. Fix this (for example, free disk space) and run the same "
                "command again to continue. Everything that was written before is kept."
            ) from error

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _attempt(path: Path) -> int:
    """The attempt that a file in ``parts`` belongs to."""
    number = path.name.partition(".")[0].partition("-")[0]
    return int(number) if number.isdecimal() else 0


def next_attempt(folder: Path) -> int:
    """The number of a new attempt at the run of a folder, for the one process that holds its lock."""
    return 1 + max(map(_attempt, (folder / "parts").iterdir()), default=0)


@dataclass(frozen=True)
class Parts:
    """The content of ``parts`` in a run folder.

    A line without a line break at the end of a file was being written when its process ended: it is not damaged.
    """

    records: dict[str, Record]  # all sound ones by id, of each the newest
    damaged: int  # lines without a right checksum
    attempts: list[Attempt]  # what made the records


def read_parts(folder: Path) -> Parts:
    """Read the ``parts`` of a run folder."""
    records: dict[str, Record] = {}
    damaged = 0
    seen: dict[int, set[str]] = {}
    for path in sorted((folder / "parts").glob("*.jsonl"), key=_attempt):
        *lines, _ = path.read_bytes().split(b"\n")
        for line in lines:
            try:
                record = parse_record(unseal(line) or b"", str(path))
            except DataError:
                damaged += 1
                continue
            records[record["id"]] = record
            seen.setdefault(_attempt(path), set()).add(record["id"])
    attempts: list[Attempt] = []
    for path in sorted((folder / "parts").glob("*.json"), key=_attempt):
        with contextlib.suppress(DataError):  # cut off when the machine went down
            made_by = parse_json(path.read_bytes(), str(path))
            if _check_made_by(made_by) is None:
                found = len(seen.get(_attempt(path), ()))
                attempts.append(cast(Attempt, {**made_by, "expressions": found}))
    return Parts(records, damaged, attempts)


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock.

    It is a lock of the operating system and ends with its process, however that ends: there are no stale lock files, no
    host names, no clocks. Where the file system has no locks, nothing is locked.

    Raises:
        ConfigError: on Windows, whose locks keep other processes from reading, too.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ConfigError(
            "bsap writes runs on Linux and macOS only; on Windows, use the Subsystem for Linux."
        ) from error
    try:
        # lockf, not flock: worker processes must not inherit it and hold it after this process is gone
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


class FolderLock:
    """Keeps two runs from writing one folder at the same time, see :func:`try_lock`.

    Raises:
        ConfigError: if another process holds the lock, and on Windows.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not try_lock(self._descriptor):
                raise ConfigError(f"Another process is writing {folder}. Wait for it, or choose another `--run.name`.")
        except ConfigError:
            self.release()
            raise

    def release(self) -> None:
        """Let other processes write the folder."""
        with contextlib.suppress(OSError):
            if self._descriptor >= 0:
                os.close(self._descriptor)
        self._descriptor = -1
