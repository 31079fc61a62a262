"""A file of proposals in the making: picture by picture in a part file, whole or not at all in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from bsap.errors import ConfigError, DataError
from bsap.models.checkpoint import file_sha256
from bsap.propose.picture_list import Picture, digest_of
from bsap.runs.settings import differences

Row = Mapping[str, Any]
"""One proposal as COCO results write it, without ``image_id``."""


class ProposalsFile:
    """Collects the proposals of pictures, goes on where an earlier attempt ended, and becomes the result at once.

    While it is made it is ``NAME.part``: a line with the settings, then a JSON line per picture. The result is COCO
    results, or, where its name ends in ``.jsonl``, a line per picture; ``NAME.origin.json`` says what made it.

    Args:
        path: the file to make.
        pictures: those that it shall cover, in order.
        settings: what decides the proposals; an attempt with others is not continued.
        overwrite: start anew.

    Attributes:
        done: what was found so far, a JSON line per picture.
        origin: what made the file, where it was finished before.

    Raises:
        ConfigError: if the file was made or begun with other settings, was changed afterwards, or cannot be written.
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
        try:
            if overwrite:
                for old in (self.part, self.path, self._origin):
                    old.unlink(missing_ok=True)
            # With a part file beside it, it was cut off between the last two files: they are written again.
            if path.exists() and not self.part.exists():
                self.origin = self._finished()
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._resume()
        except OSError as error:
            raise ConfigError(f"Cannot write {path}: {error}. Choose another output.") from error
        self.resumed = len(self.done)

    def add(self, picture: Picture, rows: Sequence[Row]) -> None:
        """Keep the proposals of a picture; on disk after :meth:`flush`."""
        number = picture.image_id.isascii() and picture.image_id.isdigit()
        line = json.dumps(
            {
                # COCO's own tools look ids up as numbers.
                "image_id": int(picture.image_id) if number and str(int(picture.image_id)) == picture.image_id
                else picture.image_id,
                "bytes": picture.bytes,
                "width": picture.width,
                "height": picture.height,
                "proposals": rows,
            }
        )  # fmt: skip
        self.done[picture.image_id] = line
        self._file.write(line + "\n")

    def flush(self) -> None:
        """Put on disk what was added."""
        self._file.flush()

    def close(self) -> None:
        """Leave the part file as it is."""
        if self.origin is None:
            self._file.close()

    def finish(self, **more: Any) -> dict[str, Any]:
        """Write the result; needs all pictures.

        Args:
            more: what else the record of the origin says.

        Returns:
            That record.
        """
        self._file.close()
        lines = [self.done[picture.image_id] for picture in self.pictures]
        counts = [len(json.loads(line)["proposals"]) for line in lines]
        by_picture = self.path.suffix == ".jsonl"
        _replace(self.path, (line + "\n" for line in lines) if by_picture else _coco_results(lines))
        self.origin = {
            "settings": dict(self.settings),
            "pictures": self.about,
            "regions": sum(counts),
            "pictures_without": counts.count(0),
            "sha256": file_sha256(self.path),
            "resumed_pictures": self.resumed,
            **more,
            "versions": {name: version(name) for name in ("bsap", "torch", "torchvision", "pycocotools")},
        }
        _replace(self._origin, [json.dumps(self.origin, indent=2) + "\n"])
        self.part.unlink()
        return self.origin

    def _finished(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._origin.read_bytes())
            lines = differences(
                {**record["settings"], "pictures": record["pictures"]}, {**self.settings, "pictures": self.about}
            )
            same = file_sha256(self.path) == record["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{self.path} exists, and no {self._origin.name} says what made it. "
                "Choose another output, or start anew with `--overwrite`."
            ) from None
        _refuse(self.path, lines)
        if not same:
            raise ConfigError(
                f"{self.path} was changed after it was made: its SHA-256 is not the one in {self._origin.name}. "
                "Choose another output, or start anew with `--overwrite`."
            )
        return record

    def _resume(self) -> TextIO:
        wanted = {picture.image_id: picture for picture in self.pictures}
        data = self.part.read_bytes() if self.part.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]  # a killed process may leave half a line
        for number, line in enumerate(whole.decode("utf-8", "replace").splitlines(), 1):
            try:
                record = json.loads(line)
                if "settings" in record:
                    _refuse(self.part, differences(record["settings"], self.settings))
                    continue
                image_id, size = str(record["image_id"]), (record["bytes"], record["width"], record["height"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.part}, line {number}: not a picture's proposals ({error!r}). Start anew with `--overwrite`."
                ) from error
            picture = wanted.get(image_id)
            if picture is None:
                continue
            if size != (picture.bytes, picture.width, picture.height):
                raise DataError(
                    f"{picture.path} is not the picture {image_id} that {self.part} was begun with. "
                    "Choose another output, or start anew with `--overwrite`."
                )
            self.done[image_id] = line
        file = self.part.open("r+" if self.part.exists() else "w", encoding="utf-8")
        file.truncate(len(whole))
        file.seek(0, os.SEEK_END)
        if not whole:
            file.write(json.dumps({"settings": self.settings}) + "\n")
        return file


def _refuse(path: Path, lines: Sequence[str]) -> None:
    if lines:
        listed = "\n  ".join(lines)
        raise ConfigError(
            f"{path} was made with other settings:\n  {listed}\n"
            "Choose another output, or start anew with `--overwrite`."
        )


def _coco_results(lines: Iterable[str]) -> Iterator[str]:
    before = "["
    for line in lines:
        record = json.loads(line)
        for row in record["proposals"]:
            yield f"{before}\n" + json.dumps({"image_id": record["image_id"], **row})
            before = ","
    yield "\n]\n" if before == "," else "[]\n"


def _replace(path: Path, texts: Iterable[str]) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(texts)
    temporary.replace(path)
