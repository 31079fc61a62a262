from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from bsap.cli.entry import main
from bsap.datamodules.check import check_root
from bsap.datamodules.sources import forms
from bsap.datamodules.sources.catalogue import Catalogue, Dataset, Source, read_catalogue
from bsap.datamodules.sources.download import Downloader
from bsap.datamodules.sources.forms import Job
from bsap.datamodules.sources.get import Got, get_dataset
from bsap.datamodules.unpickle import load_plain_pickle
from bsap.errors import ConfigError, DataError

CASES = Path(__file__).parents[1] / "cases"
REFER = CASES / "base" / "refer"
INSTANCES = (REFER / "refcoco" / "instances.json").read_bytes()
REFS = (REFER / "refcoco" / "refs(unc).p").read_bytes()
PICTURES = {file.name: file.read_bytes() for file in (REFER / "images" / "train2014").iterdir()}


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


@pytest.fixture
def world(served: Any, tmp_path: Path) -> Path:
    """A server with a dataset ``tiny``, and the file of sources that names it."""
    served.files["/tiny.zip"] = zipped({"tiny/refs(unc).p": REFS, "tiny/instances.json": INSTANCES, "tiny/x.txt": b"x"})
    served.files |= {f"/train2014/{name}": content for name, content in PICTURES.items()}
    entry = {
        "about": "a drawn dataset", "licence": "CC0", "split_by": "unc", "splits": ["val"], "pictures": "tiny_pictures",
        "sources": [
            {"name": "first", "form": "refer_zip", "address": f"{served.address}/gone.zip"},
            {"name": "second", "form": "refer_zip", "address": f"{served.address}/tiny.zip"},
        ],
    }  # fmt: skip
    content = {
        "datasets": {"tiny": entry, "refcoco": entry},
        "files": {"tiny_pictures": {"address": f"{served.address}/train2014/{{name}}", "licence": "CC0"}},
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def downloader() -> Iterator[Downloader]:
    loader = Downloader(wait=lambda seconds: None, timeout=5)
    yield loader
    loader.close()


def get(world: Path, root: Path, downloader: Downloader, name: str = "tiny", **settings: Any) -> Got:
    catalogue = read_catalogue([str(world)])
    return get_dataset(catalogue.dataset(name), catalogue, root, downloader, **settings)


def test_the_next_source_is_tried_and_all_is_sound(
    served: Any, world: Path, downloader: Downloader, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    got = get(world, root, downloader)
    assert got.source == "second"
    assert [line.partition(":")[0] for line in got.refused] == ["first"]
    assert "404" in got.refused[0]
    assert got.pictures is not None
    assert (got.pictures.loaded, got.pictures.there, got.pictures.failed) == (4, 0, ())
    assert (root / "tiny" / "refs(unc).p").read_bytes() == REFS
    assert (root / "tiny" / "instances.json").read_bytes() == INSTANCES
    assert {file.name: file.read_bytes() for file in (root / "images" / "train2014").iterdir()} == PICTURES
    assert check_root(root).ok
    before = len(served.asked)
    again = get(world, root, downloader)
    assert (again.source, again.pictures and again.pictures.there) == (None, 4)
    assert len(served.asked) == before, "nothing is fetched twice"


def test_counts_decide_whether_a_source_is_the_published_data(
    world: Path, downloader: Downloader, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"refcoco: no source works") as caught:
        get(world, tmp_path / "root", downloader, "refcoco")
    assert "its split val has 24 expressions of 12 referents, the published one has 10834 expressions of 3811" in str(
        caught.value
    )
    assert not (tmp_path / "root" / "refcoco" / "refs(unc).p").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not a readable zip or tar file"),
        (zipped({"tiny/refs(unc).p": REFS}), r"does not hold instances\.json"),
        (zipped({"tiny/refs(unc).p": b"cos\nsystem\n(S'true'\ntR.", "x/instances.json": INSTANCES}), "refused at byte"),
        (zipped({"../refs(unc).p": REFS, "x/instances.json": INSTANCES}), "leads out of the folder"),
    ],
    ids=["page", "incomplete", "code", "outside"],
)
def test_sources_that_are_refused(
    served: Any, world: Path, downloader: Downloader, tmp_path: Path, content: bytes, message: str
) -> None:
    served.files["/tiny.zip"] = content
    with pytest.raises(DataError, match=message):
        get(world, tmp_path / "root", downloader, source="second")
    assert not (tmp_path / "root" / "tiny" / "refs(unc).p").exists()


