"""Picture files: where they are, how large, and how they become RGB pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bsap.datamodules.counts import DEFAULT_SPLIT_BY
from bsap.errors import DataError

LAYOUTS = ("images/train2014", "images/mscoco/images/train2014", "images", ".")
"""Where, under the root, pictures are looked for; the first two are COCO's usual place and the refer repository's."""

COCO = (
    " RefCOCO, RefCOCO+ and RefCOCOg all use COCO's train2014 pictures "
    "(http://images.cocodataset.org/zips/train2014.zip, 13 GB)."
)
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, TypeError, Image.DecompressionBombError)


class PictureError(DataError):
    """A picture that cannot be decoded.

    A DataLoader raises a worker's error again in the main process with the worker's whole traceback as its message. The
    user needs only the last line of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class PictureFolder:
    """The folder of pictures under a root.

    Looks names up in directory listings, one per directory: thousands of single questions are slow on network disks.

    Args:
        root: the data's root.
        images: the folder of pictures where it is not in one of the usual places; relative paths may start at the root.
    """

    def __init__(self, root: Path, images: str | None = None) -> None:
        self.root = root
        self.images = images
        self._listings: dict[Path, frozenset[str]] = {}

    def candidates(self) -> list[Path]:
        """The folders that may hold the pictures, likeliest first."""
        if self.images is not None:
            return [Path(self.images), self.root / self.images]
        return [self.root / layout for layout in LAYOUTS]

    def has(self, file: Path) -> bool:
        """Whether a file is there."""
        if file.parent not in self._listings:
            try:
                self._listings[file.parent] = frozenset(os.listdir(file.parent))  # noqa: PTH208 - names, not paths
            except (OSError, ValueError):
                self._listings[file.parent] = frozenset()
        return file.name in self._listings[file.parent]

    def locate(self, names: Iterable[str]) -> list[Path | None]:
        """The pictures' files, None for those that are missing."""
        names = list(names)
        for folder in self.candidates():
            files = [folder / name for name in names]
            if any(map(self.has, files)):
                return [file if self.has(file) else None for file in files]
        return [None] * len(names)

    def find(self, names: Iterable[str], *, dataset: str = "") -> list[Path]:
        """The pictures' files.

        Args:
            names: the pictures, relative to their folder.
            dataset: whose they are, for the error message: only some have COCO's.

        Raises:
            DataError: if any is missing; it names what was expected where.
        """
        names = list(names)
        files = self.locate(names)
        missing = [name for name, file in zip(names, files, strict=True) if file is None]
        if missing:
            there = next((file.parent for file in files if file is not None), None)
            places = [there] if there else self.candidates()
            raise DataError(
                f"{len(missing)} of {len(names)} pictures are missing, first {', '.join(missing[:5])}; "
                f"expected in {' or '.join(map(str, places))}.{COCO if dataset in DEFAULT_SPLIT_BY else ''} Set "
                "data.images if they are elsewhere. To evaluate only a part, name its expressions with `--data.ids`."
            )
        return [file for file in files if file is not None]


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the stored pixels, from the file's header."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return width, height
    except _READ_ERRORS as error:
        raise PictureError(f"Cannot read the picture {path}: {error}. Download it again.") from error


def load_picture(path: Path, width: int, height: int) -> Tensor:
    """Decode a picture to RGB, whatever its mode.

    The annotations decide about an EXIF rotation: COCO's boxes are for the pixels as stored, so the rotation is applied
    only where the stored size differs from the annotated one and the rotated size does not. Transparency is dropped.

    Args:
        path: the file.
        width: W as annotated.
        height: H as annotated.

    Returns:
        uint8 (3, H, W).

    Raises:
        PictureError: if the file is missing, truncated, no picture, or of another size than annotated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata and large pictures
            with Image.open(path) as picture:
                pixels: Image.Image = picture
                if picture.size != (width, height):
                    pixels = ImageOps.exif_transpose(picture)
                if pixels.size == (width, height):
                    return torch.from_numpy(_rgb(pixels)).permute(2, 0, 1).contiguous()
                found = picture.size
    except _READ_ERRORS as error:
        raise PictureError(f"Cannot decode the picture {path}: {error}. Download it again.") from error
    raise PictureError(
        f"The picture {path} has {found[0]} x {found[1]} pixels, but its annotations are for {width} x {height}. "
        "Use the original picture, not a resized copy."
    )


def _rgb(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if picture.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to white
        gray = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {picture.mode} have no defined range")
    return np.array(picture.convert("RGB"))
