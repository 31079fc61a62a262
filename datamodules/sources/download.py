"""Downloads that continue where they stopped, retry what may pass, and check what arrives."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
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

T = TypeVar("T")


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
            self._retry(address, lambda: self._continue(address, part, tag, progress))
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

        def read() -> bytes:
            content = bytearray()
            with self._client.stream("GET", address) as response:
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > most:
                        raise DataError(f"{address}: larger than the {most} bytes that were expected.")
            return bytes(content)

        return self._retry(address, read)

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
            response.raise_for_status()
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

    def _retry(self, address: str, attempt: Callable[[], T]) -> T:
        """What an attempt gives; after an error that may pass, again, as late as the server asks for."""
        cause: httpx.HTTPError
        for number in range(1, _ATTEMPTS + 1):
            wait = 0.5 * 2**number
            try:
                return attempt()
            except httpx.HTTPStatusError as error:
                answer, cause = error.response, error
                reason = f"the server answers {answer.status_code} {answer.reason_phrase}"
                if answer.status_code not in _PASSING:
                    raise DataError(f"{address}: {reason}. {MANUAL}") from error
                if (after := answer.headers.get("Retry-After", "")).isdigit():
                    wait = float(after)
            except httpx.TransportError as error:
                reason, cause = str(error), error
            if number < _ATTEMPTS:
                self._wait(min(wait, _LONGEST_WAIT))
        raise DataError(f"Cannot download {address}: {reason}. {MANUAL}") from cause


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