def test_pictures_are_checked_and_only_the_missing_are_fetched_again(
    served: Any, world: Path, downloader: Downloader, tmp_path: Path
) -> None:
    names = sorted(PICTURES)
    stream = io.BytesIO()
    Image.new("RGB", (161, 120)).save(stream, "JPEG")
    served.files[f"/train2014/{names[0]}"] = PICTURES[names[0]][:1000]
    served.files[f"/train2014/{names[1]}"] = stream.getvalue()
    del served.files[f"/train2014/{names[2]}"]
    root = tmp_path / "root"
    got = get(world, root, downloader).pictures
    assert got is not None
    assert (got.loaded, [line.partition(":")[0] for line in got.failed]) == (1, names[:3])
    assert "is not the picture" in got.failed[0]
    assert "has 161 x 120 pixels" in got.failed[1]
    assert "404" in got.failed[2]
    assert {file.name for file in (root / "images" / "train2014").iterdir()} == {names[3]}
    served.files |= {f"/train2014/{name}": content for name, content in PICTURES.items()}
    (root / "images" / "train2014" / names[3]).write_bytes(b"damaged later")
    again = get(world, root, downloader).pictures
    assert again is not None
    assert (again.loaded, again.there, again.failed) == (4, 0, ())
    assert check_root(root).ok


def test_none_and_unknown(served: Any, world: Path, downloader: Downloader, tmp_path: Path) -> None:
    assert get(world, tmp_path / "root", downloader, pictures="none").pictures is None
    for settings in ({"splits": ["vall"]}, {"source": "secnd"}):
        with pytest.raises(ConfigError, match="Did you mean"):
            get(world, tmp_path / "other", downloader, **settings)
    with pytest.raises(ConfigError, match=r"Unknown dataset 'tinny'\. Did you mean 'tiny'"):
        read_catalogue([str(world)]).dataset("tinny")


def test_not_enough_disk(world: Path, downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(world.read_text())
    for source in content["datasets"]["tiny"]["sources"]:
        source["about_mb"] = 10**9
    world.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=r"tiny needs about 3000000000 MB, but .* MB free"):
        get(world, tmp_path / "root", downloader)


