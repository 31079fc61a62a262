"""The REFER layout, in which RefCOCO, RefCOCO+ and RefCOCOg are published.

    root/{dataset}/refs({split_by}).p     a pickled list of referents with their sentences
    root/{dataset}/instances.json         the pictures and every annotated object, in COCO form
    root/images/train2014/                the pictures

gRefCOCO has ``grefs({split_by}).p`` or ``.json`` instead, in which a referent is a set: ``ann_id`` is a list. ``-1``,
``[-1]`` or an empty list means nothing in the picture (https://github.com/henghuiding/gRefCOCO).

See Kazemzadeh et al., "ReferItGame", EMNLP 2014; Yu et al., "Modeling Context in Referring Expressions", ECCV 2016;
Mao et al., "Generation and Comprehension of Unambiguous Object Descriptions", CVPR 2016; Liu et al., "GRES: Generalized
Referring Expression Segmentation", CVPR 2023; https://github.com/lichengunc/refer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsap.datamodules.counts import DEFAULT_SPLIT_BY
from bsap.datamodules.fields import Record, identity, shown
from bsap.datamodules.files import parse_json, read_bytes, sha256
from bsap.datamodules.masks import pack_polygons
from bsap.datamodules.records import PictureRecord, RegionRecord, SplitRecords, make_referent
from bsap.datamodules.scene import Match
from bsap.datamodules.unpickle import load_plain_pickle
from bsap.errors import DataError, unknown

WHERE_TO_GET = "`bsap docs data` says where to get the annotations and how the folder must look."


def read_refer(
    root: Path,
    dataset: str,
    split_by: str | None,
    split: str,
    *,
    text: str = "sent",
    lowercase: bool = False,
    match: Match | None = None,
) -> SplitRecords:
    """One split of a dataset in the REFER layout; arguments as in :class:`~bsap.datamodules.split_reader.SplitReader`.

    Raises:
        DataError: for files that are missing or malformed.
        ConfigError: for an unknown dataset, partition or split.
    """
    split_by = find_split_by(root, dataset, split_by)
    refs_file = refs_files(root)[dataset, split_by]
    refs = select_split(read_refs(refs_file), split, refs_file)
    instances = read_instances(root / dataset / "instances.json", {ref.identity("image_id") for ref in refs})
    records = SplitRecords(dataset, split_by, split, instances.file, instances.sha256, lowercase)
    add_refs(records, refs, instances, text=text, match=match or match_of(refs_file))
    return records


def add_refs(
    records: SplitRecords, refs: Iterable[Record], instances: Instances, *, text: str = "sent", match: Match
) -> None:
    """Add one split's referents with their sentences, and the pictures they are in."""
    for ref in refs:
        image_id = ref.identity("image_id")
        picture = instances.pictures.get(image_id)
        if picture is None:
            raise DataError(
                f"{ref.where}: the picture {image_id} is not in {instances.file}. "
                "The two files may belong to different datasets."
            )
        records.pictures[image_id] = picture
        meant = ann_ids(ref["ann_id"], ref.where)
        referent = make_referent(ref.where, ref.identity("ref_id"), picture, meant, match)
        for n, item in enumerate(ref.items("sentences"), start=1):
            sentence = Record(item, f"{ref.where}, sentence {n}")
            records.add(sentence.identity("sent_id"), sentence.text(text), referent, where=sentence.where)


def refs_files(root: Path) -> dict[tuple[str, str], Path]:
    """The files of referents by dataset and partition; RefCOCO's form comes before gRefCOCO's, and .p before .json."""
    found: dict[tuple[str, str], Path] = {}
    for pattern in ("refs(*).p", "grefs(*).p", "grefs(*).json"):
        for file in root.glob(f"*/{pattern}"):
            found.setdefault((file.parent.name, file.name.partition("(")[2].rpartition(")")[0]), file)
    return dict(sorted(found.items()))


def match_of(file: Path) -> Match:
    """Whether any of the annotations that a file of referents names for one counts, or all are meant."""
    return "all" if file.name.startswith("grefs") else "any"


def find_split_by(root: Path, dataset: str, split_by: str | None) -> str:
    """The partition to read, checked against the files that are there."""
    files = refs_files(root)
    datasets = {name for name, _ in files}
    if not datasets:
        raise DataError(
            f"No annotations in the REFER layout ({{dataset}}/refs({{split_by}}).p) under {root}. {WHERE_TO_GET}"
        )
    if dataset not in datasets:
        raise unknown(f"dataset under {root}", dataset, datasets)
    known = {partition for name, partition in files if name == dataset}
    if split_by is None:
        usual = DEFAULT_SPLIT_BY.get(dataset)
        split_by = usual if usual is not None else min(known) if len(known) == 1 else None
    if split_by not in known:
        raise unknown(f"split_by of {dataset} under {root}", split_by, known)
    return split_by


