"""One picture with boxes and sentences of the user, as a LightningDataModule for ``trainer.predict``."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.boxes import ROUNDING
from bsap.datamodules.fields import is_text, number, shown
from bsap.datamodules.files import expanded, parse_json, read_bytes, what_is
from bsap.datamodules.masks import PictureMasks
from bsap.datamodules.picture_files import picture_size
from bsap.datamodules.proposal_readers import region
from bsap.datamodules.proposals import ProposalConfig, make_proposals
from bsap.datamodules.records import RegionRecord
from bsap.datamodules.scene import Expression, Proposals, Referent, Scene, SplitSummary
from bsap.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Of the pictures in a folder."""


class PictureDataModule(SceneDataModule):
    """Pictures of your own with candidate regions and sentences: which region does each sentence mean?

    Args:
        picture: a picture file; a folder of pictures; a JSONL file whose lines hold ``picture`` (a path relative to the
            file) and optionally ``boxes`` and ``expressions`` of that picture; in Python also a PIL picture.
        boxes: boxes as corners ``[x1, y1, x2, y2]`` in pixels, or a JSON file with a list of them. Such a file may
            instead list objects with a ``bbox`` ``[x, y, width, height]``, a ``segmentation`` (polygons or a run-length
            encoding) or both, as COCO results do. For several pictures, a JSON file that maps each picture's file name
            to such a list.
        expressions: the sentences; for several pictures the same for each that has none of its own.

    Attributes:
        scenes: one for each picture. The id of an expression is ``picture/{file name without suffix}/predict/{n}``,
            counted from 1. The expressions have a referent without annotations: nothing is known about the answer.
        texts: the sentences.
    """

    def __init__(
        self, picture: str, boxes: list[list[float]] | str | None = None, expressions: list[str] | None = None
    ) -> None:
        super().__init__(batch_size=1, num_workers=0)
        self.boxes: Any = boxes
        self.expressions = list(expressions or [])
        self.picture = _in_a_file(picture, self) if isinstance(picture, Image.Image) else expanded(picture)
        self.save_hyperparameters(logger=False, ignore=["picture"] if isinstance(picture, Image.Image) else [])

    def __repr__(self) -> str:
        return f"PictureDataModule({str(self.picture)!r}, {len(self.expressions)} expressions)"

    def files(self) -> list[Path]:
        """The picture files.

        Raises:
            DataError: there is no picture.
        """
        return [line.path for line in self._lines()]

    def setup(self, stage: str) -> None:
        """Read the pictures' sizes and check boxes and sentences against them."""
        self.scenes = [self._scene(line) for line in self._lines()]
        names = [scene.image_id for scene in self.scenes]
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"Two pictures are called {name}. Give each a name of its own.")
        self.texts = list(dict.fromkeys(text for scene in self.scenes for text in scene.texts))
        self.summary = SplitSummary.of(self.scenes, dataset="picture", split_by=self.picture.stem, split="predict")

    def _lines(self) -> list[_Line]:
        """What is known of each picture."""
        if self.picture.is_dir():
            files = sorted(path for path in self.picture.iterdir() if path.suffix.lower() in SUFFIXES)
            if not files:
                raise DataError(f"Folder {self.picture} has no pictures ({', '.join(SUFFIXES)}).")
            return [_Line(path, None, self.expressions) for path in files]
        if not self.picture.is_file():
            raise DataError(f"{self.picture} {what_is(self.picture)}. Set `data.picture` to a picture file.")
        if self.picture.suffix != ".jsonl":
            return [_Line(self.picture, None, self.expressions)]
        content = read_bytes(str(self.picture), what="pictures", fix="Set `data.picture` to a JSONL file.")
        lines = [line for line in content.splitlines() if line.strip()]
        found = [self._line(line, f"{self.picture}, line {n}") for n, line in enumerate(lines, start=1)]
        if not found:
            raise DataError(f"{self.picture} is empty. Write one line for each picture.")
        return found

    def _line(self, line: bytes, where: str) -> _Line:
        row = parse_json(line, where)
        if not isinstance(row, dict) or not isinstance(row.get("picture"), str):
            raise DataError(f"{where}: expected a mapping with a `picture`, but got {shown(row)}.")
        if unknown := sorted(row.keys() - {"picture", "boxes", "expressions"}):
            raise DataError(f"{where}: unknown key {unknown[0]!r}. Use picture, boxes and expressions.")
        path = self.picture.parent / row["picture"]
        if not path.is_file():
            raise DataError(f"{where}: {path} {what_is(path)}. Correct the path, which is relative to the file.")
        return _Line(path, row.get("boxes"), row.get("expressions", self.expressions))

    def _scene(self, line: _Line) -> Scene:
        name, texts = line.path.stem, line.expressions
        good = isinstance(texts, list) and texts
        if not good or not all(isinstance(text, str) and text.strip() and is_text(text) for text in texts):
            raise DataError(f"`expressions` must be one or more sentences, none empty, but got {shown(texts)}.")
        width, height = picture_size(line.path)
        nothing = Referent(id="", ann_ids=(), boxes=np.zeros((0, 4), dtype=np.float32), masks=())
        return Scene(
            image_id=name,
            path=line.path,
            width=width,
            height=height,
            proposals=self._proposals(line, width, height),
            expressions=tuple(
                Expression(f"picture/{name}/predict/{n}", n - 1, text, nothing) for n, text in enumerate(texts, start=1)
            ),
            texts=tuple(texts),
        )

    def _proposals(self, line: _Line, width: int, height: int) -> Proposals:
        items: Any = self.boxes if line.boxes is None else line.boxes
        name = "`boxes`"
        if isinstance(items, str) and items.lstrip()[:1] in ("[", "{") and not os.path.exists(items):  # noqa: PTH110
            items = parse_json(items, name)  # JSON that is no list of boxes, or has a slip
        elif isinstance(items, str):
            name = items
            items = parse_json(read_bytes(items, what="boxes", fix="Set `data.boxes` to a JSON file."), name)
        if isinstance(items, dict):
            items = items.get(str(line.path), items.get(line.path.name))
        if items is None:
            raise DataError(f"There are no boxes for {line.path}. Set `data.boxes`, or use `bsap predict --propose`.")
        if not isinstance(items, list) or not items:
            raise DataError(f"{name}: expected a list of boxes [x1, y1, x2, y2], not empty, but got {shown(items)}.")
        regions = [_region(item, f"{name}, box {n}", width, height) for n, item in enumerate(items, start=1)]
        has_masks = any(r.segmentation for r in regions)
        return make_proposals(regions, ProposalConfig("detections"), PictureMasks(width, height), has_masks=has_masks)


@dataclass(frozen=True)
class _Line:
    """A picture with its own boxes and sentences, not checked yet."""

    path: Path
    boxes: Any
    expressions: Any


def _in_a_file(picture: Image.Image, owner: SceneDataModule) -> Path:
    """A file that holds the picture's pixels for as long as the data module lives."""
    folder = TemporaryDirectory(prefix="bsap-")
    weakref.finalize(owner, folder.cleanup)
    path = Path(folder.name) / "picture.png"
    picture.convert("RGB").save(path)
    return path


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
