"""The pictures to find objects in, with the ids that annotation files give them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bsap.datamodules.files import is_regular
from bsap.datamodules.picture_files import PictureFolder, picture_size
from bsap.datamodules.records import SplitRecords
from bsap.errors import DataError

_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_NOT_PICTURES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
"""Folders in which systems keep copies and remains of pictures."""


@dataclass(frozen=True)
class Picture:
    """A picture to find objects in, with its identity in annotation files and its size in pixels."""

    image_id: str
    path: Path
    width: int
    height: int

    @property
    def bytes(self) -> int:
        """The file's size, -1 if it is not there."""
        with suppress(OSError):
            return self.path.stat().st_size
        return -1


def pictures_in(folder: Path) -> list[Picture]:
    """All pictures in a folder and its subfolders, in the order of their names.

    Hidden files and folders are left out, such as ``._1.jpg``, which macOS writes beside ``1.jpg``. A picture with a
    name in COCO's form has COCO's number as its id; any other has its path below the folder, as in JSON lines.

    Raises:
        DataError: if there is no picture, one cannot be read, or two have the same id.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES
        and not path.is_dir()
        and not any(part.startswith(".") or part in _NOT_PICTURES for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DataError(
            f"No picture ({', '.join(sorted(_SUFFIXES))}) in {folder}; hidden files are not read. Set `--pictures` to "
            "a folder of pictures."
        )
    first: dict[str, Path] = {}
    pictures = []
    for path in files:
        coco = _COCO_NAME.fullmatch(path.stem)
        image_id = str(int(coco[1])) if coco else path.relative_to(folder).as_posix()
        if (other := first.setdefault(image_id, path)) != path:
            raise DataError(f"{other} and {path} would both be the picture {image_id}: keep one of them.")
        pictures.append(Picture(image_id, path, *_size(path)))
    return pictures


def pictures_of(splits: Iterable[SplitRecords], folder: PictureFolder) -> list[Picture]:
    """The pictures of annotated splits, each once, with the ids of the annotations.

    Raises:
        DataError: if a picture is missing or cannot be read.
    """
    splits = list(splits)
    records = {image_id: picture for split in splits for image_id, picture in split.pictures.items()}
    paths = folder.find(
        [record.file_names for record in records.values()], dataset=next((split.dataset for split in splits), "")
    )
    return [
        Picture(image_id, path, *_size(path, record.size))
        for (image_id, record), path in zip(records.items(), paths, strict=True)
    ]


def _size(path: Path, annotated: tuple[int, int] | None = None) -> tuple[int, int]:
    """The annotated size, else that of the file; refuses what could be read without end."""
    try:
        regular = is_regular(path)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the picture {path}: {error}. Remove it or restore it.") from error
    if not regular:
        raise DataError(f"{path} is a pipe, a device or a folder, not a picture. Remove it or rename it.")
    return annotated or picture_size(path)


def digest_of(pictures: Sequence[Picture]) -> str:
    """SHA-256 of the pictures' ids and sizes, in their order."""
    rows = [[picture.image_id, picture.width, picture.height] for picture in pictures]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
