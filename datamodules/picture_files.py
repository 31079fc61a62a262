"""Picture files: where they are, how large, and how they become RGB pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bsap.datamodules.counts import DEFAULT_SPLIT_BY
from bsap.datamodules.files import expanded, is_regular
from bsap.datamodules.picture_names import coco_names, leaves
from bsap.datamodules.scene import Scene
from bsap.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Names = str | tuple[str, ...]
"""The name of a picture's file, or several of which the first that exists counts."""

LAYOUTS = (
    "images/train2014",
    "images/mscoco/images/train2014",
    "images/train2017",
    "images/val2017",
    "images",
    ".",
)
"""Where, under the root, pictures are looked for. The first two are COCO's usual place and the refer repository's.
COCO's 2017 release spreads the pictures of train2014 over its train2017 and val2017."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow's others are rare, and their decoders see fewer damaged files."""

COCO = (
    " RefCOCO, RefCOCO+ and RefCOCOg all use COCO's train2014 pictures "
    "(http://images.cocodataset.org/zips/train2014.zip, 13 GB)."
)
_ORIENTATION, _TURNS = 0x0112, range(5, 9)  # the EXIF tag, and its values that swap width and height
_LISTED = 20  # pictures that an error names
_HEADERS_AT_ONCE = 16  # on a network disk most of the time is waiting


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
        allow_outside: whether names may lead out of the root and the folder of pictures.
    """

    def __init__(self, root: Path, images: str | None = None, *, allow_outside: bool = False) -> None:
        self.root = expanded(root)
        self.images = images
        self.allow_outside = allow_outside
        self._listings: dict[Path, frozenset[str]] = {}

    def candidates(self) -> list[Path]:
        """The folders that may hold the pictures, likeliest first."""
        if self.images is not None:
            return [expanded(self.images), self.root / self.images]
        return [self.root / layout for layout in LAYOUTS]

    def has(self, file: Path) -> bool:
        """Whether a file is there."""
        if file.parent not in self._listings:
            try:
                self._listings[file.parent] = frozenset(os.listdir(file.parent))  # noqa: PTH208 - names, not paths
            except (OSError, ValueError):
                self._listings[file.parent] = frozenset()
        return file.name in self._listings[file.parent]

    def locate(self, names: Iterable[Names]) -> list[Path | None]:
        """The pictures' files, None for those that are missing.

        The first folder that holds any of the pictures is the folder of pictures. COCO's pictures are also found by
        their other names and in the other folders.

        Raises:
            DataError: if a name leads out of the root, unless ``allow_outside``.
        """
        wanted = [(name,) if isinstance(name, str) else name for name in names]
        folders = self.candidates()
        for folder in folders:
            files = [self._first(folder, given) for given in wanted]
            if any(files):
                break
        else:
            return [None] * len(wanted)
        return [
            file or next((found for f in folders if coco_names(given[0]) and (found := self._first(f, given))), None)
            for file, given in zip(files, wanted, strict=True)
        ]

    def _first(self, folder: Path, names: tuple[str, ...]) -> Path | None:
        others = (Path(name).with_name(other).as_posix() for name in names[:1] for other in coco_names(name))
        for name in (*names, *others):
            if self.has(folder / name):
                if not self.allow_outside and leaves(name, folder, (self.root, folder)):
                    raise DataError(
                        f"The picture name {name!r} leads out of {folder}. Annotations from others should not name "
                        "files elsewhere. Set `data.allow_outside` to true if you trust this file."
                    )
                return folder / name
        return None

    def find(self, names: Iterable[Names], *, dataset: str = "") -> list[Path]:
        """The pictures' files, as :meth:`locate` finds them.

        Raises:
            DataError: if any is missing; it names what was expected where.
        """
        wanted = [(name,) if isinstance(name, str) else name for name in names]
        files = self.locate(wanted)
        missing = [given[0] for given, file in zip(wanted, files, strict=True) if file is None]
        if missing:
            there = next((file.parent for file in files if file is not None), None)
            places = [there] if there else self.candidates()
            raise DataError(
                f"{len(missing)} of {len(files)} pictures are missing, first {', '.join(missing[:5])}; "
                f"expected in {' or '.join(map(str, places))}.{COCO if dataset in DEFAULT_SPLIT_BY else ''} Set "
                "data.images if they are elsewhere. To evaluate only a part, name its expressions with `--data.ids`."
            )
        return [file for file in files if file is not None]


@contextmanager
def _opened(path: Path, doing: str) -> Iterator[Image.Image]:
    """The picture, not decoded yet; whatever Pillow raises inside becomes a PictureError."""
    try:
        if not is_regular(path):
            raise ValueError("it is a folder, a pipe or a device")
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        fix = f"Download it again; it must be one of {', '.join(FORMATS)}."
        raise PictureError(f"Cannot {doing} the picture {path}: {error}. {fix}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's remarks on odd metadata and large pictures. Not for threads: the filters are the process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the stored pixels, from the file's header."""
    with _quiet(), _opened(path, "read") as picture:
        return picture.size


