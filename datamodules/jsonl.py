"""Annotations as JSON lines, in two forms that are recognised by their keys.

ReCLIP's, one line per referent (https://github.com/allenai/reclip); the picture's file is ``file_name`` without its
last ``_field``, or with it where only that file exists, and ``anns`` are all annotated objects of the picture:

    {"file_name": "COCO_train2014_000000580957_4.jpg", "image_id": 580957, "ann_id": 1, "width": 640, "height": 428,
     "anns": [{"id": 1, "bbox": [468.3, 0.91, 171.7, 116.12]}], "sentences": [{"raw": "dish in top right corner"}]}

bsap's own, one line per picture, for any other dataset; ``configs/expressions.schema.json`` describes it:

    {"picture": "kitchen/1.jpg", "width": 640, "height": 428,
     "objects": [{"id": "a", "bbox": [468.3, 0.91, 171.7, 116.12]}],
     "expressions": [{"text": "dish in top right corner", "target": "a"}]}

In both, an id may also be a list of several, or ``[]`` where an expression means nothing in its picture.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from bsap.datamodules.counts import DEFAULT_SPLIT_BY
from bsap.datamodules.fields import Record, shown
from bsap.datamodules.files import json_records, read_bytes, sha256
from bsap.datamodules.picture_names import coco_names
from bsap.datamodules.proposal_readers import region
from bsap.datamodules.records import PictureRecord, RegionRecord, SplitRecords, make_referent
from bsap.datamodules.refer import ann_ids
from bsap.datamodules.scene import Match
from bsap.errors import DataError, unknown

Lines = list[tuple[int, Record]]

_LINE = {"picture", "image_id", "width", "height", "split", "objects", "objects_complete", "expressions", "proposals"}
_OBJECT = {"id", "bbox", "segmentation", "category"}
_EXPRESSION = {"id", "text", "target", "phrase"}
_PROPOSAL = {"bbox", "segmentation", "score"}


def read_jsonl(
    file: Path,
    dataset: str,
    split_by: str | None,
    split: str,
    *,
    text: str = "sent",
    lowercase: bool = False,
    match: Match = "any",
) -> SplitRecords:
    """One split from a JSONL file of either form.

    An expression's key is its own ``id`` where it has one, else ``line.index``, both counted from 1.

    Lines with another ``split`` are left out, lines without one belong to every split. A partition that is not given is
    the one that papers report for the dataset, else ``own``. The other arguments are as in
    :class:`~bsap.datamodules.split_reader.SplitReader`.

    Raises:
        DataError: for a file that is missing or malformed.
        ConfigError: for an unknown split.
    """
    data = read_bytes(file, what="annotations", fix="Set `data.annotations` to a JSONL file that exists.")
    lines = list(json_records(data, str(file)))
    split_by = split_by or DEFAULT_SPLIT_BY.get(dataset, "own")
    records = SplitRecords(dataset, split_by, split, str(file), sha256(data), lowercase)
    if lines and {"anns", "sentences"} <= lines[0][1].values.keys():
        _read_reclip(lines, records, text, match)
    elif lines and {"picture", "expressions"} <= lines[0][1].values.keys():
        _read_own(_of_split(lines, split, file), records, match)
    else:
        raise DataError(
            f"{file}: the first line is neither ReCLIP's form (file_name, image_id, ann_id, anns, sentences) nor "
            "bsap's own (picture, width, height, objects, expressions). `bsap docs data` describes both."
        )
    if not records.expressions:
        raise DataError(f"{file}: no line holds an expression.")
    return records


def _read_reclip(lines: Lines, records: SplitRecords, text: str, match: Match) -> None:
    for _, line in lines:
        _merge(records.pictures, _reclip_picture(line), line)
    for n, line in lines:
        picture = records.pictures[line.identity("image_id")]
        referent = make_referent(line.where, str(n), picture, ann_ids(line["ann_id"], line.where), match)
        for m, item in enumerate(line.items("sentences"), start=1):
            sentence = Record(item, f"{line.where}, sentence {m}")
            wording = text if text in sentence else "raw"
            records.add(f"{n}.{m}", sentence.text(wording), referent, where=sentence.where)


def _reclip_picture(line: Record) -> PictureRecord:
    given = line.text("file_name")
    name = PurePosixPath(given)
    without_field = name.stem.rpartition("_")[0]
    # Other writers leave the field out: COCO's names show that, others only by the files that are there.
    whole = bool(coco_names(given)) or not without_field
    sized = "width" in line or "height" in line
    return PictureRecord(
        where=line.where,
        image_id=line.identity("image_id"),
        file_name=given if whole else str(name.with_name(without_field + name.suffix)),
        other_name=None if whole else given,
        width=line.size("width") if sized else None,
        height=line.size("height") if sized else None,
        objects=_objects(line, "anns"),
    )


def _merge(pictures: dict[str, PictureRecord], new: PictureRecord, line: Record) -> None:
    """Add one line's picture, or its objects to the same picture of an earlier line."""
    old = pictures.setdefault(new.image_id, new)
    if (old.file_name, old.width, old.height) != (new.file_name, new.width, new.height):
        raise DataError(f"{line.where}: the picture {new.image_id} has another file or size in {old.where}.")
    for ann_id, annotated in new.objects.items():
        known = old.objects.setdefault(ann_id, annotated)
        if (known.bbox, known.segmentation) != (annotated.bbox, annotated.segmentation):
            raise DataError(f"{annotated.where}: the annotation {ann_id} has another box or mask in {known.where}.")


