"""Features on disk, found again by what made them.

A key is the digest of everything that a feature depends on (weights, preprocessing, view, precision, the picture's
bytes, the regions; or the text), never a file's name: changing any of it misses, renaming a run or a picture does not.

The store is a folder of safetensors shards with unique names, written whole or not at all, and never changed. Each
shard's header is its index; readers take the union, so any number of processes may write at once.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

FORMAT = "bsap-features-1"
"""Written into every shard; shards of another format are not read."""

SHARD_BYTES = 32 << 20
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: its shard, the bytes in it, their checksum, and what they are."""

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

    A folder that cannot be written is used for reading, with a warning; so is a full disk. A damaged or truncated shard
    is ignored with a warning, and what it held is computed again.

    Args:
        folder: made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writable = True
        self._where: dict[str, _Place] = {}
        self._open: dict[Path, mmap.mmap] = {}
        self._new: dict[str, Tensor] = {}
        self._bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)
        self.refresh()

    def refresh(self) -> None:
        """Learn of shards that other processes have written since."""
        known = {place.shard for place in self._where.values()}
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in known:
                for key, place in self._index(path):
                    self._where.setdefault(key, place)

    def _index(self, path: Path) -> Iterator[tuple[str, _Place]]:
        """Keys and places from a shard's header, after a check that the file is as long as the header says."""
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > path.stat().st_size:
                    raise ValueError("truncated header")
                header = json.loads(file.read(length))
            meta = header.pop("__metadata__", {})
            if meta.get("format") != FORMAT:
                return
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if path.stat().st_size != 8 + length + end:
                raise ValueError(f"{path.stat().st_size} bytes instead of {8 + length + end}")
            checksums = json.loads(meta["crc32"])
            places = []
            for key, entry in header.items():
                start, stop = (8 + length + at for at in entry["data_offsets"])
                places.append((key, _Place(path, start, stop, checksums[key], entry["dtype"], entry["shape"])))
            yield from places
        except (OSError, ValueError, KeyError, struct.error, TypeError, AttributeError) as error:
            self._damaged(path, error)

    def __contains__(self, key: str) -> bool:
        return key in self._new or key in self._where

    def __len__(self) -> int:
        return len(self._where.keys() | self._new.keys())

    def get(self, key: str) -> Tensor | None:
        """The tensor, or None when it is not stored or its bytes are damaged."""
        if key in self._new:
            return self._new[key]
        if key not in self._where:
            return None
        place = self._where[key]
        try:
            data = self._bytes_of(place.shard)[place.start : place.stop]
            if zlib.crc32(data) != place.checksum:
                raise ValueError("checksum")
            array = np.frombuffer(data, DTYPES[place.dtype]).reshape(place.shape)
        except (OSError, ValueError, KeyError) as error:
            self._damaged(place.shard, error)
            return None
        return torch.from_numpy(array.copy())  # writable, and free of the file

    def _bytes_of(self, shard: Path) -> mmap.mmap:
        """The shard, mapped into memory once."""
        if shard not in self._open:
            with shard.open("rb") as file:
                self._open[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._open[shard]

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor; it is on disk after :meth:`flush` at the latest."""
        if not self.writable or key in self:
            return
        # A copy: a view would keep the whole batch's memory alive until the shard is written.
        self._new[key] = tensor.detach().to("cpu", copy=True).contiguous()
        self._bytes += tensor.numel() * tensor.element_size()
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is new as one shard, whole or not at all."""
        if not self._new:
            return
        checksums = {key: _checksum(tensor) for key, tensor in self._new.items()}
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
        self._where |= dict(self._index(path))
        self._new, self._bytes = {}, 0

    def _damaged(self, path: Path, error: Exception) -> None:
        warnings.warn(f"Feature shard {path} is damaged ({error}); what it held is computed again.", stacklevel=3)
        self._open.pop(path, None)
        self._where = {key: place for key, place in self._where.items() if place.shard != path}

    def _give_up(self, error: OSError) -> None:
        self.writable = False
        warnings.warn(f"Features are not kept: {self.folder} cannot be written ({error}).", stacklevel=3)


class PictureDigests:
    """SHA-256 of pictures' bytes, remembered by path, size and time of last change.

    Args:
        folder: where the memory lies: one JSON-lines file per process, of which readers take the union.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int, int], str] = {}
        self._new: list[str] = []
        for path in sorted(folder.glob("pictures-*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # A line that a killed process left half-written is no memory; the picture is read again.
                with suppress(ValueError, TypeError):
                    name, size, changed, digest = json.loads(line)
                    self._known[name, size, changed] = digest

    def __call__(self, path: Path) -> str:
        """The digest of a picture's bytes."""
        name, stat = os.path.abspath(path), path.stat()  # noqa: PTH100 - links stay: they may be moved apart
        place = (name, stat.st_size, stat.st_mtime_ns)
        if place not in self._known:
            self._known[place] = sha256(path.read_bytes()).hexdigest()
            self._new.append(json.dumps([*place, self._known[place]]))
        return self._known[place]

    def flush(self) -> None:
        """Remember what was learnt."""
        if self._new:
            with suppress(OSError):
                target = self.folder / f"pictures-{uuid.uuid4().hex}.jsonl"
                target.write_text("\n".join(self._new) + "\n", encoding="utf-8")
            self._new = []


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().tobytes())
