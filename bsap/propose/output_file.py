"""The file of proposals: written picture by picture to a part file, and published as a whole at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from bsap.errors import BSAPError, ConfigError, DataError
from bsap.models.checkpoint import file_sha256
from bsap.propose.picture_list import Picture, digest_of
from bsap.runs.parts import seal, try_lock, unseal, write_atomic
from bsap.runs.settings import differences

AGAIN = "Choose another output, or start again with `--overwrite`."


class ProposalsFile:
    """Collects the proposals of pictures, continues an attempt that was interrupted, and publishes the result.

    An unfinished file is ``NAME.part``: a line with the settings, then a JSON line per picture, each with a checksum.
    The result has the form of COCO results, or, if its name ends in ``.jsonl``, a line per picture;
    ``NAME.origin.json`` holds what made it.

    Args:
        path: the file to write.
        pictures: the pictures that it covers, in order.
        settings: what decides the proposals; an attempt with other settings is not continued.
        overwrite: start again from nothing.

    Attributes:
        done: picture id to its JSON line, for the pictures that are finished.
        origin: what made the file, if it was finished before.

    Raises:
        ConfigError: if the file has other settings, was changed afterwards, cannot be written, or is being written by
            another process.
        DataError: if a picture has changed since.
    """

    def __init__(
        self, path: Path, pictures: Sequence[Picture], settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path, self.pictures, self.settings = path, pictures, settings
        self.part, self._origin = (path.with_name(path.name + suffix) for suffix in (".part", ".origin.json"))
        self.about = {"count": len(pictures), "sha256": digest_of(pictures)}
        self.done: dict[str, str] = {}
        self.origin: dict[str, Any] | None = None
        self._file: Any = None
        try:
            # A part file beside the result was left between the last two steps, which are done again.
            if path.exists() and not self.part.exists() and not overwrite:
                self.origin = self._finished()
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            if overwrite:
                self._file.truncate(0)
                for old in (path, self._origin):
                    old.unlink(missing_ok=True)
            self._resume()
        except OSError as error:
            self.close()
            raise ConfigError(f"Cannot write {path}: {error}. Choose another output.") from error
        except BSAPError:
            self.close()
            raise
        self.resumed = len(self.done)

    def add(self, picture: Picture, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a picture's proposals, as COCO results without ``image_id``; on disk after :meth:`flush`."""
        image_id = picture.image_id
        number = image_id.isascii() and image_id.isdigit() and str(int(image_id)) == image_id
        record = {
            "image_id": int(image_id) if number else image_id,  # COCO's own tools look ids up as numbers
            "bytes": picture.bytes,
            "width": picture.width,
            "height": picture.height,
            "proposals": rows,
        }
        self.done[image_id] = line = json.dumps(record)
        self._file.write(seal(line).encode())

    def flush(self) -> None:
        """Write to disk what was added."""
        self._file.flush()

    def close(self) -> None:
        """Let other processes write the file; the part file stays."""
        if self._file is not None:
            self._file.close()

    def finish(self, **more: Any) -> dict[str, Any]:
        """Write the result, which needs all pictures; returns the content of ``NAME.origin.json``, with ``more``."""
        lines = [self.done[picture.image_id] for picture in self.pictures]
        counts = [len(json.loads(line)["proposals"]) for line in lines]
        by_picture = self.path.suffix == ".jsonl"
        write_atomic(self.path, "".join(line + "\n" for line in lines) if by_picture else _coco_results(lines))
        origin = {
            "settings": dict(self.settings),
            "pictures": self.about,
            "regions": sum(counts),
            "pictures_without": counts.count(0),
            "sha256": file_sha256(self.path),
            "resumed_pictures": self.resumed,
            **more,
            "versions": {name: version(name) for name in ("bsap", "torch", "torchvision", "pycocotools")},
        }
        write_atomic(self._origin, json.dumps(origin, indent=2) + "\n")
        self._file.close()
        self.part.unlink(missing_ok=True)
        self.origin = origin
        return origin

    def _finished(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._origin.read_bytes())
            lines = differences(
                {**record["settings"], "pictures": record["pictures"]}, {**self.settings, "pictures": self.about}
            )
            same = file_sha256(self.path) == record["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(f"{self.path} exists, but no {self._origin.name} says what made it. {AGAIN}") from None
        _refuse(self.path, lines)
        if not same:
            raise ConfigError(
                f"{self.path} was changed after it was made: its SHA-256 is not the one in {self._origin.name}. {AGAIN}"
            )
        return record

    def _open(self) -> BinaryIO:
        file = self.part.open("a+b")
        # A process that has just finished may have removed the file between opening and locking.
        if try_lock(file.fileno()) and self.part.exists() and self.part.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()
        raise ConfigError(f"Another process is writing {self.path}. Wait for it, or choose another output.")

    def _resume(self) -> None:
        """Read the part file; lines without a right checksum are dropped, and their pictures are processed again."""
        self._file.seek(0)
        data = self._file.read()
        *lines, rest = data.split(b"\n")  # an interrupted process may leave half a line, which is no damage
        texts = [unseal(line) for line in lines]
        kept = [json.loads(text) for text in texts if text is not None]
        if texts and (texts[0] is None or "settings" not in kept[0]):
            kept = []  # nothing says which settings the lines were made with
        wanted = {picture.image_id: picture for picture in self.pictures}
        for record in kept[:1]:
            _refuse(self.part, differences(record["settings"], self.settings))
        for record in kept[1:]:
            image_id, size = str(record["image_id"]), (record["bytes"], record["width"], record["height"])
            if (picture := wanted.get(image_id)) is None:
                continue
            if size != (picture.bytes, picture.width, picture.height):
                raise DataError(
                    f"{picture.path} is not the picture {image_id} that {self.part} was begun with. {AGAIN}"
                )
            self.done[image_id] = json.dumps(record)
        if damaged := len(texts) - len(kept):
            print(
                f"bsap: {damaged} of {len(texts)} lines of {self.part} are damaged (without a right checksum); their "
                "pictures are processed again.",
                file=sys.stderr,
            )
        if damaged or rest or not kept:
            self._file.truncate(0)
            self._file.write(seal(json.dumps({"settings": self.settings})).encode())
            self._file.writelines(seal(line).encode() for line in self.done.values())
            self._file.flush()


def _refuse(path: Path, lines: Sequence[str]) -> None:
    if lines:
        listed = "\n  ".join(lines)
        raise ConfigError(f"{path} was made with other settings:\n  {listed}\n{AGAIN}")


def _coco_results(lines: Iterable[str]) -> str:
    rows = [
        json.dumps({"image_id": record["image_id"], **row})
        for record in map(json.loads, lines)
        for row in record["proposals"]
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n" if rows else "[]\n"
