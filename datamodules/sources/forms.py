"""From a source to files below the root: one function for each form that a source can have."""

from __future__ import annotations

import json
import pickle
import shutil
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsap.datamodules.counts import Counts, published
from bsap.datamodules.fields import Record
from bsap.datamodules.files import parse_json, paused_gc
from bsap.datamodules.masks import pack_polygons
from bsap.datamodules.picture_files import picture_size
from bsap.datamodules.refer import read_refs, splits_of
from bsap.datamodules.sources.archives import each_member, unpack
from bsap.datamodules.sources.catalogue import Catalogue, Dataset, Source
from bsap.datamodules.sources.convert import (
    CAPTION_COLUMNS,
    REFERENT_COLUMNS,
    SAMPLE_COLUMNS,
    box_form,
    instances_of,
    line_of_samples,
    lines_of_captions,
    referent,
)
from bsap.datamodules.sources.download import Downloader
from bsap.datamodules.sources.hub import hub_files, parquet_rows
from bsap.errors import DataError

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Job:
    """One dataset from one source; ``progress`` is called with the number of bytes that arrive."""

    dataset: Dataset
    source: Source
    catalogue: Catalogue
    root: Path
    splits: tuple[str, ...]
    downloader: Downloader
    progress: Callable[[int], object]

    @property
    def folder(self) -> Path:
        """Where the dataset's files go."""
        return self.root / self.dataset.name

    def archive(self, address: str, sha256: str | None) -> Path:
        """Download an archive; it is kept below the root until the job is done."""
        name = f"{self.dataset.name}-{address.rstrip('/').rpartition('/')[2]}"
        return self.downloader.fetch(address, self.root / ".downloads" / name, sha256=sha256, progress=self.progress)


def refer_zip(job: Job) -> None:
    """The authors' zip file: ``refs(*).p`` and ``instances.json`` are taken from it."""
    archive = job.archive(job.source.address, job.source.sha256)
    refs = f"refs({job.dataset.split_by}).p"
    wanted = (refs, "instances.json")
    try:
        each_member(
            archive, lambda name: name.name in wanted, lambda name, s: unpack(s, job.folder / f"{name.name}.new")
        )
        if lost := {name for name in wanted if not (job.folder / f"{name}.new").exists()}:
            raise DataError(f"{archive}: it does not hold {' and '.join(sorted(lost))}.")
    except DataError:
        archive.unlink()
        raise
    _finish(job, refs)
    archive.unlink()


def hub_referents(job: Job) -> None:
    """A conversion on the hub with one row for each referent; the objects come from COCO's own annotation file."""
    test = "testA" if "testA" in job.dataset.splits else "test"
    refs = []
    for file in hub_files(job.source.address, (".parquet",)):
        for n, row in enumerate(parquet_rows(file, REFERENT_COLUMNS), start=1):
            refs.append(referent(row, f"{file.name}, row {n}", test=test))
    if job.source.objects is None:
        raise DataError(f"{job.source.address}: the catalogue does not say where its objects come from (`objects`).")
    shared = job.catalogue.files[job.source.objects]
    archive = job.root / ".downloads" / shared.address.rpartition("/")[2]
    job.downloader.fetch(shared.address, archive, sha256=shared.sha256, progress=job.progress)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / f"refs({job.dataset.split_by}).p.new").write_bytes(pickle.dumps(refs, protocol=2))
    found: list[bytes] = []
    if not each_member(archive, lambda name: name.as_posix() == shared.member, lambda _, s: found.append(s.read())):
        raise DataError(f"{archive}: it does not hold {shared.member}.")
    with paused_gc():
        content = Record(parse_json(found.pop(), f"{archive.name}, {shared.member}", hook=_packed), archive.name)
        instances = instances_of(content, {ref["image_id"] for ref in refs})
    (job.folder / "instances.json.new").write_text(json.dumps(instances, default=array.tolist), encoding="utf-8")
    _finish(job, f"refs({job.dataset.split_by}).p")


def hub_sets(job: Job) -> None:
    """GRefCOCO's two files, as its authors put them on the hub."""
    refs = f"grefs({job.dataset.split_by}).json"
    files = {file.name: file for file in hub_files(job.source.address, (refs, "instances.json"))}
    job.folder.mkdir(parents=True, exist_ok=True)
    for name in (refs, "instances.json"):
        if name not in files:
            raise DataError(f"{job.source.address}: it does not hold {name}.")
        shutil.copyfile(files[name], job.folder / f"{name}.new")
    _finish(job, refs)


