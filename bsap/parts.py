"""Files that survive their writer: whole or not at all, or record by record; and never two writers."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from bsap.errors import ConfigError
from bsap.predictions import Record, read_records


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never half of it.

    Raises:
        ConfigError: if it cannot be written; the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
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
        rank: the process that writes.

    Raises:
        ConfigError: if the file cannot be written.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        attempt = sum(1 for _ in folder.glob(f"{rank}-*.jsonl"))
        self.path = folder / f"{rank}-{attempt}.jsonl"
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


def read_parts(folder: Path) -> Iterator[Record]:
    """All records of a run folder, merged or not, in no particular order; ids may repeat."""
    merged = folder / "predictions.jsonl"
    for path in [merged] * merged.exists() + sorted((folder / "parts").glob("*.jsonl")):
        yield from read_records(path)


class FolderLock:
    """Keeps two runs from writing one folder at the same time.

    A lock of the operating system, which goes when its process does, however that ends: no stale lock files, no host
    names, no clocks. Where the file system knows no locks there is none.

    Args:
        folder: a run folder with its ``parts``.

    Raises:
        ConfigError: if another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = -1
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        self._descriptor = os.open(folder / "parts" / "lock", os.O_RDWR | os.O_CREAT, 0o644)
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
