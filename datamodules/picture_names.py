"""The names under which different files know the same picture."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from bsap.datamodules.records import PictureRecord
from bsap.errors import DataError

T = TypeVar("T")

_COCO = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}


def stem(name: str) -> str:
    """A picture's name without folder and without the suffix of a picture.

    Example:
        >>> stem("images/kitchen.1.jpg"), stem("kitchen.1")
        ('kitchen.1', 'kitchen.1')
    """
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def number(name: str) -> str:
    """The number that a name stands for, without leading zeros; other names as their stem.

    Example:
        >>> number("COCO_train2014_000000580957.jpg"), number("000000580957"), number("kitchen.jpg")
        ('580957', '580957', 'kitchen')
    """
    short = stem(name)
    match = _COCO.fullmatch(short)
    digits = match[1] if match else short
    return (digits.lstrip("0") or "0") if digits.isascii() and digits.isdigit() else short


def coco_names(name: str) -> tuple[str, ...]:
    """The other names of a COCO picture, none of any other: those of 2014 say the split, those of 2017 only the number.

    Example:
        >>> coco_names("COCO_train2014_000000580957.jpg")
        ('000000580957.jpg', 'COCO_val2014_000000580957.jpg')
        >>> coco_names("kitchen.jpg")
        ()
    """
    match = _COCO.fullmatch(stem(name))
    if match is None:
        return ()
    forms = (f"{match[1]}.jpg", f"COCO_train2014_{match[1]}.jpg", f"COCO_val2014_{match[1]}.jpg")
    return tuple(form for form in forms if form != PurePosixPath(name).name)


def leaves(name: str, folder: Path, roots: Iterable[Path]) -> bool:
    """Whether a name, taken from a folder, lies outside all roots: an absolute name, or one with ``..``."""
    if not os.path.isabs(name) and ".." not in PurePosixPath(name.replace("\\", "/")).parts:  # noqa: PTH117
        return False
    place = os.path.abspath(folder / name)  # noqa: PTH100 - links are the user's own and not followed
    return not any(Path(place).is_relative_to(os.path.abspath(root)) for root in roots)  # noqa: PTH100


_SCHEMES: dict[str, tuple[Callable[[str], str], Callable[[PictureRecord], str]]] = {
    "image_id": (str, lambda picture: picture.image_id),
    "file_name": (str, lambda picture: picture.file_name),
    "file name without suffix": (stem, lambda picture: stem(picture.file_name)),
    "number of the image_id": (number, lambda picture: number(picture.image_id)),
    "number of the file name": (number, lambda picture: number(picture.file_name)),
}
"""Ways to name a picture, the most exact first: what a file's name and a picture's record become."""


def by_picture(found: Mapping[str, T], pictures: Collection[PictureRecord], file: str) -> tuple[dict[str, T], str]:
    """What a file says of each picture, and how it names pictures: in the one way that fits the most of them.

    Returns:
        The values by ``image_id`` of the pictures that the file lists, and the name of the way.

    Raises:
        DataError: if the file lists a picture under two names.
    """
    best: dict[str, T] = {}
    way = "image_id"
    for scheme, (of_name, of_picture) in _SCHEMES.items():
        keys = {picture.image_id: of_picture(picture) for picture in pictures}
        if len(set(keys.values())) < len(keys):  # a/1.jpg and b/1.jpg: the way does not tell them apart
            continue
        names: dict[str, str] = {}
        twice: dict[str, str] = {}
        for name in found:
            if names.setdefault(of_name(name), name) != name:
                twice[of_name(name)] = name
        fitting = {image_id: found[names[key]] for image_id, key in keys.items() if key in names}
        if len(fitting) > len(best):
            doubled = next((key for key in keys.values() if key in twice), None)
            if doubled is not None:
                raise DataError(
                    f"{file}: {names[doubled]!r} and {twice[doubled]!r} are the same picture. Merge what they hold."
                )
            best, way = fitting, scheme
        if len(best) == len(keys):
            break
    return best, way