def hub_reviews(job: Job) -> None:
    """Ref-L4's reviews of RefCOCO, RefCOCO+ and RefCOCOg, a file for each split."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for file in hub_files(job.source.address, ("_reviewed.json",)):
        shutil.copyfile(file, job.folder / file.name)


def _packed(values: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in values:
        values["segmentation"] = pack_polygons(values["segmentation"])
    return values


def _finish(job: Job, refs: str) -> None:
    """Compare the counts of all splits with the published ones, then put the new files in place."""
    new = job.folder / f"{refs}.new"
    try:
        records = read_refs(new)
        every = sum(len(ref.items("sentences")) for ref in records)
        if (total := job.dataset.counts.get("expressions", every)) != every:
            raise DataError(f"{job.source.address}: it has {every} expressions, but {total} are published.")
        for split in splits_of(records):
            chosen = [ref for ref in records if ref["split"] == split]
            found = Counts(sum(len(ref.items("sentences")) for ref in chosen), len(chosen))
            known = published(job.dataset.name, job.dataset.split_by or "", split)
            if known not in (None, found):
                raise DataError(f"{job.source.address}: its split {split} has {found}, the published one has {known}.")
        if lost := set(job.splits) - set(splits_of(records)):
            raise DataError(f"{job.source.address}: the split {sorted(lost)[0]} is not in it.")
    except DataError:
        new.unlink()
        raise
    for name in ("instances.json", refs):  # the second file marks the dataset as complete
        (job.folder / f"{name}.new").replace(job.folder / name)


def hub_samples(job: Job) -> None:
    """RefCOCO-M: a row for each picture, with the picture and all masks inside."""
    images = job.folder / "images"
    rows: list[tuple[dict[str, Any], tuple[int, int]]] = []
    for file in hub_files(job.source.address, (".parquet",)):
        for row in parquet_rows(file, SAMPLE_COLUMNS):
            record = Record(row, f"{file.name}, picture {len(rows) + 1}")
            target = images / Path(record.text("file_name")).name
            content = Record(record["image"], f"{record.where}, 'image'")["bytes"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            row["file_name"] = target.name
            rows.append(({**row, "image": None}, picture_size(target)))
    form = box_form(rows, job.source.address)
    lines = [
        line_of_samples(row, size, f"{job.source.address}, picture {n}", form=form)
        for n, (row, size) in enumerate(rows, start=1)
    ]
    _check_counts(job, lines)
    _write_lines(job, job.dataset.splits[0], lines)


def ref_l4(job: Job) -> None:
    """Ref-L4: a parquet file for each split and a tar file of pictures."""
    files = hub_files(job.source.address, (".parquet", "images.tar.gz"))
    images = job.folder / "images"
    found = {}
    for split in job.splits:
        file = next((file for file in files if file.name == f"ref-l4-{split}.parquet"), None)
        if file is None:
            raise DataError(f"{job.source.address}: the split {split} is not in it.")
        found[split] = lines_of_captions(list(parquet_rows(file, CAPTION_COLUMNS)), file.name)
    if len(found) == len(job.dataset.splits):
        _check_counts(job, [line for lines in found.values() for line in lines])
    for archive in (file for file in files if file.suffix == ".gz"):
        each_member(
            archive,
            lambda name: name.suffix.lower() in _PICTURES and not (images / name).exists(),
            lambda name, stream: unpack(stream, images / name),
        )
    for split, lines in found.items():  # these files mark the split as complete
        _write_lines(job, split, lines)


def reclip(job: Job) -> None:
    """ReCLIP's JSONL files and detections."""
    archive = job.archive(job.source.address, job.source.sha256)
    found = each_member(
        archive,
        lambda name: name.suffix in (".jsonl", ".json"),
        lambda name, stream: unpack(stream, job.folder / name.name),
    )
    archive.unlink()
    if not found:
        raise DataError(f"{job.source.address}: it holds no JSON file.")


def _check_counts(job: Job, lines: Sequence[dict[str, Any]]) -> None:
    """Compare all lines of a dataset with its published counts."""
    found = {
        "pictures": len(lines),
        "referents": sum(len(line["objects"]) for line in lines),
        "expressions": sum(len(line["expressions"]) for line in lines),
    }
    for name, count in job.dataset.counts.items():
        if found[name] != count:
            raise DataError(f"{job.source.address}: it has {found[name]} {name}, but {count} are published.")


def _write_lines(job: Job, split: str, lines: Sequence[dict[str, Any]]) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    part = job.folder / f"{split}.jsonl.part"
    part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    part.replace(job.folder / f"{split}.jsonl")


FORMS: dict[str, Callable[[Job], None]] = {
    "refer_zip": refer_zip,
    "hub_referents": hub_referents,
    "hub_sets": hub_sets,
    "hub_reviews": hub_reviews,
    "hub_samples": hub_samples,
    "ref_l4": ref_l4,
    "reclip": reclip,
}
"""What to do with a source of each form."""
