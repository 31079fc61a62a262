"""Fetching single pictures by name, each checked before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bsap.datamodules.picture_files import PictureError, load_picture, picture_size, size_differences
from bsap.datamodules.records import PictureRecord
from bsap.datamodules.sources.download import Downloader, full_disk
from bsap.errors import DataError

_LARGEST = 64 * 2**20  # bytes of a picture
_AT_ONCE = 8


class Fetched(NamedTuple):
    """What became of the pictures.

    Attributes:
        there: how many were there before, of the annotated size.
        loaded: how many were downloaded.
        failed: for each that could not be had, why.
    """

    there: int
    loaded: int
    failed: tuple[str, ...]


def fetch_pictures(
    pictures: Sequence[PictureRecord],
    folder: Path,
    address: str,
    downloader: Downloader,
    *,
    progress: Callable[[int], object] = lambda count: None,
) -> Fetched:
    """Download the pictures that are missing or damaged.

    A picture is written only once it is complete, decodes, and has the annotated size, so that a run of this function
    that is cut off at any moment can be repeated.

    Args:
        pictures: the pictures, with their annotated sizes.
        folder: where they are written.
        address: with ``{name}`` for the name of a picture.
        downloader: downloads.
        progress: called with the number of pictures that are done.

    Raises:
        DataError: if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [picture for picture in pictures if (folder / picture.file_name).exists()]
    sized = [(folder / picture.file_name, picture.size) for picture in there if picture.size is not None]
    damaged = {d.path.name for d in size_differences([path for path, _ in sized], [size for _, size in sized])}
    sound = {picture.file_name for picture in there} - damaged

    def fetch(picture: PictureRecord) -> bytes | str:
        try:
            return downloader.get(address.format(name=picture.file_name), most=_LARGEST)
        except DataError as error:
            return str(error)

    failed = []
    missing = [picture for picture in pictures if picture.file_name not in sound]
    progress(len(sound))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for picture, found in zip(missing, pool.map(fetch, missing), strict=True):
            reason = found if isinstance(found, str) else _keep(found, folder / picture.file_name, picture.size)
            if reason is not None:
                failed.append(f"{picture.file_name}: {reason}")
            progress(1)
    return Fetched(len(sound), len(missing) - len(failed), tuple(failed))


def _keep(content: bytes, target: Path, size: tuple[int, int] | None) -> str | None:
    """Write a picture if it is one; returns why not, or None."""
    part = target.with_name(target.name + ".part")
    with full_disk(target):
        part.write_bytes(content)
        try:
            load_picture(part, *(size or picture_size(part)))
        except PictureError as error:
            part.unlink()
            return f"what the server sent is not the picture: {error}"
        part.replace(target)
    return None
