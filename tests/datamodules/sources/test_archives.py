from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

import pytest

from bsap.datamodules.sources.archives import each_member, unpack
from bsap.errors import DataError

FILES = {"top.json": b"{}", "deep/er/x.jsonl": b"a\nb\n", "deep/skip.bin": b"\0" * 100}


def write(path: Path, files: dict[str, bytes], *, link: tuple[str, str] | None = None) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link is not None:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(info)
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_wanted_members(tmp_path: Path, name: str) -> None:
    archive = write(tmp_path / name, FILES)
    found = {}

    def use(member: PurePosixPath, stream: IO[bytes]) -> None:
        unpack(stream, tmp_path / "out" / member.name)
        found[member.as_posix()] = (tmp_path / "out" / member.name).read_bytes()

    assert each_member(archive, lambda name: name.suffix in (".json", ".jsonl"), use) == 2
    assert found == {key: value for key, value in FILES.items() if not key.endswith(".bin")}


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../evil", "deep/../../evil", "/etc/evil", "..\\evil"])
def test_names_that_lead_out_refuse_the_archive(tmp_path: Path, suffix: str, name: str) -> None:
    archive = write(tmp_path / f"x.{suffix}", {name: b"evil", **FILES})
    with pytest.raises(DataError, match="leads out of the folder"):
        each_member(archive, lambda name: True, lambda name, stream: None)


def test_links_are_not_followed(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar.gz", FILES, link=("link.json", "/etc/passwd"))
    names: list[str] = []
    each_member(archive, lambda name: True, lambda name, stream: names.append(name.as_posix()))
    assert set(names) == set(FILES)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / name, {"a.json": bytes(range(256)) * 4000, **FILES}).read_bytes()
    damaged = [whole[: len(whole) // 2], b"<html>404</html>", b"", whole[:100] + b"\xff" * 50 + whole[150:]]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="not a readable zip or tar file"):
            each_member(tmp_path / name, lambda name: True, lambda name, stream: stream.read())
