"""Is a folder in the REFER layout complete and sound? Reports every fault instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bsap.datamodules.boxes import read_xywh, to_xyxy
from bsap.datamodules.counts import PUBLISHED, Counts, published
from bsap.datamodules.files import expanded
from bsap.datamodules.masks import PictureMasks, is_empty
from bsap.datamodules.picture_files import PictureFolder, size_differences
from bsap.datamodules.records import PictureRecord, RegionRecord, SplitRecords
from bsap.datamodules.refer import (
    WHERE_TO_GET,
    Instances,
    add_refs,
    match_of,
    read_instances,
    read_refs,
    refs_files,
    splits_of,
)
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
        other_sizes: for each picture that cannot be read or is not of the annotated size, what is wrong.
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
    other_sizes: tuple[str, ...] = ()
    without_mask: int = 0
    bad_boxes: tuple[str, ...] = ()
    bad_masks: tuple[str, ...] = ()

    @property
    def faults(self) -> bool:
        """Whether anything is missing or invalid; a referent without a mask is not a fault."""
        return bool(self.missing_pictures or self.other_sizes or self.bad_boxes or self.bad_masks)

    @property
    def ok(self) -> bool:
        """Whether the split is complete and sound, and has the published size where one is known."""
        return self.known in (None, self.found) and not self.faults


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
    root: str | Path,
    *,
    images: str | None = None,
    size_tolerance: int = 0,
    dataset: str | None = None,
    splits: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> RootReport:
    """Read all annotations under a root and compare them with what is published and with the pictures.

    Args:
        root: the folder that holds the datasets and ``images``.
        images: the folder of pictures where it is not in one of the usual places.
        size_tolerance: how many pixels the pictures' width and height may differ from the annotated ones.
        dataset: the only dataset to check; None checks all.
        splits: the only splits to check; empty checks all, also those that are published but not there.
        progress: called with the name of each part before it is read.
    """
    root = expanded(root)
    folder = PictureFolder(root, images)
    reports: list[SplitReport] = []
    errors: list[str] = []
    files = {key: file for key, file in refs_files(root).items() if dataset in (None, key[0])}
    if not files:
        errors.append(
            f"No annotations in the REFER layout ({{dataset}}/refs({{split_by}}).p) under {root}. {WHERE_TO_GET}"
        )
    read: dict[Path, Instances] = {}
    for (folder_name, split_by), file in files.items():
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
        known = [split for d, s, split in PUBLISHED if (d, s) == (folder_name, split_by)]
        for split in dict.fromkeys([*names, *known]):
            if splits and split not in splits:
                continue
            chosen = [ref for ref in refs if ref["split"] == split]
            instances = read[instances_file]
            records = SplitRecords(folder_name, split_by, split, instances.file, instances.sha256)
            try:
                add_refs(records, chosen, instances, match=match_of(file))
                reports.append(_check_split(records, folder, size_tolerance))
            except DataError as error:
                errors.append(str(error))
    return RootReport(root=str(root), splits=tuple(reports), errors=tuple(errors))


def _check_split(records: SplitRecords, folder: PictureFolder, size_tolerance: int) -> SplitReport:
    pictures = list(records.pictures.values())
    located = list(zip(pictures, folder.locate([picture.file_name for picture in pictures]), strict=True))
    sized = [(path, picture.size) for picture, path in located if path is not None and picture.size is not None]
    differences = size_differences([path for path, _ in sized], [size for _, size in sized], size_tolerance)
    bad_boxes: list[str] = []
    bad_masks: list[str] = []
    lacking: set[RegionRecord] = set()
    for picture in pictures:
        objects = list(picture.objects.values())
        bad_boxes += _faulty(objects, partial(_read_boxes, picture))
        bad_masks += _faulty(objects, partial(_read_masks, picture, lacking))
    objects_of = [
        [records.pictures[r.image_id].objects[ann_id] for ann_id in r.ann_ids] for r in records.meant.values()
    ]
    return SplitReport(
        dataset=records.dataset,
        split_by=records.split_by,
        split=records.split,
        found=Counts(len(records.expressions), records.referents),
        known=published(records.dataset, records.split_by, records.split),
        pictures=len(pictures),
        missing_pictures=tuple(picture.file_name for picture, path in located if path is None),
        other_sizes=tuple(difference.message for difference in differences if not difference.tolerated),
        without_mask=sum(not lacking.isdisjoint(objects) for objects in objects_of),
        bad_boxes=tuple(bad_boxes),
        bad_masks=tuple(bad_masks),
    )


def _faulty(objects: list[RegionRecord], read: Callable[[list[RegionRecord]], object]) -> list[str]:
    """The places of the objects that cannot be read: all at once where they are sound, else one by one."""
    try:
        read(objects)
    except DataError:
        if len(objects) == 1:
            return [objects[0].where]
        return [place for annotated in objects for place in _faulty([annotated], read)]
    return []


def _read_boxes(picture: PictureRecord, objects: list[RegionRecord]) -> None:
    where = [annotated.where for annotated in objects]
    to_xyxy(read_xywh([o.bbox for o in objects], where), picture.width or 0, picture.height or 0, where)


def _read_masks(picture: PictureRecord, lacking: set[RegionRecord], objects: list[RegionRecord]) -> None:
    """Read the masks and add the objects to ``lacking`` that have none, or one without a pixel."""
    masks = PictureMasks(picture.width or 0, picture.height or 0).of(objects)
    lacking.update(o for o, mask in zip(objects, masks, strict=True) if mask is None or is_empty(mask))