def _objects(line: Record, key: str) -> dict[str, RegionRecord]:
    objects: dict[str, RegionRecord] = {}
    for n, item in enumerate(line.items(key), start=1):
        annotation = Record(item, f"{line.where}, {key} {n}")
        ann_id = annotation.identity("id")
        if ann_id in objects:
            raise DataError(f"{annotation.where}: the annotation id {ann_id} occurs twice in this picture.")
        if annotation.get("bbox") is None and not annotation.get("segmentation"):
            raise DataError(f"{annotation.where}: an object needs a 'bbox' [x, y, width, height] or a 'segmentation'.")
        objects[ann_id] = RegionRecord(
            where=annotation.where,
            bbox=annotation.get("bbox"),
            segmentation=annotation.get("segmentation"),
            category=annotation.text("category") if "category" in annotation else None,
        )
    return objects


def _of_split(lines: Lines, split: str, file: Path) -> Lines:
    chosen = [(n, line) for n, line in lines if "split" not in line or line.text("split") == split]
    if not chosen:
        raise unknown(f"split of {file}", split, {line.text("split") for _, line in lines})
    return chosen


def _read_own(lines: Lines, records: SplitRecords, match: Match) -> None:
    proposals: dict[str, list[RegionRecord]] = {}
    for n, line in lines:
        _only(line, _LINE)
        picture = _own_picture(line)
        if picture.image_id in records.pictures:
            raise DataError(f"{line.where}: the picture {picture.image_id} occurs twice. Write one line per picture.")
        records.pictures[picture.image_id] = picture
        if "proposals" in line:
            proposals[picture.image_id] = _proposals(line)
        for m, item in enumerate(line.items("expressions"), start=1):
            expression = Record(item, f"{line.where}, expression {m}")
            _only(expression, _EXPRESSION)
            targets = ann_ids(expression["target"], expression.where)
            referent = make_referent(expression.where, f"{n}.{'+'.join(targets)}", picture, targets, match)
            key = expression.identity("id") if "id" in expression else f"{n}.{m}"
            if "/" in key:
                raise DataError(f"{expression.where}: an expression id must not contain '/', but got {key!r}.")
            phrase = expression.text("phrase") if "phrase" in expression else None
            records.add(key, expression.text("text"), referent, where=expression.where, phrase=phrase)
    records.proposals = proposals or None


def _own_picture(line: Record) -> PictureRecord:
    for n, item in enumerate(line.items("objects"), start=1):
        _only(Record(item, f"{line.where}, objects {n}"), _OBJECT)
    complete = line.get("objects_complete")
    if not isinstance(complete, (bool, type(None))):  # 0 equals False
        raise DataError(f"{line.where}: 'objects_complete' must be true or false, but got {shown(complete)}.")
    return PictureRecord(
        where=line.where,
        image_id=line.identity("image_id" if "image_id" in line else "picture"),
        file_name=line.text("picture"),
        width=line.size("width"),
        height=line.size("height"),
        objects=_objects(line, "objects"),
        complete=complete is not False,
    )


def _proposals(line: Record) -> list[RegionRecord]:
    regions = []
    for n, item in enumerate(line.items("proposals"), start=1):
        where = f"{line.where}, proposal {n}"
        _only(Record(item, where), _PROPOSAL)
        regions.append(region(item, where))
    return regions


def _only(record: Record, known: set[str]) -> None:
    for key in record.values:
        if key not in known:
            raise DataError(f"{record.where}: unknown field {key!r}. Known: {', '.join(sorted(known))}.")
