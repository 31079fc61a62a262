"""What every annotation reader returns: one split's records, checked for identity but not yet for geometry.

Boxes and masks stay as the file wrote them until a picture is selected: a full ``instances.json`` holds 200,000
annotations, and most runs look at a few thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bsap.datamodules.scene import Match
from bsap.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class RegionRecord:
    """An annotated object or a proposal, as the file wrote it.

    Attributes:
        where: file and record, for errors.
        bbox: ``[x, y, width, height]``, or None where only a mask is given.
        segmentation: polygons or a run-length encoding; None or an empty list where there is none.
        category: name of the category, where known.
        score: the detector's score, where known.
    """

    where: str
    bbox: Any
    segmentation: Any = None
    category: str | None = None
    score: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class PictureRecord:
    """A picture and its annotated objects.

    Attributes:
        where: file and record, for errors.
        image_id: the picture's identity.
        file_name: its file, relative to the folder of pictures.
        width: W in pixels, None where the file does not say.
        height: H in pixels, None where the file does not say.
        objects: every annotated object, by annotation id.
        other_name: what the file is called where there is none of that name.
        complete: whether ``objects`` holds all objects of the picture, not only those that expressions refer to.
    """

    where: str
    image_id: str
    file_name: str
    width: int | None
    height: int | None
    objects: dict[str, RegionRecord]
    other_name: str | None = None
    complete: bool = True

    @property
    def size(self) -> tuple[int, int] | None:
        """W and H in pixels, None where the file does not say."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names under which the file may be found, the first that exists counts."""
        return (self.file_name,) if self.other_name is None else (self.file_name, self.other_name)


@dataclass(frozen=True, slots=True, eq=False)
class ReferentRecord:
    """What expressions mean; fields as in :class:`bsap.datamodules.scene.Referent`."""

    where: str
    id: str
    image_id: str
    ann_ids: tuple[str, ...]
    category: str | None
    distractors: int | None
    match: Match = "any"
    corner: tuple[float, ...] = ()
    """x and y of the first annotation's box, as far as the file gives them."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpressionRecord:
    """One sentence; fields as in :class:`bsap.datamodules.scene.Expression`."""

    id: str
    order: int
    text: str
    referent: ReferentRecord
    phrase: str | None = None


@dataclass(eq=False)
class SplitRecords:
    """One split as read from its files; a reader adds the pictures and the expressions.

    Attributes:
        dataset: for example ``refcoco``.
        split_by: for example ``unc``.
        split: for example ``testA``.
        source: the file that holds the annotated objects.
        sha256: that file's SHA-256.
        lowercase: whether texts are put in lower case.
        pictures: the split's pictures, by id.
        expressions: all its expressions, in annotation order.
        proposals: proposals that the annotation file itself brings, by picture; None where it brings none.
        meant: the referents of the expressions, by picture and id.
    """

    dataset: str
    split_by: str
    split: str
    source: str
    sha256: str
    lowercase: bool = False
    pictures: dict[str, PictureRecord] = field(default_factory=dict)
    expressions: list[ExpressionRecord] = field(default_factory=list)
    proposals: Mapping[str, list[RegionRecord]] | None = None
    meant: dict[tuple[str, str], ReferentRecord] = field(default_factory=dict)
    _ids: set[str] = field(default_factory=set)

    def add(self, key: str, text: str, referent: ReferentRecord, *, where: str, phrase: str | None = None) -> None:
        """Append one expression.

        Raises:
            DataError: if the key is already there, or a referent of the same id and picture is another one.
        """
        prefix = f"{self.dataset}/{self.split_by}/{self.split}"
        if key in self._ids:
            raise DataError(f"{where}: the expression id {key!r} occurs twice in {prefix}.")
        self._ids.add(key)
        first = self.meant.setdefault((referent.image_id, referent.id), referent)
        if first.ann_ids != referent.ann_ids:
            raise DataError(
                f"{where}: the referent {referent.id} has other annotations than in {first.where}. Give each referent "
                "an id of its own."
            )
        text = text.lower() if self.lowercase else text
        self.expressions.append(ExpressionRecord(f"{prefix}/{key}", len(self.expressions), text, referent, phrase))

    @property
    def referents(self) -> int:
        """How many referents the expressions are about."""
        return len(self.meant)


NO_TARGET = "-1"
"""The annotation id that stands for none, as in gRefCOCO."""


def make_referent(
    where: str, id: str, picture: PictureRecord, ann_ids: tuple[str, ...], match: Match = "any"
) -> ReferentRecord:
    """A referent whose annotations are all among the picture's objects, with its category and distractors.

    No annotation, or ``-1`` alone, means nothing, which is a set whatever ``match`` says. The category is the first
    annotation's, and for a set what all its annotations share.
    """
    if not ann_ids or (ann_ids == (NO_TARGET,) and NO_TARGET not in picture.objects):
        return ReferentRecord(where, id, picture.image_id, (), None, None, "all")
    if lost := [ann for ann in ann_ids if ann not in picture.objects]:
        raise DataError(
            f"{where}: the picture {picture.image_id} has no annotation {', '.join(lost)}. "
            "The expressions and the annotations may belong to different datasets."
        )
    category = picture.objects[ann_ids[0]].category
    if match == "all" and any(picture.objects[ann].category != category for ann in ann_ids):
        category = None
    distractors = None
    if category is not None and picture.complete:
        distractors = sum(o.category == category for ann, o in picture.objects.items() if ann not in ann_ids)
    box = picture.objects[ann_ids[0]].bbox
    corner = tuple(v for v in box[:2] if type(v) in (int, float)) if isinstance(box, list) else ()
    return ReferentRecord(where, id, picture.image_id, ann_ids, category, distractors, match, corner)