class SizeDifference(NamedTuple):
    """A picture that is not of the annotated size, or cannot be read.

    Attributes:
        path: the file.
        message: what is wrong, with the file.
        tolerated: whether the difference is within the tolerance.
    """

    path: Path
    message: str
    tolerated: bool


def size_differences(
    paths: Sequence[Path], annotated: Sequence[tuple[int, int]], tolerance: int = 0
) -> list[SizeDifference]:
    """Compare N pictures with their annotated sizes (W, H), from the files' headers.

    Returns:
        One entry for each picture that differs or cannot be read, in order. A picture that has the annotated size once
        its EXIF rotation is applied does not differ.
    """

    def look(path: Path, size: tuple[int, int]) -> SizeDifference | None:
        try:
            with _opened(path, "read") as picture:
                if _turned(picture, *size, 0) is not None:
                    return None
                return SizeDifference(
                    path, _other_size(path, picture.size, size), _turned(picture, *size, tolerance) is not None
                )
        except PictureError as error:
            return SizeDifference(path, str(error), tolerated=False)

    with _quiet(), ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
        return [found for found in pool.map(look, paths, annotated) if found is not None]


def load_picture(path: Path, width: int, height: int, tolerance: int = 0) -> Tensor:
    """Decode a picture to uint8 (3, H, W); everything else as :func:`read_picture`."""
    import torch  # here, because drawings of pictures need none of it

    return torch.from_numpy(read_picture(path, width, height, tolerance)).permute(2, 0, 1).contiguous()


def read_picture(path: Path, width: int, height: int, tolerance: int = 0) -> NDArray[np.uint8]:
    """Decode a picture to RGB, whatever its mode.

    The annotations decide about an EXIF rotation: COCO's boxes are for the pixels as stored, so the rotation is applied
    only where the stored size differs from the annotated one and the rotated size does not. Transparency is dropped.
    A picture whose size differs within the tolerance keeps its upper left corner: at the right and at the bottom it is
    cut, or its last column or row is repeated. Boxes and masks stay as annotated.

    Returns:
        uint8 (H, W, 3), of the annotated size.

    Raises:
        PictureError: if the file is missing, truncated, no picture, or of another size than annotated.
    """
    with _quiet(), _opened(path, "decode") as picture:
        turned, found = _turned(picture, width, height, tolerance), picture.size
        if turned is not None:
            rgb = _rgb(ImageOps.exif_transpose(picture) if turned else picture)[:height, :width]
            if rgb.shape[:2] != (height, width):
                rgb = np.pad(rgb, ((0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0)), mode="edge")
            return rgb
    raise PictureError(f"{_other_size(path, found, (width, height))} Use the original picture, not a resized copy.")


def scene_picture(scene: Scene) -> Tensor:
    """The decoded picture of a scene: uint8 (3, H, W); see :func:`load_picture`."""
    return load_picture(scene.path, scene.width, scene.height, scene.size_tolerance)


def check_sizes(scenes: Sequence[Scene]) -> None:
    """Compare the sizes of all pictures with the annotated ones, from their headers.

    Raises:
        DataError: for pictures that cannot be read or differ by more; it lists them.
    """
    tolerance = max((scene.size_tolerance for scene in scenes), default=0)
    sizes = [(scene.width, scene.height) for scene in scenes]
    differences = size_differences([scene.path for scene in scenes], sizes, tolerance)
    wrong = [difference.message for difference in differences if not difference.tolerated]
    if wrong:
        listed = "\n  ".join(wrong[:_LISTED])
        more = f"\n  and {len(wrong) - _LISTED} more; `bsap data check ROOT` lists all" if len(wrong) > _LISTED else ""
        raise DataError(
            f"{len(wrong)} of {len(scenes)} pictures are not what the annotations say:\n  {listed}{more}\n"
            "Use the original pictures. If a few differ by a pixel or two, allow that with `data.size_tolerance`."
        )


def _turned(picture: Image.Image, width: int, height: int, tolerance: int) -> bool | None:
    """Whether a picture has the annotated size only after its EXIF rotation; None if it has another size either way."""
    if picture.size == (width, height):
        return False
    sizes = {False: picture.size}
    if picture.getexif().get(_ORIENTATION, 1) in _TURNS:
        sizes[True] = picture.size[::-1]
    for allowed in (0, tolerance):
        for turned, (w, h) in sizes.items():
            if abs(w - width) <= allowed and abs(h - height) <= allowed:
                return turned
    return None


def _other_size(path: Path, found: tuple[int, int], annotated: tuple[int, int]) -> str:
    return (
        f"The picture {path} has {found[0]} x {found[1]} pixels, but its annotations are for {annotated[0]} x "
        f"{annotated[1]}."
    )


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to white
        gray = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {picture.mode} have no defined range")
    return np.array(picture.convert("RGB"))
