"""Features on disk, found again by what made them.

A key is the digest of everything that a feature depends on (weights, preprocessing, view, precision, the picture's
bytes, the regions; or the text), never a file's name: changing any of it misses, renaming a run or a picture does not.

The store is a folder of safetensors shards with unique names, written whole or not at all, and never changed. Each
shard's header is its index; readers take the union, so any number of processes may write at once.
"""

from __future__ import annotations

import json
import os
import struct
import time
import uuid
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from bsap.errors import DataError

FORMAT = "bsap-features-4"
"""Written into every shard; shards of another format are not read."""

SHARD_BYTES = 32 << 20
SHARD_SECONDS = 30.0
"""What is new goes to disk when it is so large or so old: a run that is killed loses no more."""
OPEN_SHARDS = 32
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: its shard, the bytes in it, their checksum, and what they are."""

    key: str
    shard: Path
    start: int
    stop: int
    checksum: int
    dtype: str
    shape: list[int]


def make_key(**parts: Any) -> str:
    """The digest of what a feature depends on.

    Example:
        >>> make_key(text="a cat", weights="ab12") == make_key(weights="ab12", text="a cat")
        True
    """
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:40]


class FeatureStore:
    """A dictionary of tensors on disk.

    A folder that cannot be written is used for reading, with a warning; so is a full disk. A truncated shard and a
    damaged tensor are left out with a warning, as if they had never been stored.

    Args:
        folder: made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writable = True
        # A key usually has one place; more where two runs made it at once, or where a damaged tensor was made again.
        self._where: dict[str, tuple[_Place, ...]] = {}
        self._shards: set[Path] = set()
        self._open: dict[Path, int] = {}
        self._new: dict[str, Tensor] = {}
        self._old_shards = 0
        self._bytes = 0
        self._flushed = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)
        self.refresh()

    def refresh(self) -> None:
        """Find the shards that other processes have written since."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._shards and path.is_file():  # reading a pipe would never end
                self._add(path)
        if self._old_shards:
            _warn(
                f"{self._old_shards} feature shards in {self.folder} were written by another version of bsap and are "
                "not read: their features are computed again. Remove the folder to free the space."
            )
            self._old_shards = 0

    def _add(self, path: Path) -> None:
        self._shards.add(path)
        for place in self._index(path):
            self._where[place.key] = (*self._where.get(place.key, ()), place)

    def _index(self, path: Path) -> list[_Place]:
        """The places from a shard's header, after a check that the file is as long as the header says."""
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > path.stat().st_size:
                    raise ValueError("truncated header")
                header = json.loads(file.read(length))
            meta = header.pop("__metadata__", {})
            if meta.get("format") != FORMAT:
                self._old_shards += 1
                return []
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if path.stat().st_size != 8 + length + end:
                raise ValueError(f"{path.stat().st_size} bytes instead of {8 + length + end}")
            checksums = json.loads(meta["crc32"])
            places = []
            for key, entry in header.items():
                start, stop = (8 + length + at for at in entry["data_offsets"])
                places.append(_Place(key, path, start, stop, checksums[key], entry["dtype"], entry["shape"]))
            return places
        except OSError as error:
            _warn(f"Feature shard {path} cannot be read ({error}); what it holds is left out.")
        except (ValueError, KeyError, IndexError, struct.error, TypeError, AttributeError, RecursionError) as error:
            _warn(
                f"Feature shard {path} is damaged ({error!r:.200}); its features are computed again. Remove the file."
            )
        return []

    def __contains__(self, key: str) -> bool:
        return key in self._new or key in self._where

    def __len__(self) -> int:
        return len(self._where.keys() | self._new.keys())

    def get(self, key: str) -> Tensor | None:
        """The tensor, or None when it is not stored or its bytes are damaged wherever they are."""
        if key in self._new:
            return self._new[key]
        while places := self._where.get(key, ()):
            try:
                return self._read(places[0])
            except OSError as error:
                _warn(f"Feature shard {places[0].shard} cannot be read ({error}); what it holds is left out.")
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                _warn(f"Feature shard {places[0].shard} is damaged ({error!r:.200}); a feature in it is left out.")
            if len(places) > 1:
                self._where[key] = places[1:]
            else:
                del self._where[key]
        return None

    def _read(self, place: _Place) -> Tensor:
        # Read, not mapped: a file that is cut off while it is mapped kills the process.
        data = os.pread(self._descriptor(place.shard), place.stop - place.start, place.start)
        if (
            len(data) != place.stop - place.start
            or _checksum(place.key, place.dtype, place.shape, data) != place.checksum
        ):
            raise ValueError("checksum")
        array = np.frombuffer(data, DTYPES[place.dtype]).reshape(place.shape)
        return torch.from_numpy(array.copy())  # writable

    def _descriptor(self, shard: Path) -> int:
        """The shard, opened once; few at a time, whatever the number of shards."""
        if shard not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                self.close()
            self._open[shard] = os.open(shard, os.O_RDONLY)
        return self._open[shard]

    def close(self) -> None:
        """Close the shards; they are opened again when they are asked for."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open = {}

    def __del__(self) -> None:
        self.close()

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor; it is on disk after :meth:`flush` at the latest."""
        if not self.writable or key in self:
            return
        # A copy: a view would keep the whole batch's memory alive until the shard is written.
        self._new[key] = tensor.detach().to("cpu", copy=True).contiguous()
        self._bytes += tensor.numel() * tensor.element_size()
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._flushed > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is new as one shard, whole or not at all."""
        self._flushed = time.monotonic()
        if not self._new:
            return
        names = {torch.from_numpy(np.empty(0, kind)).dtype: name for name, kind in DTYPES.items()}
        checksums = {
            key: _checksum(key, names[tensor.dtype], list(tensor.shape), tensor.numpy().tobytes())
            for key, tensor in self._new.items()
        }
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        temporary = path.with_suffix(".partial")
        try:
            with temporary.open("xb") as file:
                file.write(save(self._new, {"format": FORMAT, "crc32": json.dumps(checksums)}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._give_up(error)
            return
        self._add(path)
        self._new, self._bytes = {}, 0

    def _give_up(self, error: OSError) -> None:
        self.writable = False
        _warn(f"Features are not kept: {self.folder} cannot be written ({error}).")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


class PictureDigests:
    """SHA-256 of pictures' bytes, remembered by path, size, inode, and times of last change of content and of inode.

    Content and modification time can be replaced with size and time kept; the change time cannot be set by a program.

    Args:
        folder: where the memory lies: one JSON-lines file per process, of which readers take the union.
        by_content: read every picture again instead of trusting what is remembered.
    """

    def __init__(self, folder: Path, *, by_content: bool = False) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int, int, int, int], str] = {}
        self._new: list[str] = []
        for path in () if by_content else sorted(folder.glob("pictures-*.jsonl")):
            lines: list[str] = []
            with suppress(OSError):  # another user's, perhaps; its pictures are read again
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines:
                # A line that a killed process left half-written, or another version wrote: the picture is read again.
                with suppress(ValueError, TypeError, RecursionError):
                    name, size, inode, modified, changed, digest = json.loads(line)
                    self._known[name, size, inode, modified, changed] = digest

    def __call__(self, path: Path) -> str:
        """The digest of a picture's bytes.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            name, stat = os.path.abspath(path), path.stat()  # noqa: PTH100 - links stay: they may be moved apart
            place = (name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
            if place not in self._known:
                self._known[place] = sha256(path.read_bytes()).hexdigest()
                self._new.append(json.dumps([*place, self._known[place]]))
        except OSError as error:
            raise DataError(f"Picture {path} cannot be read: {error.strerror}.") from error
        return self._known[place]

    def flush(self) -> None:
        """Write the new digests for later runs."""
        if self._new:
            with suppress(OSError):
                target = self.folder / f"pictures-{uuid.uuid4().hex}.jsonl"
                target.write_text("\n".join(self._new) + "\n", encoding="utf-8")
            self._new = []


def _checksum(key: str, dtype: str, shape: list[int], data: bytes) -> int:
    """Of a tensor's bytes and of all that the shard's header says of them."""
    return zlib.crc32(data, zlib.crc32(f"{key} {dtype} {shape}".encode()))