def test_not_enough_disk_for_the_pictures(
    served: Any, world: Path, downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once the annotations are there, and before a picture is asked for."""
    half = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=2**19))
    monkeypatch.setattr("bsap.datamodules.sources.get.shutil", half)
    with pytest.raises(DataError, match=r"tiny needs about 1 MB, but .* has 0 MB free"):
        get(world, tmp_path / "root", downloader)
    assert not any(path.startswith("/train2014") for path, _ in served.asked)


def test_a_kill_while_unpacking(tmp_path: Path, served: Any, downloader: Downloader) -> None:
    """Some files are there, and the archive too: the same command goes on."""
    served.files["/r.tar.gz"] = tarred({"reclip/a.jsonl": b"{}", "reclip/b.json": b"[]"})
    source = Source(name="bucket", form="reclip", address=f"{served.address}/r.tar.gz")
    dataset = Dataset(name="reclip", about="", licence="", sources=(source,))
    (tmp_path / "reclip").mkdir()
    (tmp_path / "reclip" / "a.jsonl").write_bytes(b"{}")
    archive = tmp_path / ".downloads" / "reclip-r.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(served.files["/r.tar.gz"])
    assert get_dataset(dataset, read_catalogue(), tmp_path, downloader).source == "bucket"
    assert sorted(file.name for file in (tmp_path / "reclip").iterdir()) == ["a.jsonl", "b.json"]
    assert not archive.exists()
    assert get_dataset(dataset, read_catalogue(), tmp_path, downloader).source is None


def test_the_shipped_catalogue() -> None:
    catalogue: Catalogue = read_catalogue()
    assert {"refcoco", "refcoco+", "refcocog", "grefcoco", "refcoco-m", "ref_l4", "reclip"} <= set(catalogue.datasets)
    for dataset in catalogue.datasets.values():
        assert dataset.about
        assert dataset.licence
        for source in dataset.sources:
            assert source.form.startswith(("hub", "ref_l4")) == ("://" not in source.address)
            assert "://" not in source.address or source.address.startswith("https://")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected the keys datasets and files"),
        ("{dataset: {}}", "Unknown key .* Did you mean 'datasets'"),
        ("{datasets: {x: {about: a}}}", "needs a list of `sources`"),
        ("{datasets: {x: {sources: [{name: a}], about: a, licence: b}}}", "missing 2 required keyword-only"),
        ("{datasets: {x: {sources: [{name: a, form: zip, address: b}], about: a, licence: b}}}", "Unknown form"),
        ("{datasets: {x: {sources: [{nme: a}], about: a, licence: b}}}", "Did you mean 'name'"),
        ("{files: {x: {adress: a}}}", "Did you mean 'address'"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_malformed_catalogues(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises((ConfigError, DataError), match=message):
        read_catalogue([str(file)])


def bsap(*arguments: str, address: str = "", home: Path | None = None, **more: str) -> subprocess.Popen[str]:
    environment = os.environ | more | {
        "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
        "HF_HOME": str(home or "/nowhere"),
    }  # fmt: skip
    command = [sys.executable, "-m", "bsap", *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_download_continues(
    served: Any, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = len(served.files["/tiny.zip"])
    served.faults["/tiny.zip"] = [("stall", size // 2)]
    flags = ["data", "get", "tiny", "--root", str(tmp_path / "root"), "--sources", str(world), "--source", "second"]
    process = bsap(*flags)
    assert served.stalled.wait(60)
    part = tmp_path / "root" / ".downloads" / "tiny-tiny.zip.part"
    for _ in range(600):
        if part.exists() and part.stat().st_size == size // 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert part.stat().st_size == size // 2
    assert main(flags) == 0
    out, err = capsys.readouterr()
    assert ("/tiny.zip", f"bytes={size // 2}-") in served.asked
    assert "4 pictures downloaded" in err
    assert "CC0" in err, "licences are shown"
    assert "Complete and sound" in out


def rows() -> list[dict[str, Any]]:
    """The drawn referents as the hub's conversions write them."""
    refs: Any = load_plain_pickle(REFS, "refs")
    return [
        {
            **{key: ref[key] for key in ("ref_id", "ann_id", "image_id", "category_id", "file_name", "sent_ids")},
            "split": "validation", "sentences": ref["sentences"], "bbox": [0.0, 0.0, 1.0, 1.0], "raw_anns": "{}",
        }
        for ref in refs
    ]  # fmt: skip


def test_from_nothing_to_a_number(served: Any, tmp_path: Path) -> None:
    """Referents from the hub, objects from COCO's zip, pictures one by one; then a check and a run."""
    extra = json.loads(INSTANCES)
    extra["images"].append({"id": 5, "file_name": "unused.jpg", "width": 9, "height": 9})
    extra["annotations"].append({"id": 9999, "image_id": 5, "category_id": 1, "bbox": [0, 0, 4, 4], "segmentation": []})
    served.add_hub("someone/tiny", {"data/validation.parquet": parquet(rows()), "README.md": b"text"})
    served.files["/ann.zip"] = zipped({"annotations/instances_train2014.json": json.dumps(extra).encode()})
    served.files |= {f"/train2014/{name}": content for name, content in PICTURES.items()}
    sources = tmp_path / "own.yaml"
    content = {
        "datasets": {
            "tiny": {
                "about": "drawn", "licence": "CC0", "split_by": "unc", "splits": ["val"], "pictures": "pictures",
                "sources": [
                    {"name": "hub", "form": "hub_referents", "address": "someone/tiny", "objects": "objects"}
                ],
            }
        },
        "files": {
            "pictures": {"address": f"{served.address}/train2014/{{name}}", "licence": "CC0"},
            "objects": {"address": f"{served.address}/ann.zip", "member": "annotations/instances_train2014.json"},
        },
    }  # fmt: skip
    sources.write_text(yaml.safe_dump(content))
    root = tmp_path / "root"
    flags = ["data", "get", "tiny", "--root", str(root), "--sources", str(sources), "--splits", "val"]
    process = bsap(*flags, address=served.address, home=tmp_path / "hub")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "Complete and sound" in out
    assert load_plain_pickle((root / "tiny" / "refs(unc).p").read_bytes(), "x") == load_plain_pickle(REFS, "x")
    written, expected = json.loads((root / "tiny" / "instances.json").read_text()), json.loads(INSTANCES)
    assert written["images"] == expected["images"], "the picture that no expression uses is left out"
    assert written["annotations"] == expected["annotations"]
    assert main([
        "test", "--data.root", str(root), "--data.dataset", "tiny", "--data.proposals.source", "ground_truth",
        "--model.encoders", "demo", "--run.root", str(tmp_path / "runs"), "--run.name", "x",
        "--trainer.accelerator", "cpu",
    ]) == 0  # fmt: skip
    results = json.loads((tmp_path / "runs" / "x" / "results.json").read_text())
    assert results["counts"]["seen"] == 24


def test_a_hub_file_without_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [{key: value for key, value in row.items() if key != "sentences"} for row in rows()]
    job = hub_job(monkeypatch, {"validation.parquet": parquet(lacking)}, tmp_path / "root", "hub_referents")
    with pytest.raises(DataError, match="the column 'sentences' is missing; it has"):
        forms.hub_referents(job)


def test_copies_that_mix_partitions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns of lmms-lab's copies, whose val has the referents of two partitions and no id to tell them apart."""
    names = ("question_id", "image", "question", "answer", "segmentation", "bbox", "iscrowd", "file_name")
    files = {"val.parquet": parquet([dict.fromkeys(names, "x")])}
    for form in ("hub_referents", "hub_samples"):
        with pytest.raises(DataError, match="is missing; it has question_id, image, question, answer"):
            forms.FORMS[form](hub_job(monkeypatch, files, tmp_path / "root", form))


def test_no_hub(tmp_path: Path) -> None:
    """The hub's library would try again for half a minute; it is told that there is no network."""
    sources = tmp_path / "own.yaml"
    source = {"name": "hub", "form": "hub_referents", "address": "someone/tiny"}
    entry = {"about": "drawn", "licence": "CC0", "split_by": "unc", "splits": ["val"], "sources": [source]}
    sources.write_text(yaml.safe_dump({"datasets": {"tiny": entry}}))
    flags = ["data", "get", "tiny", "--root", str(tmp_path / "root"), "--sources", str(sources)]
    process = bsap(*flags, home=tmp_path / "other", HF_HUB_OFFLINE="1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Cannot download someone/tiny from the hub" in err
    assert "`bsap docs data`" in err
    assert "Traceback" not in err


def hub_job(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], root: Path, form: str, **more: Any) -> Job:
    """A dataset ``tiny`` on a hub whose files are already here."""
    here = root.parent / "hub"
    for name, content in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    monkeypatch.setattr(forms, "hub_files", lambda repository, suffixes: [
        here / name for name in sorted(files) if name.endswith(tuple(suffixes))
    ])  # fmt: skip
    source = Source(name="hub", form=form, address="someone/tiny", **more)
    dataset = Dataset(name="tiny", about="", licence="", sources=(source,), split_by="unc", splits=("val",))
    return Job(dataset, source, read_catalogue(), root, ("val",), Downloader(), lambda count: None)


def test_sets_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs: Any = load_plain_pickle(REFS, "refs")
    refs[0]["ann_id"], refs[1]["ann_id"] = [-1], [refs[1]["ann_id"]]
    files = {"grefs(unc).json": json.dumps(refs).encode(), "instances.json": INSTANCES}
    root = tmp_path / "root"
    forms.hub_sets(hub_job(monkeypatch, files, root, "hub_sets"))
    assert {file.name: file.read_bytes() for file in (root / "tiny").iterdir()} == files
    (split,) = check_root(root).splits
    assert (split.found, split.without_mask) == ((24, 12), 0)
    job = hub_job(monkeypatch, files, tmp_path / "less", "hub_sets")
    with pytest.raises(DataError, match="someone/tiny: it has 24 expressions, but 25 are published"):
        forms.hub_sets(replace(job, dataset=replace(job.dataset, counts={"expressions": 25})))
    del files["instances.json"]
    with pytest.raises(DataError, match=r"someone/tiny: it does not hold instances\.json"):
        forms.hub_sets(hub_job(monkeypatch, files, tmp_path / "other", "hub_sets"))


def test_the_sum_of_ref_l4s_splits_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(count: int) -> list[dict[str, Any]]:
        return [
            {"id": n, "caption": f"thing {n}", "bbox": [1.0, 1.0, 3.0, 3.0], "bbox_id": n, "ori_category_id": "o365_1",
             "image_id": "7", "height": 9, "width": 9, "file_name": "a/7.jpg"}
            for n in range(count)
        ]  # fmt: skip

    files = {"ref-l4-val.parquet": parquet(rows(2)), "ref-l4-test.parquet": parquet(rows(3))}
    job = hub_job(monkeypatch, files, tmp_path / "root", "ref_l4")
    for count, splits in [(5, ("val", "test")), (6, ("val",)), (6, ("val", "test"))]:
        dataset = replace(job.dataset, splits=("val", "test"), counts={"expressions": count})
        trial = replace(job, dataset=dataset, splits=splits)
        if (count, len(splits)) == (6, 2):
            with pytest.raises(DataError, match="it has 5 expressions, but 6 are published"):
                forms.ref_l4(trial)
        else:
            forms.ref_l4(trial)
    lines = {split: (tmp_path / "root" / "tiny" / f"{split}.jsonl").read_text() for split in ("val", "test")}
    assert [len(json.loads(lines[split])["expressions"]) for split in ("val", "test")] == [2, 3]


def test_reviews_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"reviewed/refcoco_val_reviewed.json": b"{}", "reviewed/refcocog_val_reviewed.json": b"[]"}
    forms.hub_reviews(hub_job(monkeypatch, {**files, "x.json": b"{}"}, tmp_path / "root", "hub_reviews"))
    got = {file.name: file.read_bytes() for file in (tmp_path / "root" / "tiny").iterdir()}
    assert got == {Path(name).name: content for name, content in files.items()}


def test_reading_a_pickle_of_refs_that_was_written_here() -> None:
    assert pickle.loads(REFS) == load_plain_pickle(REFS, "x")
