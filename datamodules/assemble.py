"""From a split's records to the scenes of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bsap.datamodules.boxes import NORMALISED, UNIT, look_normalised, read_xywh, to_xyxy
from bsap.datamodules.counts import published
from bsap.datamodules.fields import shown
from bsap.datamodules.filters import Selection
from bsap.datamodules.masks import PictureMasks, boxes_of_masks, is_empty
from bsap.datamodules.picture_files import PictureFolder, picture_size
from bsap.datamodules.proposals import ProposalSource
from bsap.datamodules.records import ExpressionRecord, PictureRecord, ReferentRecord, RegionRecord, SplitRecords
from bsap.datamodules.scene import RLE, Boxes, Expression, Referent, Scene, SplitSummary
from bsap.errors import DataError


@dataclass(frozen=True, eq=False)
class LoadedSplit:
    """What of a split is evaluated, and what is not.

    Attributes:
        scenes: in annotation order of their first selected expression.
        texts: every text of the unfiltered split, in annotation order.
        summary: the counts.
        pictures: how many pictures are selected, with those that are skipped because they have no proposals.
        absent: those of them that the file of proposals does not list.
    """

    scenes: list[Scene]
    texts: list[str]
    summary: SplitSummary
    pictures: int
    absent: list[str]


def build_split(
    records: SplitRecords,
    selection: Selection,
    source: ProposalSource,
    folder: PictureFolder,
    *,
    masks: bool = True,
    size_tolerance: int = 0,
) -> LoadedSplit:
    """Select expressions and build their scenes.

    Args:
        records: the split.
        selection: the filters.
        source: the proposals.
        folder: where the pictures are.
        masks: whether referents keep their masks.
        size_tolerance: how many pixels the pictures' width and height may differ from the annotated ones.

    Raises:
        ConfigError: for a filter that does not fit the split.
        DataError: for a picture that is missing, or an invalid box or mask of a selected picture.
    """
    chosen = selection.apply(records.expressions)
    by_picture: dict[str, list[ExpressionRecord]] = {}
    for record in chosen:
        by_picture.setdefault(record.referent.image_id, []).append(record)
    texts: dict[str, list[str]] = {image_id: [] for image_id in by_picture}
    for record in records.expressions:
        if record.referent.image_id in texts:
            texts[record.referent.image_id].append(record.text)
    pictures = [records.pictures[image_id] for image_id in by_picture]
    paths = folder.find([picture.file_names for picture in pictures], dataset=records.dataset)
    absent = source.absent(list(by_picture), {record.referent.image_id for record in records.expressions})

    scenes: list[Scene] = []
    without = missing = 0
    for picture, path in zip(pictures, paths, strict=True):
        image_id, expressions = picture.image_id, by_picture[picture.image_id]
        width, height = picture.size or picture_size(path)
        encoded = PictureMasks(width, height)
        proposals = source.of(picture, encoded)
        if not len(proposals):
            without += 1
            if source.config.empty == "skip":
                continue
            if source.config.empty == "whole_image":
                proposals = source.whole(width, height)
            else:
                missing += len(expressions)
        referents = {e.referent.id: e.referent for e in expressions}
        made = {id: _referent(r, picture, encoded, masks=masks) for id, r in referents.items()}
        scenes.append(
            Scene(
                image_id=image_id,
                path=path,
                width=width,
                height=height,
                proposals=proposals,
                expressions=tuple(
                    Expression(e.id, e.order, e.text, made[e.referent.id], e.phrase) for e in expressions
                ),
                texts=tuple(texts[image_id]),
                size_tolerance=size_tolerance,
            )
        )
    if not scenes:
        raise DataError(f"{source.file}: all {len(by_picture)} selected pictures are without proposals and skipped.")

    skipped = len(chosen) - sum(len(scene.expressions) for scene in scenes)
    summary = SplitSummary(
        dataset=records.dataset,
        split_by=records.split_by,
        split=records.split,
        total=len(records.expressions),
        selected=len(chosen) - skipped,
        skipped=len(records.expressions) - len(chosen) + skipped,
        published=_published(records),
        missing=missing,
        scenes=len(scenes),
        regions=sum(len(scene.proposals) for scene in scenes),
        selection=selection.given(),
        proposals=source.describe(absent=len(absent), without=without),
        pictures={"size_tolerance": size_tolerance} if size_tolerance else {},
    )
    return LoadedSplit(
        scenes=scenes,
        texts=[e.text for e in records.expressions],
        summary=summary,
        pictures=len(by_picture),
        absent=absent,
    )


def _published(records: SplitRecords) -> int | None:
    counts = published(records.dataset, records.split_by, records.split)
    return counts.expressions if counts else None


def _referent(record: ReferentRecord, picture: PictureRecord, encoded: PictureMasks, *, masks: bool) -> Referent:
    objects = [picture.objects[ann_id] for ann_id in record.ann_ids]
    needed = [o for o in objects if masks or o.bbox is None]
    found = dict(zip(needed, encoded.of(needed), strict=True))
    given = tuple(found.get(o) for o in objects)
    # nothing can be measured against a mask without a pixel
    usable = tuple(mask if mask is not None and not is_empty(mask) else None for mask in given)
    return Referent(
        id=record.id,
        ann_ids=record.ann_ids,
        boxes=_boxes(objects, given, encoded.width, encoded.height),
        masks=usable,
        category=record.category,
        distractors=record.distractors,
        match=record.match,
    )


def _boxes(objects: Sequence[RegionRecord], masks: Sequence[RLE | None], width: int, height: int) -> Boxes:
    rows: list[object] = []
    for annotated, mask in zip(objects, masks, strict=True):
        if annotated.bbox is not None:
            rows.append(annotated.bbox)
        elif mask is not None and is_empty(mask):
            raise DataError(f"{annotated.where}: the mask has no pixel, and there is no box. Give the object a 'bbox'.")
        elif mask is not None:
            rows.append(boxes_of_masks([mask])[0].tolist())
        else:
            raise DataError(f"{annotated.where}: an object needs a box or a mask, but has {shown(annotated.bbox)}.")
    where = [annotated.where for annotated in objects]
    if look_normalised(rows) and min(width, height) > 2 * UNIT:
        raise DataError(f"{where[0]}: the box is {shown(rows[0])}. {NORMALISED}")
    return to_xyxy(read_xywh(rows, where), width, height, where)
