"""Is a folder in the REFER layout complete and sound? Looks at everything and stops at nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bsap.datamodules.boxes import read_xywh, to_xyxy
from bsap.datamodules.counts import PUBLISHED, Counts, published
from bsap.datamodules.fields import Record
from bsap.datamodules.masks import encode_mask, encode_masks, is_empty
from bsap.datamodules.picture_files import PictureFolder
from bsap.datamodules.records import ExpressionList, PictureRecord, RegionRecord, SplitRecords
from bsap.datamodules.refer import WHERE_TO_GET, Instances, make_split, read_instances, read_refs, splits_of
from bsap.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What was found of one split.

    Attributes:
        dataset: for example ``refcoco``.
        split_by: for example ``unc``.
        split: for example ``testA``.
        found: expressions and referents that were read.
        known: the published numbers, None for a split that has none.
        pictures: pictures that the split needs.
        missing_pictures: files of those that are not there.
        without_mask: referents that lack a mask or whose mask has no pixel; they matter for segmentation only.
        bad_boxes: annotated objects, by file and record, whose box is invalid or reaches beyond its picture.
        bad_masks: annotated objects, by file and record, whose mask is invalid.
    """

    dataset: str
    split_by: str
    split: str
    found: Counts
    known: Counts | None
    pictures: int = 0
    missing_pictures: tuple[str, ...] = ()
    without_mask: int = 0
    bad_boxes: tuple[str, ...] = ()
    bad_masks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the split is complete and sound; a referent without a mask is not a fault."""
        return self.known in (None, self.found) and not (self.missing_pictures or self.bad_boxes or self.bad_masks)


@dataclass(frozen=True)
class RootReport:
    """What was found under a root.

    Attributes:
        root: the folder.
        splits: one report per split: those found, and the published ones of the same files that are not there.
        errors: what could not be read at all.
    """

    root: str
    splits: tuple[SplitReport, ...]
    errors: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all that was found is complete and sound, and anything was found."""
        return bool(self.splits) and not self.errors and all(split.ok for split in self.splits)


def check_root(
    root: str | Path, *, images: str | None = None, progress: Callable[[str], None] | None = None
) -> RootReport:
    """Read all annotations under a root and compare them with what is published and with the pictures.

    Args:
        root: the folder that holds the datasets and ``images``.
        images: the folder of pictures where it is not in one of the usual places.
        progress: called with the name of each part before it is read.
    """
    root = Path(root)
    folder = PictureFolder(root, images)
    reports: list[SplitReport] = []
    errors: list[str] = []
    files = sorted(root.glob("*/refs(*).p"))
    if not files:
        errors.append(
            f"No annotations in the REFER layout ({{dataset}}/refs({{split_by}}).p) under {root}. {WHERE_TO_GET}"
        )
    read: dict[Path, Instances] = {}
    for file in files:
        if progress is not None:
            progress(str(file.relative_to(root)))
        instances_file = file.with_name("instances.json")
        try:
            if instances_file not in read:
                read = {instances_file: read_instances(instances_file)}  # only one is in memory at a time
            refs = read_refs(file)
            names = splits_of(refs)
        except DataError as error:
            errors.append(str(error))
            continue
        dataset, split_by = file.parent.name, file.name[len("refs(") : -len(").p")]
        for split in [*names, *_absent_splits(dataset, split_by, names)]:
            chosen = [ref for ref in refs if ref["split"] == split]
            try:
                reports.append(_check_split(dataset, split_by, split, chosen, read[instances_file], folder))
            except DataError as error:
                errors.append(str(error))
    return RootReport(root=str(root), splits=tuple(reports), errors=tuple(errors))


def _absent_splits(dataset: str, split_by: str, names: Iterable[str]) -> list[str]:
    return [split for d, s, split in PUBLISHED if (d, s) == (dataset, split_by) and split not in names]


def _check_split(
    dataset: str, split_by: str, split: str, refs: list[Record], instances: Instances, folder: PictureFolder
) -> SplitReport:
    expressions = ExpressionList(dataset, split_by, split, lowercase=False)
    records = make_split(refs, instances, expressions, text="sent")
    names = [picture.file_name for picture in records.pictures.values()]
    without_mask, bad_masks = _check_masks(records)
    return SplitReport(
        dataset=dataset,
        split_by=split_by,
        split=split,
        found=Counts(len(records.expressions), records.referents),
        known=published(dataset, split_by, split),
        pictures=len(names),
        missing_pictures=tuple(name for name, file in zip(names, folder.locate(names), strict=True) if file is None),
        without_mask=without_mask,
        bad_boxes=tuple(where for picture in records.pictures.values() for where in _bad_boxes(picture)),
        bad_masks=tuple(bad_masks),
    )


def _bad_boxes(picture: PictureRecord) -> Iterator[str]:
    """The places of invalid boxes: all at once where they are sound, one by one where they are not."""
    objects = list(picture.objects.values())
    if not _boxes_are_sound(objects, picture):
        yield from (annotated.where for annotated in objects if not _boxes_are_sound([annotated], picture))


def _boxes_are_sound(objects: list[RegionRecord], picture: PictureRecord) -> bool:
    where = [annotated.where for annotated in objects]
    try:
        to_xyxy(read_xywh([o.bbox for o in objects], where), picture.width or 0, picture.height or 0, where)
    except DataError:
        return False
    return True


def _check_masks(records: SplitRecords) -> tuple[int, list[str]]:
    """How many referents lack a mask, and where masks are invalid: of all objects, since each is a region to choose."""
    bad: list[str] = []
    lacking: set[tuple[str, str]] = set()
    for picture in records.pictures.values():
        without, invalid = _masks_amiss(picture)
        lacking |= {(picture.image_id, ann_id) for ann_id in without}
        bad += invalid
    referents = {(e.referent.image_id, e.referent.id): e.referent for e in records.expressions}.values()
    return sum(any((r.image_id, ann_id) in lacking for ann_id in r.ann_ids) for r in referents), bad


def _masks_amiss(picture: PictureRecord) -> tuple[list[str], list[str]]:
    """The ids of objects whose mask is missing or has no pixel, and the places of invalid masks."""
    objects, where = list(picture.objects.values()), [annotated.where for annotated in picture.objects.values()]
    width, height = picture.width or 0, picture.height or 0
    bad: list[str] = []
    try:  # all at once where they are sound, one by one where they are not
        masks = dict(zip(objects, encode_masks([o.segmentation for o in objects], width, height, where), strict=True))
    except DataError:
        masks = {}
        for annotated in objects:
            try:
                masks[annotated] = encode_mask(annotated.segmentation, width, height, annotated.where)
            except DataError:
                bad.append(annotated.where)
    without = [
        ann_id
        for ann_id, annotated in picture.objects.items()
        if annotated in masks and ((mask := masks[annotated]) is None or is_empty(mask))
    ]
    return without, bad
