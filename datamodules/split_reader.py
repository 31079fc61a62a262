"""Reads splits of RefCOCO, RefCOCO+, RefCOCOg and whatever has their form; without torch, which takes seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from bsap.datamodules.assemble import LoadedSplit, build_split
from bsap.datamodules.fields import shown
from bsap.datamodules.files import below, expanded, paused_gc
from bsap.datamodules.filters import Selection
from bsap.datamodules.jsonl import read_jsonl
from bsap.datamodules.picture_files import PictureFolder
from bsap.datamodules.proposals import ProposalConfig, ProposalSource
from bsap.datamodules.records import SplitRecords
from bsap.datamodules.refer import read_refer
from bsap.datamodules.scene import Match, Scene
from bsap.errors import ConfigError, DataError, check_names, check_number, unknown


class SplitReader:
    """The settings of :class:`~bsap.datamodules.refcoco.RefCOCODataModule`, and what they read.

    Args:
        root: the folder that holds the annotations and ``images``, see `bsap docs data`.
        proposals: which regions the model chooses from; a mapping of the fields of
            :class:`~bsap.datamodules.proposals.ProposalConfig` will do.
        dataset: ``refcoco``, ``refcoco+``, ``refcocog`` or another folder of the same layout.
        split_by: the partition (``unc``, ``umd``, ``google``); None takes the one that papers report.
        split: which split to test on.
        annotations: a JSONL file to read instead of the REFER files; may be relative to the root.
        images: the folder of pictures where it is not ``root/images/train2014``; may be relative to the root.
        text: which wording of a sentence, ``sent`` (REFER's cleaned sentence) or ``raw`` (as it was typed). Files with
            one wording only give that.
        lowercase: whether texts are put in lower case.
        match: ``any``: of several annotations of one expression any is a right answer; ``all``: they are a set, all of
            which are meant. None: ``all`` in gRefCOCO's files, ``any`` in others.
        ids: evaluate only these expressions: ids (whole, or what follows the last ``/``), or a text file of them.
        limit: evaluate at most so many expressions, the first in annotation order after all other filters.
        category: evaluate only referents of this category, or of these.
        min_words: evaluate only expressions of at least so many words.
        max_words: evaluate only expressions of at most so many words.
        min_distractors: evaluate only referents with at least so many other objects of their category in the picture.
        max_distractors: evaluate only referents with at most so many.
        min_targets: evaluate only expressions with at least so many annotations; one that means nothing in its picture
            has 0.
        max_targets: evaluate only expressions with at most so many.
        review: leave out what Ref-L4's review calls label errors: its file ``{dataset}_{split}_reviewed.json``.
        masks: whether masks are encoded. False saves time and memory where only boxes matter, most on ``train``.
        batch_size: scenes per batch.
        size_tolerance: how many pixels the width and the height of a picture may differ from the annotated ones. The
            picture then loses or repeats columns at the right and rows at the bottom (`bsap docs data`). 0 allows none.
        allow_outside: whether annotations may name pictures outside the root, by absolute names or ``..``.
        num_workers: processes that decode pictures; None chooses by the cores at hand.
    """

    def __init__(
        self,
        root: str,
        proposals: ProposalConfig,
        *,
        dataset: str = "refcoco",
        split_by: str | None = None,
        split: str = "val",
        annotations: str | None = None,
        images: str | None = None,
        text: Literal["sent", "raw"] = "sent",
        lowercase: bool = False,
        match: Match | None = None,
        ids: list[str | int | float] | str | int | float | None = None,
        limit: int | None = None,
        category: list[str | int | float] | str | int | float | None = None,
        min_words: int | None = None,
        max_words: int | None = None,
        min_distractors: int | None = None,
        max_distractors: int | None = None,
        min_targets: int | None = None,
        max_targets: int | None = None,
        review: str | None = None,
        masks: bool = True,
        size_tolerance: int = 0,
        allow_outside: bool = False,
        batch_size: int = 8,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(**self.base_settings(batch_size=batch_size, num_workers=num_workers))
        self.proposals = proposal_config(proposals)
        if text not in ("sent", "raw"):
            raise unknown("wording of a sentence (`text`)", text, ("sent", "raw"))
        if match not in (None, *get_args(Match)):
            raise unknown("`match` of several annotations", match, get_args(Match))
        check_number("data.size_tolerance", size_tolerance, whole=True)
        self.selection = Selection(
            ids=as_texts("ids", ids),
            limit=limit,
            category=as_texts("category", category),
            min_words=min_words,
            max_words=max_words,
            min_distractors=min_distractors,
            max_distractors=max_distractors,
            min_targets=min_targets,
            max_targets=max_targets,
            review=review,
        )
        self.root, self.dataset, self.split_by, self.split = expanded(root), dataset, split_by, split
        self.annotations, self.images = annotations, images
        self.text, self.lowercase, self.match, self.masks = text, lowercase, match, masks
        self.size_tolerance, self.allow_outside = size_tolerance, allow_outside
        self.note_settings()

    def base_settings(self, **loading: Any) -> dict[str, Any]:
        """What the base class of a data module takes of the settings; the reader alone loads no pictures."""
        return {}

    def note_settings(self) -> None:
        """Called when the settings are known to be right; a data module records them here."""

    def read(self, split: str) -> SplitRecords:
        """One split's records, unfiltered and without proposals."""
        if not self.root.is_dir():
            raise DataError(
                f"The data's root {self.root} is not a folder. Set `data.root` to the folder that holds the "
                "annotations; `bsap docs data` says where to get them."
            )
        which = self.dataset, self.split_by, split
        texts: dict[str, Any] = {"text": self.text, "lowercase": self.lowercase}
        if self.annotations is None:
            return read_refer(self.root, *which, **texts, match=self.match)
        return read_jsonl(below(self.root, self.annotations), *which, **texts, match=self.match or "any")

    def load(self, split: str, *, unfiltered: bool = False) -> LoadedSplit:
        """One split with its proposals, by default filtered."""
        with paused_gc():
            records = self.read(split)
            source = ProposalSource(self.proposals, records, self.root, masks=self.masks)
            folder = PictureFolder(self.root, self.images, allow_outside=self.allow_outside)
            selection = Selection() if unfiltered else self.selection
            return build_split(records, selection, source, folder, masks=self.masks, size_tolerance=self.size_tolerance)

    def load_split(self, split: str, *, unfiltered: bool = False) -> list[Scene]:
        """The scenes of any split, by these settings."""
        return self.load(split, unfiltered=unfiltered).scenes


def as_texts(name: str, value: Sequence[str | float] | str | float | None) -> tuple[str, ...] | str | None:
    """Ids or names as texts; numbers with a point are refused, because YAML reads 1.10 as 1.1."""
    if value is None or isinstance(value, str):
        return value
    values = value if isinstance(value, (list, tuple)) else [value]
    for item in values:
        if isinstance(item, float):
            raise ConfigError(
                f"`{name}` holds the number {item}: YAML takes 1.10 for 1.1. Write it with its point in quotes, '1.10'."
            )
        if not isinstance(item, (str, int)) or isinstance(item, bool):
            raise ConfigError(f"`{name}` holds {shown(item)}, which is not a text. Write it in quotes.")
    return tuple(map(str, values))


def proposal_config(value: object) -> ProposalConfig:
    """The settings of proposals from themselves or from a mapping of their fields."""
    if isinstance(value, ProposalConfig):
        return value
    if not isinstance(value, Mapping) or "source" not in value:
        raise ConfigError(
            f"`proposals` must name its source (ground_truth, detections or masks), but got {value!r}. There is no "
            "default: the source decides a result as much as the model does."
        )
    check_names("setting of proposals", value, [field.name for field in dataclasses.fields(ProposalConfig)])
    return ProposalConfig(**value)
