"""What a dataset is made of: a scene is one picture with its proposals and all expressions about it.

Everything here lives on the host, is immutable, and knows neither torch nor any model, so that scenes travel cheaply
to worker processes. Boxes are xyxy, float32, in pixels of the original picture, continuous (no +1). Masks stay COCO
run-length encodings until the very moment pixels are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
"""(N, 4) float32, xyxy."""


Match = Literal["any", "all"]
"""Whether each of a referent's annotations is an answer of its own, or all of them together are the answer."""


class RLE(TypedDict):
    """A COCO run-length encoding as pycocotools takes it: ``size`` is [height, width], ``counts`` compressed bytes."""

    size: list[int]
    counts: bytes


@dataclass(frozen=True, eq=False, slots=True)
class Referent:
    """What an expression means: one object, several, or nothing in its picture.

    Attributes:
        id: identity of the referent within its split (``ref_id`` in REFER files, the line number in JSONL files).
        ann_ids: the annotations that are meant, T of them, usually one. None where nothing is meant, and where the
            referent is not known, as for a user's own sentences: see :attr:`nothing`.
        boxes: (T, 4), one box for each annotation.
        masks: T encodings of the picture's size, or None where the annotation has no mask.
        category: name of the object's category, where the files know it.
        distractors: how many other annotated objects of the same category the picture has, where known.
        match: ``any``: a hit on any annotation counts; ``all``: the annotations are a set, all of which are meant
            (gRefCOCO: Liu et al., "GRES", CVPR 2023). The same where there is one.
    """

    id: str
    ann_ids: tuple[str, ...]
    boxes: Boxes
    masks: tuple[RLE | None, ...]
    category: str | None = None
    distractors: int | None = None
    match: Match = "any"

    @property
    def nothing(self) -> bool:
        """Whether it is known that nothing in the picture is meant. False where the referent is not known."""
        return self.match == "all" and not self.ann_ids

    @property
    def has_mask(self) -> bool:
        """Whether the referent is known and every annotation of it has a mask."""
        return bool(self.masks) and all(mask is not None for mask in self.masks)


@dataclass(frozen=True, eq=False, slots=True)
class Expression:
    """One sentence and what it means: one sample of every metric.

    Attributes:
        id: ``{dataset}/{split_by}/{split}/{key}``, unique.
        order: position in the annotation order of the whole, unfiltered split.
        text: the sentence as the reader's protocol gives it, before any template.
        referent: what it means.
        phrase: its noun phrase, where the file gives one.
        part_of: the sentence that this is a part of, for a text that is scored but is no sample of any metric.
    """

    id: str
    order: int
    text: str
    referent: Referent
    phrase: str | None = None
    part_of: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Proposals:
    """The candidate regions of one picture.

    Attributes:
        boxes: (R, 4); R may be 0.
        masks: R encodings of the picture's size, or None when the source has boxes only.
        scores: (R,) float32 detector scores, or None.
    """

    boxes: Boxes
    masks: tuple[RLE, ...] | None = None
    scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """One picture, its proposals and all selected expressions about it.

    Attributes:
        image_id: the picture's identity in the annotation files.
        path: the picture's file.
        width: W, as annotated.
        height: H, as annotated.
        proposals: the candidate regions.
        expressions: the selected expressions, in annotation order.
        texts: every expression about this picture in the unfiltered split, for the computed bank ``scene``.
        size_tolerance: how many pixels the file's width and height may differ from the annotated ones.
    """

    image_id: str
    path: Path
    width: int
    height: int
    proposals: Proposals
    expressions: tuple[Expression, ...]
    texts: tuple[str, ...] = ()
    size_tolerance: int = 0


@dataclass(frozen=True)
class SplitSummary:
    """What was selected from a split, and what that leaves out: the data part of ``results.json``.

    Attributes:
        dataset: for example ``refcoco``.
        split_by: for example ``unc``.
        split: for example ``testA``.
        total: expressions in the unfiltered split.
        selected: expressions that a complete run over this selection must see.
        skipped: expressions left out by a filter or by the policy for pictures without proposals.
        published: the split's published number of expressions, where one is known.
        missing: selected expressions whose picture has no proposal; they count as wrong.
        scenes: pictures with at least one selected expression.
        regions: proposals of those pictures.
        selection: the filters that were given, empty when none were.
        proposals: source, file, SHA-256 of the file, filters and policy of the proposals.
        pictures: the tolerance for the size of pictures; empty where none is allowed.
    """

    dataset: str
    split_by: str
    split: str
    total: int
    selected: int
    skipped: int
    published: int | None
    missing: int
    scenes: int
    regions: int
    selection: dict[str, Any] = field(default_factory=dict)
    proposals: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, scenes: Sequence[Scene], *, dataset: str = "own", split_by: str = "own", split: str = "test"
    ) -> SplitSummary:
        """The summary of scenes of which nothing was left out, for a data module without filters.

        Args:
            scenes: all scenes of the split.
            dataset: name of the data set, for tables.
            split_by: name of the partition.
            split: name of the split.

        Example:
            >>> SplitSummary.of((), dataset="mine").selected
            0
        """
        counts = [len(scene.expressions) for scene in scenes]
        return cls(
            dataset=dataset,
            split_by=split_by,
            split=split,
            total=sum(counts),
            selected=sum(counts),
            skipped=0,
            published=None,
            missing=sum(n for n, scene in zip(counts, scenes, strict=True) if not len(scene.proposals)),
            scenes=len(scenes),
            regions=sum(len(scene.proposals) for scene in scenes),
            proposals={"source": dataset},
        )

    @property
    def partial(self) -> bool:
        """Whether anything of the split was left out by a filter or a skip."""
        return bool(self.selection) or self.skipped > 0
