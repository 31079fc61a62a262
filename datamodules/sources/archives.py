"""Members of zip and tar files, read one by one; nothing is unpacked by the archive's own paths."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from bsap.errors import DataError

_LARGEST = 4 * 2**30  # bytes of one member


def each_member(
    archive: Path, wanted: Callable[[PurePosixPath], bool], use: Callable[[PurePosixPath, IO[bytes]], object]
) -> int:
    """Call ``use`` with the name and the opened content of each wanted file in a zip or tar file; returns their number.

    Raises:
        DataError: if the file is neither a zip nor a tar file or is damaged, or if any of its members has a name that
            leads out of a folder or is larger than 4 GiB.
    """
    count = 0
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    name = _checked(info.filename, info.file_size, archive)
                    if not info.is_dir() and wanted(name):
                        with zipped.open(info) as content:
                            use(name, content)
                        count += 1
            return count
        with tarfile.open(archive) as tar:
            for item in tar:
                name = _checked(item.name, item.size, archive)
                if item.isfile() and wanted(name) and (stream := tar.extractfile(item)) is not None:
                    use(name, stream)
                    count += 1
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        reason = f"not a readable zip or tar file: {error}"
        raise DataError(f"{archive}: {reason}. Delete it and download it again.") from error
    return count


def unpack(stream: IO[bytes], target: Path) -> None:
    """Write a member to a file, which appears only once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    part.replace(target)


def _checked(given: str, size: int, archive: Path) -> PurePosixPath:
    name = PurePosixPath(given.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or "\0" in given:
        raise DataError(f"{archive}: the member {given!r} leads out of the folder. The file is refused.")
    if size > _LARGEST:
        raise DataError(f"{archive}: the member {given!r} is larger than 4 GiB. The file is refused.")
    return name
