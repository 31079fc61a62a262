"""The feature store: found by content, written whole, read in any company."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsap.errors import DataError
from bsap.features.store import FORMAT, OPEN_SHARDS, FeatureStore, PictureDigests, make_key


def filled(folder: Path, **tensors: torch.Tensor) -> FeatureStore:
    store = FeatureStore(folder)
    for key, tensor in tensors.items():
        store.put(key, tensor)
    store.flush()
    return store


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    x = torch.randn(7, 5)
    filled(tmp_path, a=x, empty=torch.zeros(0, 5))
    again = FeatureStore(tmp_path)
    found = again.get("a")
    assert found is not None
    assert torch.equal(found, x)
    assert again.get("empty").shape == (0, 5)  # type: ignore[union-attr]
    assert again.get("b") is None


def test_key_depends_on_every_part_and_not_on_order() -> None:
    base = {"weights": "w", "view": {"std": 100.0}, "picture": "p"}
    keys = {make_key(**base)} | {make_key(**{**base, name: "other"}) for name in base}
    assert len(keys) == 4


def test_truncated_shard_is_dropped_and_the_rest_read(tmp_path: Path) -> None:
    filled(tmp_path, a=torch.ones(100))
    filled(tmp_path, b=torch.ones(100))
    victim = next(path for path in tmp_path.glob("*.safetensors") if b'"a"' in path.read_bytes())
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="damaged"):
        store = FeatureStore(tmp_path)
    assert store.get("a") is None
    assert store.get("b") is not None


@pytest.mark.parametrize("place", [3, 20, -5])
def test_flipped_byte_is_detected_wherever_it_is(tmp_path: Path, place: int) -> None:
    filled(tmp_path, a=torch.arange(100.0))
    (shard,) = tmp_path.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[place] ^= 0x41
    shard.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        assert FeatureStore(tmp_path).get("a") is None


def test_a_damaged_tensor_costs_no_other_and_is_replaced_for_good(tmp_path: Path) -> None:
    """Shards have random names: a damaged one may well come before the one that holds the feature made again."""
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        filled(folder, a=torch.zeros(100), b=torch.ones(100))
        (shard,) = folder.glob("*.safetensors")
        data = bytearray(shard.read_bytes())
        data[-5] ^= 0x41  # in b, the last one
        shard.write_bytes(data)
        store = FeatureStore(folder)
        with pytest.warns(UserWarning, match="damaged"):
            assert store.get("b") is None
        assert torch.equal(store.get("a"), torch.zeros(100))  # type: ignore[arg-type]
        store.put("b", torch.ones(100))
        store.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(FeatureStore(folder).get("b"), torch.ones(100))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header",
    ["[" * 100_000, '{"a": {"dtype": "F32", "shape": [1], "data_offsets": "x"}}', '{"a": {"data_offsets": []}}'],
)
def test_a_header_of_nonsense_is_damage(tmp_path: Path, header: str) -> None:
    meta = header.replace("{", f'{{"__metadata__": {{"format": "{FORMAT}", "crc32": "{{}}"}}, ', 1).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(meta)) + meta)
    with pytest.warns(UserWarning, match="damaged"):
        assert len(FeatureStore(tmp_path)) == 0


def test_a_shard_that_is_cut_off_while_it_is_in_use(tmp_path: Path) -> None:
    """A mapped file would take the process with it."""
    filled(tmp_path, a=torch.ones(5000), b=torch.ones(5000))
    store = FeatureStore(tmp_path)
    assert store.get("a") is not None
    (shard,) = tmp_path.glob("*.safetensors")
    os.truncate(shard, 100)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.get("b") is None


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    for number in range(80):
        filled(tmp_path, **{f"k{number}": torch.full((2,), float(number))})
    store = FeatureStore(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(80):
        assert torch.equal(store.get(f"k{number}"), torch.full((2,), float(number)))  # type: ignore[arg-type]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= OPEN_SHARDS


def test_what_is_old_goes_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed loses no more than that."""
    store = FeatureStore(tmp_path)
    store.put("a", torch.ones(2))
    assert "a" not in FeatureStore(tmp_path)
    monkeypatch.setattr("bsap.features.store.SHARD_SECONDS", 0.0)
    store.put("b", torch.ones(2))
    assert {"a", "b"} <= FeatureStore(tmp_path)._where.keys()


def test_other_formats_are_not_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {"format": "bsap-features-0", "crc32": "{}"})
    with pytest.warns(UserWarning, match="1 feature shards in .* were written by another version of bsap"):
        assert len(FeatureStore(tmp_path)) == 0