def read_refs(file: Path) -> list[Record]:
    """All referents of a file ``refs(*).p``, ``grefs(*).p`` or ``grefs(*).json``."""
    data = read_bytes(file, what="referents", fix=WHERE_TO_GET)
    refs = parse_json(data, str(file)) if ".json" in file.suffixes else load_plain_pickle(data, str(file))
    if not isinstance(refs, list):
        raise DataError(f"{file}: expected a list of referents, but got {shown(refs)}.")
    return [Record(ref, f"{file}, record {n}") for n, ref in enumerate(refs, start=1)]


def select_split(refs: list[Record], split: str, file: Path) -> list[Record]:
    """The referents of one split, in the file's order."""
    if not refs:
        raise DataError(f"{file}: the list of referents is empty. {WHERE_TO_GET}")
    chosen = [ref for ref in refs if ref.text("split") == split]
    if not chosen:
        raise unknown(f"split of {file}", split, splits_of(refs))
    return chosen


def splits_of(refs: Iterable[Record]) -> list[str]:
    """The names of all splits, in the file's order."""
    return list(dict.fromkeys(ref.text("split") for ref in refs))


def ann_ids(value: object, where: str) -> tuple[str, ...]:
    """One annotation id, or a list of several."""
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(identity(v, f"{where}, 'ann_id'") for v in values))


@dataclass(frozen=True, eq=False)
class Instances:
    """The pictures of an ``instances.json``, by id, with all their objects, crowds included, in the file's order."""

    file: str
    sha256: str
    pictures: dict[str, PictureRecord]


def read_instances(file: Path, wanted: set[str] | None = None) -> Instances:
    """Read the pictures of a COCO annotation file, or only those whose ids are wanted."""
    data = read_bytes(file, what="COCO annotations", fix=WHERE_TO_GET)
    name, digest = str(file), sha256(data)
    content = Record(parse_json(data, name, hook=_pack), name)
    del data  # as large as what was read from it
    names = _category_names(content)
    pictures: dict[str, PictureRecord] = {}
    for n, item in enumerate(content.items("images"), start=1):
        image = Record(item, f"{name}, image {n}")
        image_id = image.identity("id")
        if wanted is not None and image_id not in wanted:
            continue
        if image_id in pictures:
            raise DataError(f"{image.where}: the image id {image_id} occurs twice.")
        pictures[image_id] = PictureRecord(
            where=f"{name}, image {image_id}",
            image_id=image_id,
            file_name=image.text("file_name"),
            width=image.size("width"),
            height=image.size("height"),
            objects={},
        )
    for n, item in enumerate(content.items("annotations"), start=1):
        annotation = Record(item, f"{name}, annotation {n}")
        picture = pictures.get(annotation.identity("image_id"))
        if picture is not None:
            _add_object(picture, annotation, names, name)
    return Instances(file=name, sha256=digest, pictures=pictures)


def _pack(values: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in values:
        values["segmentation"] = pack_polygons(values["segmentation"])
    return values


def _add_object(picture: PictureRecord, annotation: Record, names: dict[str, str] | None, name: str) -> None:
    ann_id = annotation.identity("id")
    if ann_id in picture.objects:
        raise DataError(f"{annotation.where}: the annotation id {ann_id} occurs twice in picture {picture.image_id}.")
    category = None
    if names is not None:
        category_id = annotation.identity("category_id")
        if category_id not in names:
            raise DataError(f"{annotation.where}: the category {category_id} is not among the file's categories.")
        category = names[category_id]
    picture.objects[ann_id] = RegionRecord(
        where=f"{name}, annotation {ann_id}",
        bbox=annotation["bbox"],
        segmentation=annotation.get("segmentation"),
        category=category,
    )


def _category_names(content: Record) -> dict[str, str] | None:
    if "categories" not in content:
        return None
    names: dict[str, str] = {}
    items: list[Any] = content.items("categories")
    for n, item in enumerate(items, start=1):
        category = Record(item, f"{content.where}, category {n}")
        key, text = category.identity("id"), category.text("name")
        if names.setdefault(key, text) != text:
            raise DataError(f"{category.where}: the category id {key} is {shown(names[key])} already.")
    return names
