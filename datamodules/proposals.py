"""The candidate regions of a picture: where they come from, which are kept, and what an empty picture means."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bsap.datamodules.boxes import NORMALISED, look_normalised
from bsap.datamodules.fields import number
from bsap.datamodules.files import below, read_bytes, sha256
from bsap.datamodules.masks import PictureMasks, given_boxes, in_picture, whole_mask
from bsap.datamodules.picture_names import by_picture
from bsap.datamodules.proposal_readers import read_picture_file, read_proposals
from bsap.datamodules.records import PictureRecord, RegionRecord, SplitRecords
from bsap.datamodules.scene import RLE, Proposals
from bsap.errors import ConfigError, DataError, check_number, unknown

Source = Literal["ground_truth", "detections", "masks"]
Empty = Literal["miss", "whole_image", "skip"]


@dataclass(frozen=True)
class ProposalConfig:
    """Which regions a model chooses from: they decide a result as much as the model does, so no source is the default.

    Attributes:
        source: ``ground_truth``: every annotated object of the picture; ``detections``: a file of boxes, perhaps with
            masks; ``masks``: a file of masks, perhaps with boxes.
        path: the file, or a folder with a file for each picture, in whose name ``{dataset}``, ``{split_by}`` and
            ``{split}`` stand for those of the data. Without one, ``detections`` and ``masks`` read the ``proposals`` of
            our own JSONL annotations.
        min_score: lowest detector score that is kept; 0 keeps all.
        top_k: how many of the highest scores are kept per picture; among equals the first in the file.
        min_area: smallest box that is kept, in square pixels.
        min_area_share: boxes that cover at most this share of the picture, 0 to 1, are left out, unless all are so
            small (ReCLIP's ``box_area_threshold``); 0 keeps all.
        masked_only: leave out proposals without a mask, where only some have one (RIS on annotations that lack masks).
        empty: what a picture without proposals means. ``miss``: its expressions count as wrong; ``whole_image``: the
            whole picture is the one proposal (ReCLIP); ``skip``: its expressions are left out and the result is partial
            (Zero-shot-RIS).

    Example:
        >>> ProposalConfig("detections", path="dets.json", empty="whole_image").empty
        'whole_image'
        >>> ProposalConfig("detection")
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: Unknown source of proposals 'detection'. Did you mean 'detections'? Known: ...
    """

    source: Source
    path: str | None = None
    min_score: float = 0.0
    top_k: int | None = None
    min_area: float = 0.0
    min_area_share: float = 0.0
    masked_only: bool = False
    empty: Empty = "miss"

    def __post_init__(self) -> None:
        if self.source not in ("ground_truth", "detections", "masks"):
            raise unknown("source of proposals", self.source, ("ground_truth", "detections", "masks"))
        if self.empty not in ("miss", "whole_image", "skip"):
            raise unknown("policy for pictures without proposals", self.empty, ("miss", "whole_image", "skip"))
        check_number("proposals.min_score", self.min_score)
        check_number("proposals.min_area", self.min_area)
        check_number("proposals.min_area_share", self.min_area_share)
        if self.min_area_share >= 1:
            raise ConfigError(
                f"`proposals.min_area_share` is a share of the picture, below 1, but got {self.min_area_share!r}. Use "
                "`proposals.min_area` for square pixels."
            )
        if self.top_k is not None:
            check_number("proposals.top_k", self.top_k, least=1, whole=True)
        if self.source == "ground_truth":
            given = [n for n in ("path", "min_score", "top_k") if getattr(self, n)]
            if given:
                raise ConfigError(
                    f"`proposals.{given[0]}` has no meaning for source ground_truth: annotated objects come with the "
                    "annotations and have no score. Drop it, or set `proposals.source` to detections."
                )


class ProposalSource:
    """Proposals by picture, for one split.

    Ground truth and embedded proposals are read from ``records``. A relative path may start at the data's ``root``.

    Attributes:
        file: the file or folder that holds the proposals.
        sha256: its SHA-256; of a folder, the SHA-256 of the names and SHA-256s of its files.
        named_by: how the file names pictures, see :func:`~bsap.datamodules.picture_names.by_picture`.
    """

    def __init__(self, config: ProposalConfig, records: SplitRecords, root: Path, *, masks: bool = True) -> None:
        if config.source == "masks" and not masks:
            raise ConfigError("`proposals.source` is masks, but `masks` is false: set it to true.")
        self.config = config
        self._masks = masks
        self.file, self.sha256 = records.source, records.sha256
        self.named_by = "image_id"
        self._regions: Mapping[str, Sequence[RegionRecord]] | None = None
        self._listed: Mapping[str, Sequence[RegionRecord]] = {}
        if config.source == "ground_truth":
            partly = next((p for p in records.pictures.values() if not p.complete), None)
            if partly is not None:
                raise ConfigError(
                    f"{partly.where}: this file holds only the objects that expressions refer to, which cannot be the "
                    "regions to choose from. Set `proposals.source` to detections or masks."
                )
        else:
            self._listed = self._read(config, records, root)
            if not self._regions:
                self._regions, self.named_by = by_picture(self._listed, records.pictures.values(), self.file)
            _check_boxes(self._regions, self.file)
        self._has_masks = masks and any(r.segmentation for rs in self._listed.values() for r in rs)
        if (config.source == "masks" or config.masked_only) and self._regions is not None and not self._has_masks:
            setting = "`proposals.source` is masks" if config.source == "masks" else "`proposals.masked_only` is true"
            raise DataError(f"{self.file}: {setting}, but no proposal of this file has a mask.")

    def _read(self, config: ProposalConfig, records: SplitRecords, root: Path) -> Mapping[str, Sequence[RegionRecord]]:
        if config.path is None:
            if records.proposals is None:
                raise ConfigError(
                    f"`proposals.source` is {config.source}, but `proposals.path` is not set and {records.source} "
                    "holds no proposals. Name a file of proposals, or set `proposals.source` to ground_truth."
                )
            return records.proposals
        given = config.path
        for name in ("dataset", "split_by", "split"):  # not format(): other braces are a file's own
            given = given.replace(f"{{{name}}}", getattr(records, name))
        path = below(root, given)
        if path.is_dir():
            return self._read_folder(path, records)
        data = read_bytes(path, what="proposals", fix="Set `proposals.path` to a file that exists.")
        self.file, self.sha256 = str(path), sha256(data)
        return read_proposals(data, str(path))

    def _read_folder(self, folder: Path, records: SplitRecords) -> Mapping[str, Sequence[RegionRecord]]:
        """One file for each picture; only those of the split are opened."""
        files, self.named_by = by_picture(
            {file.stem: file for file in sorted(folder.glob("*.json"))}, records.pictures.values(), str(folder)
        )
        found, digests = {}, []
        for image_id, file in files.items():
            data = read_bytes(file, what="proposals", fix="Set `proposals.path` to a folder that exists.")
            found[image_id] = read_picture_file(data, str(file))
            digests.append(f"{file.name} {sha256(data)}\n")
        self.file, self.sha256 = str(folder), sha256("".join(sorted(digests)).encode())
        self._regions = found
        return found

    def absent(self, image_ids: Collection[str], split: Collection[str]) -> list[str]:
        """The selected pictures that the source does not know, though it should know most of the ``split``.

        Raises:
            DataError: if it lacks more than half of both: then it is the file of another dataset or split. Half of the
                split alone may be lacking from a file that was made for the selection, and half of a small selection
                from a file of COCO results, which does not list pictures where nothing was found.
        """
        if self._regions is None:
            return []
        lost = [image_id for image_id in image_ids if image_id not in self._regions]
        known = sum(image_id in self._regions for image_id in split)
        if 2 * len(lost) > len(image_ids) and 2 * known < len(split):
            own = ", ".join(list(self._listed)[:3]) or "none at all"
            raise DataError(
                f"{self.file} has no proposals for {len(lost)} of {len(image_ids)} pictures, first "
                f"{', '.join(lost[:5])}; it has pictures such as {own}. Is it the file of another dataset or split?"
            )
        return lost

    def of(self, picture: PictureRecord, masks: PictureMasks) -> Proposals:
        """The proposals of one picture, filtered; R may be 0."""
        if self._regions is None:
            regions = list(picture.objects.values())
            has_masks = self._masks and bool(regions)
            if not self.config.masked_only:
                has_masks = has_masks and all(r.segmentation for r in regions)
        else:
            regions = list(self._regions.get(picture.image_id, ()))
            has_masks = self._has_masks
        if self.config.masked_only:
            regions = [region for region in regions if region.segmentation]
        return make_proposals(regions, self.config, masks, has_masks=has_masks)

    def whole(self, width: int, height: int) -> Proposals:
        """One proposal that is the whole picture, with a mask unless the source is a file of boxes."""
        boxes = np.array([[0, 0, width, height]], dtype=np.float32)
        masks = self._masks if self._regions is None else self._has_masks
        return Proposals(boxes=boxes, masks=(whole_mask(width, height),) if masks else None)

    def describe(self, *, absent: int, without: int) -> dict[str, Any]:
        """What ``results.json`` records: the settings, the file and how many pictures had nothing."""
        found = {
            **asdict(self.config),
            "path": self.file,
            "sha256": self.sha256,
            "pictures_not_in_file": absent,
            "pictures_without_proposals": without,
        }
        return found if self.named_by == "image_id" else found | {"pictures_named_by": self.named_by}


def _check_boxes(regions: Mapping[str, Sequence[RegionRecord]], file: str) -> None:
    """Raise if boxes look normalised, or if every proposal of a picture is written twice.

    Detectors do write the same box twice now and then, but not each of them.
    """
    if look_normalised(region.bbox for rs in regions.values() for region in rs):
        raise DataError(f"{file}: at least half of the boxes lie within one pixel. {NORMALISED}")
    for image_id, found in regions.items():
        written = [(region.bbox, region.segmentation, region.score) for region in found]
        if len(written) > 1 and all(written.count(proposal) > 1 for proposal in written):
            raise DataError(
                f"{file}: each proposal of picture {image_id} is written more than once, as if two files had been "
                "joined. Remove the copies: some scorers compare all regions of a picture."
            )


def make_proposals(
    regions: Sequence[RegionRecord], config: ProposalConfig, picture: PictureMasks, *, has_masks: bool
) -> Proposals:
    """Check and filter the proposals of one picture, in the file's order; with ``has_masks`` each needs a mask."""
    scores = _scores(regions)
    if (config.min_score > 0 or config.top_k is not None) and scores is None and regions:
        raise ConfigError(
            f"{regions[0].where}: this proposal has no score, so `proposals.min_score` and `proposals.top_k` cannot be "
            "applied. Drop them or use a file with scores."
        )
    keep = np.arange(len(regions))
    if scores is not None:
        keep = keep[scores >= config.min_score] if config.min_score > 0 else keep
        if config.top_k is not None:
            keep = np.sort(keep[np.argsort(-scores[keep], kind="stable")[: config.top_k]])
    kept = [regions[i] for i in keep.tolist()]
    masks = _masks(kept if has_masks else [r for r in kept if r.bbox is None], picture)
    xywh = given_boxes(kept, masks)
    if config.min_area > 0 or config.min_area_share > 0:
        areas = xywh[:, 2] * xywh[:, 3]
        wide = areas > config.min_area_share * picture.width * picture.height
        # As in ReCLIP, the share leaves out nothing where no box reaches it.
        large = np.flatnonzero((areas >= config.min_area) & (wide if config.min_area_share and wide.any() else True))
        keep, xywh, kept = keep[large], xywh[large], [kept[i] for i in large.tolist()]
    fix = "Leave out proposals without area with `--data.proposals.min_area 1`, the smallest area in square pixels."
    for i in np.flatnonzero(xywh[:, 2] == 0).tolist():
        if kept[i].bbox is None:  # the box is the mask's own
            raise DataError(f"{kept[i].where}: the mask has no pixel, and there is no box. {fix}")
    return Proposals(
        boxes=in_picture(xywh, kept, picture, fix=fix),
        masks=tuple(masks[region] for region in kept) if has_masks else None,
        scores=None if scores is None else scores[keep].astype(np.float32),
    )


def _scores(regions: Sequence[RegionRecord]) -> NDArray[np.float64] | None:
    if all(r.score is None for r in regions):
        return None
    return np.array([number(r.score, f"{r.where}, 'score'") for r in regions], dtype=np.float64)


def _masks(regions: Sequence[RegionRecord], picture: PictureMasks) -> dict[RegionRecord, RLE]:
    masks = {}
    for region, mask in zip(regions, picture.of(regions), strict=True):
        if mask is None:
            raise DataError(
                f"{region.where}: this proposal has no mask, but others of its source have. Give every proposal a "
                "'segmentation' or none; `proposals.source: masks` needs one for each."
            )
        masks[region] = mask
    return masks
