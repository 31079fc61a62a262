"""One picture with boxes and sentences of the user, as a LightningDataModule for ``trainer.predict``."""

from __future__ import annotations

from typing import Any

import numpy as np

from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.boxes import ROUNDING
from bsap.datamodules.fields import is_text, number, shown
from bsap.datamodules.files import expanded, parse_json, read_bytes
from bsap.datamodules.masks import PictureMasks
from bsap.datamodules.picture_files import picture_size
from bsap.datamodules.proposal_readers import region
from bsap.datamodules.proposals import ProposalConfig, make_proposals
from bsap.datamodules.records import RegionRecord
from bsap.datamodules.scene import Expression, Proposals, Referent, Scene, SplitSummary
from bsap.errors import DataError


class PictureDataModule(SceneDataModule):
    """One picture with candidate boxes and sentences: which box does each sentence mean?

    Args:
        picture: the picture's file.
        boxes: boxes as corners ``[x1, y1, x2, y2]`` in pixels, or a JSON file with a list of them. Such a file may
            instead list objects with a ``bbox`` ``[x, y, width, height]``, a ``segmentation`` (polygons or a run-length
            encoding) or both, as COCO results do.
        expressions: the sentences.

    Attributes:
        scenes: the one scene. The id of an expression is ``picture/{file name without suffix}/predict/{n}``, counted
            from 1. The expressions have a referent without annotations: nothing is known about the answer.
        texts: the sentences.
    """

    def __init__(self, picture: str, boxes: list[list[float]] | str, expressions: list[str]) -> None:
        super().__init__(batch_size=1, num_workers=0)
        self.picture, self.boxes, self.expressions = expanded(picture), boxes, list(expressions)
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        """Read the picture's size and check boxes and sentences against it."""
        if not self.picture.is_file():
            raise DataError(f"No picture at {self.picture}. Set `data.picture` to a picture file.")
        if not self.expressions or not all(isinstance(t, str) and t.strip() and is_text(t) for t in self.expressions):
            raise DataError(
                f"`expressions` must be one or more sentences, none empty, but got {shown(self.expressions)}."
            )
        width, height = picture_size(self.picture)
        nothing = Referent(id="", ann_ids=(), boxes=np.zeros((0, 4), dtype=np.float32), masks=())
        prefix = f"picture/{self.picture.stem}/predict"
        expressions = tuple(
            Expression(f"{prefix}/{n}", n - 1, text, nothing) for n, text in enumerate(self.expressions, start=1)
        )
        scene = Scene(
            image_id=self.picture.stem,
            path=self.picture,
            width=width,
            height=height,
            proposals=self._proposals(width, height),
            expressions=expressions,
            texts=tuple(self.expressions),
        )
        self.scenes, self.texts = [scene], list(self.expressions)
        self.summary = SplitSummary.of(self.scenes, dataset="picture", split_by=self.picture.stem, split="predict")

    def _proposals(self, width: int, height: int) -> Proposals:
        items: Any = self.boxes
        name = "`boxes`"
        if isinstance(items, str):
            name = items
            items = parse_json(read_bytes(items, what="boxes", fix="Set `data.boxes` to a JSON file."), name)
        if not isinstance(items, list) or not items:
            raise DataError(f"{name}: expected a list of boxes [x1, y1, x2, y2], not empty, but got {shown(items)}.")
        regions = [_region(item, f"{name}, box {n}", width, height) for n, item in enumerate(items, start=1)]
        has_masks = any(r.segmentation for r in regions)
        return make_proposals(regions, ProposalConfig("detections"), PictureMasks(width, height), has_masks=has_masks)


def _region(item: object, where: str, width: int, height: int) -> RegionRecord:
    """A box by its corners, or an object as COCO results write it."""
    if isinstance(item, dict):
        return region(item, where)
    if not isinstance(item, (list, tuple)) or len(item) != 4:
        raise DataError(f"{where}: expected four numbers [x1, y1, x2, y2], but got {shown(item)}.")
    x1, y1, x2, y2 = (number(value, where) for value in item)
    if not (x1 < x2 and y1 < y2):
        raise DataError(
            f"{where}: the corners {[x1, y1, x2, y2]} are not [x1, y1, x2, y2] with x1 < x2 and y1 < y2. "
            "Is this [x, y, width, height]?"
        )
    if min(x1, y1) < -ROUNDING or x2 > width + ROUNDING or y2 > height + ROUNDING:
        raise DataError(
            f"{where}: the corners {[x1, y1, x2, y2]} reach beyond the picture of {width} x {height} pixels. Boxes are "
            "[x1, y1, x2, y2] in pixels of this very picture."
        )
    return RegionRecord(where, [x1, y1, x2 - x1, y2 - y1])
