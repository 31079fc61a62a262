from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsap.datamodules.sources.download import Downloader
from bsap.errors import DataError

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def downloader(waits: list[float]) -> Iterator[Downloader]:
    loader = Downloader(wait=waits.append, timeout=5)
    yield loader
    loader.close()


def test_a_file_arrives_and_is_not_fetched_twice(served: Any, downloader: Downloader, tmp_path: Path) -> None:
    served.files["/x.zip"] = CONTENT
    arrived: list[int] = []
    for _ in range(2):
        target = downloader.fetch(f"{served.address}/x.zip", tmp_path / "deep" / "x.zip", progress=arrived.append)
    assert target.read_bytes() == CONTENT
    assert sum(arrived) == len(CONTENT)
    assert served.times("/x.zip") == 1
    assert os.listdir(target.parent) == ["x.zip"]  # noqa: PTH208


@pytest.mark.parametrize("cuts", [[1_000_000], [1_000_000, 500_000, 1], [0, 0]])
def test_a_cut_connection_is_continued(
    served: Any, downloader: Downloader, waits: list[float], tmp_path: Path, cuts: list[int]
) -> None:
    served.files["/x.zip"] = CONTENT
    served.faults["/x.zip"] = [("cut", n) for n in cuts]
    target = downloader.fetch(f"{served.address}/x.zip", tmp_path / "x.zip")
    assert target.read_bytes() == CONTENT
    assert len(waits) == len(cuts)
    assert [wanted is not None for _, wanted in served.asked] == [sum(cuts[:n]) > 0 for n in range(len(cuts) + 1)]


def test_a_file_that_changed_meanwhile_starts_again(served: Any, downloader: Downloader, tmp_path: Path) -> None:
    served.files["/x.zip"] = CONTENT
    served.faults["/x.zip"] = [("cut", 100_000)] * 5
    with pytest.raises(DataError, match=r"Cannot download .*x\.zip.*bsap docs data"):
        downloader.fetch(f"{served.address}/x.zip", tmp_path / "x.zip")
    assert (tmp_path / "x.zip.part").stat().st_size == 500_000, "what arrived stays"
    served.files["/x.zip"] = CONTENT[::-1]
    assert downloader.fetch(f"{served.address}/x.zip", tmp_path / "x.zip").read_bytes() == CONTENT[::-1]


def test_the_server_says_how_long_to_wait(
    served: Any, downloader: Downloader, waits: list[float], tmp_path: Path
) -> None:
    served.files["/x"] = b"abc"
    served.faults["/x"] = [(429, {"Retry-After": "7"}), (503, {}), (503, {"Retry-After": "100000"})]
    assert downloader.fetch(f"{served.address}/x", tmp_path / "x").read_bytes() == b"abc"
    assert waits == [7.0, 2.0, 60.0]


def test_errors_that_stay_are_not_tried_again(
    served: Any, downloader: Downloader, waits: list[float], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"answers 404 .*bsap docs data"):
        downloader.fetch(f"{served.address}/gone", tmp_path / "x")
    assert (served.times("/gone"), waits) == (1, [])
    served.faults["/busy"] = [(503, {})] * 9
    with pytest.raises(DataError, match=r"Cannot download .*503"):
        downloader.get(f"{served.address}/busy", most=10)
    assert served.times("/busy") == 5


def test_no_network(downloader: Downloader, waits: list[float], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot download http://127\.0\.0\.1:9/x: .*bsap docs data"):
        downloader.fetch("http://127.0.0.1:9/x", tmp_path / "x")
    assert len(waits) == 4


def test_a_hash_decides(served: Any, downloader: Downloader, tmp_path: Path) -> None:
    served.files["/x"] = CONTENT
    with pytest.raises(DataError, match="its SHA-256 is"):
        downloader.fetch(f"{served.address}/x", tmp_path / "x", sha256="0" * 64)
    assert list(tmp_path.glob("x*")) in ([], [tmp_path / "x.part.tag"])
    right = hashlib.sha256(CONTENT).hexdigest()
    assert downloader.fetch(f"{served.address}/x", tmp_path / "x", sha256=right).read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "x"])
def test_addresses_that_are_not_fetched(downloader: Downloader, tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="only https addresses are fetched"):
        downloader.fetch(address, tmp_path / "x")
    with pytest.raises(DataError, match="only https addresses are fetched"):
        downloader.get(address, most=10)


def test_more_than_expected(served: Any, downloader: Downloader) -> None:
    served.files["/x"] = CONTENT
    with pytest.raises(DataError, match="larger than the 100 bytes"):
        downloader.get(f"{served.address}/x", most=100)


def test_a_full_disk(served: Any, downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.files["/x"] = CONTENT
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    with pytest.raises(DataError, match=r"needs 3 MiB, but .* has 1 MiB free.* what is complete stays"):
        downloader.fetch(f"{served.address}/x", tmp_path / "x")
