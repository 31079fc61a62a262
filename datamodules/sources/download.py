"""Downloads that continue where they stopped, retry what may pass, and check what arrives."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bsap.errors import DataError

MANUAL = "`bsap docs data` describes how to get the files by hand."
_ATTEMPTS = 5
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # errors of a server that may be gone at the next attempt
_LONGEST_WAIT = 60.0
_CHUNK = 1 << 20
_RESERVE = 200 * 2**20  # bytes of disk that stay free
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Downloader:
    """Fetches files over HTTP.

    Args:
        wait: called with the seconds to wait before another attempt.
        timeout: seconds without any byte after which an attempt ends.
    """

    def __init__(self, *, wait: Callable[[float], object] = time.sleep, timeout: float = 60.0) -> None:
        self._wait = wait
        self._client = httpx.Client(follow_redirects=True, timeout=timeout, headers={"User-Agent": "bsap"})

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def fetch(
        self,
        address: str,
        target: Path,
        *,
        sha256: str | None = None,
        progress: Callable[[int], object] = lambda count: None,
    ) -> Path:
        """Download a file, continuing an earlier attempt; nothing is downloaded where the file is complete.

        Args:
            address: the file's address; plain HTTP needs ``sha256``.
            target: where to write it. Until it is complete it has ``.part`` in its name.
            sha256: what the file must have.
            progress: called with the number of bytes of each piece that arrives.

        Returns:
            ``target``.

        Raises:
            DataError: if the file cannot be had, is not what was expected, or does not fit on the disk.
        """
        _check_address(address, sha256)
        if target.exists():
            return target
        with full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part, tag = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.tag")
            for attempt in self._attempts(address):
                with attempt:
                    self._continue(address, part, tag, progress)
            if sha256 is not None and (found := _digest(part)) != sha256:
                part.unlink()
                raise DataError(f"{address}: its SHA-256 is {found}, not {sha256}. {MANUAL}")
            part.replace(target)
            tag.unlink(missing_ok=True)
        return target

    def get(self, address: str, *, most: int) -> bytes:
        """A small file's content.

        Raises:
            DataError: if it cannot be had, or is larger than ``most`` bytes.
        """
        _check_address(address, None)
        content = bytearray()
        for attempt in self._attempts(address):
            with attempt, self._client.stream("GET", address) as response:
                content.clear()
                _check_status(response, address)
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > most:
                        raise DataError(f"{address}: larger than the {most} bytes that were expected.")
        return bytes(content)

    def _continue(self, address: str, part: Path, tag: Path, progress: Callable[[int], object]) -> None:
        there = part.stat().st_size if part.exists() and tag.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if there:
            headers |= {"Range": f"bytes={there}-", "If-Range": tag.read_text(encoding="utf-8")}
        with self._client.stream("GET", address, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and there:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if total == str(there):  # it was complete
                    return
                tag.unlink()
                raise httpx.ReadError("the file has changed")
            _check_status(response, address)
            continued = response.status_code == httpx.codes.PARTIAL_CONTENT
            if continued and not response.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
                tag.unlink()
                raise httpx.ReadError("the server sent another part than was asked for")
            _check_space(part, int(response.headers.get("Content-Length") or 0), address)
            if not continued:
                tag.unlink(missing_ok=True)
                if validator := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                    tag.write_text(validator, encoding="utf-8")
            with part.open("ab" if continued else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    file.flush()  # so that a kill loses nothing that arrived
                    progress(len(chunk))

    def _attempts(self, address: str) -> Iterator[_Attempt]:
        """Attempts until one succeeds; waits between them, as long as the server asks for."""
        for number in range(1, _ATTEMPTS + 1):
            attempt = _Attempt()
            yield attempt
            if attempt.error is None:
                return
            if number == _ATTEMPTS:
                raise DataError(f"Cannot download {address}: {attempt.error}. {MANUAL}") from attempt.error
            self._wait(min(attempt.wait if attempt.wait is not None else 0.5 * 2**number, _LONGEST_WAIT))


class _Attempt:
    """Keeps a passing error of its block instead of raising it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.wait: float | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, _PassingError):
            self.wait = error.wait
        if not isinstance(error, (_PassingError, httpx.TransportError)):
            return False
        self.error = error
        return True


class _PassingError(Exception):
    """A server's answer after which another attempt makes sense."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"the server answers {response.status_code} {response.reason_phrase}")
        after = response.headers.get("Retry-After", "")
        self.wait = float(after) if after.isdigit() else None


def _check_status(response: httpx.Response, address: str) -> None:
    if response.status_code in _PASSING:
        raise _PassingError(response)
    if not response.is_success:
        raise DataError(f"{address}: the server answers {response.status_code} {response.reason_phrase}. {MANUAL}")


def _check_address(address: str, sha256: str | None) -> None:
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and (sha256 or parts.hostname in _LOOPBACK)):
        return
    raise DataError(f"{address}: only https addresses are fetched, or http ones with a known SHA-256.")


def _check_space(target: Path, needed: int, address: str) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed + _RESERVE > free:
        raise DataError(
            f"{address} needs {needed / 2**20:.0f} MiB, but {target.parent} has {free / 2**20:.0f} MiB free. Free some "
            "space and run the same command again: what is complete stays."
        )


@contextmanager
def full_disk(target: Path) -> Iterator[None]:
    """Turn the error of a full disk, and others of writing, into one that says what to do."""
    try:
        yield
    except OSError as error:
        fix = "Free some space and run" if error.errno == errno.ENOSPC else "Run"
        raise DataError(
            f"Cannot write {target}: {error.strerror or error}. {fix} the same command again: what is complete stays."
        ) from error


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