@pytest.mark.filterwarnings("ignore:Feature shard:UserWarning", "ignore:1 feature shards:UserWarning")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_of_a_shard_is_served(tmp_path: Path, data: st.DataObject) -> None:
    """Neither of the header, which says what the bytes are, nor of the bytes."""
    folder = tmp_path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    tensors = {"key1": torch.arange(12.0).reshape(3, 4), "key2": torch.arange(4), "key3": torch.ones(2, 2)}
    filled(folder, **tensors)
    (shard,) = folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    shard.write_bytes(content)
    store = FeatureStore(folder)
    for key in ("key1", "key2", "key3"):
        found = store.get(key)
        assert found is None or (found.dtype == tensors[key].dtype and torch.equal(found, tensors[key]))


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F32"', b'"I32"'), (b"[3,4]", b"[4,3]"), (b"[3,4]", b"[12]"), (b'"key1"', b'"key9"')]
)
@pytest.mark.filterwarnings("ignore:Feature shard:UserWarning")
def test_a_header_that_says_something_else_is_damage(tmp_path: Path, old: bytes, new: bytes) -> None:
    filled(tmp_path, key1=torch.arange(12.0).reshape(3, 4))
    (shard,) = tmp_path.glob("*.safetensors")
    content = shard.read_bytes()
    assert old in content
    shard.write_bytes(content.replace(old, new.ljust(len(old))))
    store = FeatureStore(tmp_path)
    assert store.get("key1") is None
    assert store.get("key9") is None


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    assert len(FeatureStore(tmp_path)) == 0


def test_unfinished_shards_are_never_read(tmp_path: Path) -> None:
    filled(tmp_path, a=torch.ones(3))
    (shard,) = tmp_path.glob("*.safetensors")
    shard.rename(shard.with_suffix(".partial"))
    assert len(FeatureStore(tmp_path)) == 0


def test_full_disk_warns_goes_on_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path)
    store.put("a", torch.ones(3))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        store.flush()
    assert list(tmp_path.iterdir()) == []
    store.put("b", torch.ones(3))
    assert "b" not in store
    assert store.get("a") is not None, "what is in memory still serves this run"


def test_folder_that_cannot_be_made_warns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        store = FeatureStore(tmp_path / "file" / "store")
    assert store.get("a") is None


def _write(folder: Path, start: int) -> None:
    store = FeatureStore(folder)
    for i in range(start, start + 20):
        store.put(f"k{i}", torch.full((3,), float(i)))
        store.flush()


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, start)) for start in (0, 10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = FeatureStore(tmp_path)
    for i in range(30):
        assert torch.equal(store.get(f"k{i}"), torch.full((3,), float(i)))  # type: ignore[arg-type]


def test_refresh_sees_other_writers(tmp_path: Path) -> None:
    reader = FeatureStore(tmp_path)
    filled(tmp_path, a=torch.ones(2))
    assert "a" not in reader
    reader.refresh()
    assert "a" in reader


def test_picture_digest_follows_the_bytes_not_the_name(tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(b"one")
    b.write_bytes(b"one")
    digests = PictureDigests(tmp_path)
    first = digests(a)
    assert digests(b) == first
    digests.flush()
    again = PictureDigests(tmp_path)
    assert again(a) == first
    a.write_bytes(b"two!")
    assert again(a) != first


@pytest.mark.parametrize("replace", [False, True], ids=["written", "replaced"])
def test_a_picture_with_size_and_time_kept_is_another_picture(tmp_path: Path, replace: bool) -> None:
    a = tmp_path / "a.png"
    a.write_bytes(b"one")
    before, digests = a.stat(), PictureDigests(tmp_path)
    first = digests(a)
    digests.flush()
    target = tmp_path / "b.png" if replace else a
    target.write_bytes(b"two")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.replace(a)
    assert a.stat().st_mtime_ns == before.st_mtime_ns
    assert digests(a) != first
    assert PictureDigests(tmp_path)(a) != first


def test_digests_by_content_trust_nothing(tmp_path: Path) -> None:
    a = tmp_path / "a.png"
    a.write_bytes(b"one")
    stat = a.stat()
    place = [str(a), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    (tmp_path / "pictures-1.jsonl").write_text(json.dumps([*place, "wrong"]) + "\n")
    assert PictureDigests(tmp_path)(a) == "wrong"
    assert PictureDigests(tmp_path, by_content=True)(a) == hashlib.sha256(b"one").hexdigest()


def test_a_memory_of_nobody_and_a_picture_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "pictures-1.jsonl").mkdir()  # stands for a file that may not be read
    digests = PictureDigests(tmp_path)
    with pytest.raises(DataError, match=r"absent.png cannot be read"):
        digests(tmp_path / "absent.png")


def test_picture_digest_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = tmp_path / "a.png"
    a.write_bytes(b"one")
    digests = PictureDigests(tmp_path)
    first = digests(a)
    digests.flush()
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the picture was read again"))
    assert PictureDigests(tmp_path)(a) == first
