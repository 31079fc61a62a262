"""Which pictures to look for objects in, and how annotation files call them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bsap.datamodules.picture_files import PictureFolder, picture_size
from bsap.datamodules.records import SplitRecords
from bsap.errors import DataError

_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Picture:
    """A picture to look for objects in.

    Attributes:
        image_id: its identity in annotation files.
        path: its file.
        width: W in pixels.
        height: H in pixels.
    """

    image_id: str
    path: Path
    width: int
    height: int

    @property
    def bytes(self) -> int:
        """The file's size, -1 where it is not there."""
        with suppress(OSError):
            return self.path.stat().st_size
        return -1


def pictures_in(folder: Path) -> list[Picture]:
    """All pictures in a folder and its subfolders, in the order of their names.

    A picture named as COCO names them has COCO's number as its id; any other the path below the folder, which is what
    JSON lines of one's own call it.

    Raises:
        DataError: without a picture, for one that cannot be read, or where two have the same id.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"No picture ({', '.join(sorted(_SUFFIXES))}) in {folder}.")
    first: dict[str, Path] = {}
    pictures = []
    for path in files:
        coco = _COCO_NAME.fullmatch(path.stem)
        image_id = str(int(coco[1])) if coco else path.relative_to(folder).as_posix()
        if (other := first.setdefault(image_id, path)) != path:
            raise DataError(f"{other} and {path} would both be the picture {image_id}: keep one of them.")
        pictures.append(Picture(image_id, path, *picture_size(path)))
    return pictures


def pictures_of(splits: Iterable[SplitRecords], folder: PictureFolder) -> list[Picture]:
    """The pictures of annotated splits, each once, by the ids that the annotations give them.

    Raises:
        DataError: if a picture is missing.
    """
    splits = list(splits)
    records = {image_id: picture for split in splits for image_id, picture in split.pictures.items()}
    paths = folder.find(
        [record.file_name for record in records.values()], dataset=next((split.dataset for split in splits), "")
    )
    pictures = []
    for (image_id, record), path in zip(records.items(), paths, strict=True):
        annotated = None if record.width is None or record.height is None else (record.width, record.height)
        pictures.append(Picture(image_id, path, *(annotated or picture_size(path))))
    return pictures


def digest_of(pictures: Sequence[Picture]) -> str:
    """SHA-256 of the pictures' ids and sizes, in their order."""
    rows = [[picture.image_id, picture.width, picture.height] for picture in pictures]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
