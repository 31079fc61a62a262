"""From a split's records to the scenes of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bsap.datamodules.counts import published
from bsap.datamodules.filters import Selection
from bsap.datamodules.masks import PictureMasks, given_boxes, in_picture, is_empty
from bsap.datamodules.picture_files import PictureFolder, picture_size
from bsap.datamodules.proposals import ProposalSource
from bsap.datamodules.records import ExpressionRecord, PictureRecord, ReferentRecord, SplitRecords
from bsap.datamodules.scene import Expression, Referent, Scene, SplitSummary
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
    """Select expressions and build their scenes, in which referents keep their masks if ``masks``.

    Raises:
        ConfigError: for a filter that does not fit the split.
        DataError: for a picture that is missing, or an invalid box or mask of a selected picture.
    """
    by_picture: dict[str, list[ExpressionRecord]] = {}
    for record in selection.apply(records.expressions):
        by_picture.setdefault(record.referent.image_id, []).append(record)
    texts: dict[str, list[str]] = {image_id: [] for image_id in by_picture}
    for record in records.expressions:
        if record.referent.image_id in texts:
            texts[record.referent.image_id].append(record.text)
    pictures = [records.pictures[image_id] for image_id in by_picture]
    paths = folder.find([picture.file_names for picture in pictures], dataset=records.dataset)
    absent = source.absent(list(by_picture), {record.referent.image_id for record in records.expressions})

    scenes: list[Scene] = []
    without = 0
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

    counts = published(records.dataset, records.split_by, records.split)
    seen = SplitSummary.of(scenes, dataset=records.dataset, split_by=records.split_by, split=records.split)
    summary = replace(
        seen,
        total=len(records.expressions),
        skipped=len(records.expressions) - seen.selected,
        published=counts.expressions if counts else None,
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


def _referent(record: ReferentRecord, picture: PictureRecord, encoded: PictureMasks, *, masks: bool) -> Referent:
    objects = [picture.objects[ann_id] for ann_id in record.ann_ids]
    needed = [o for o in objects if masks or o.bbox is None]
    # Nothing can be measured against a mask without a pixel.
    usable = {o: mask for o, mask in zip(needed, encoded.of(needed), strict=True) if mask and not is_empty(mask)}
    for annotated in objects:
        if annotated.bbox is None and annotated not in usable:
            raise DataError(f"{annotated.where}: the mask has no pixel, and there is no box. Give the object a 'bbox'.")
    return Referent(
        id=record.id,
        ann_ids=record.ann_ids,
        boxes=in_picture(given_boxes(objects, usable), objects, encoded),
        masks=tuple(usable.get(annotated) for annotated in objects),
        category=record.category,
        distractors=record.distractors,
        match=record.match,
    )
