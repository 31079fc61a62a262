"""Candidate regions for any pictures: the objects that a detector finds, in a file that the data modules read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bsap.datamodules.loader import sensible_workers
from bsap.datamodules.picture_files import PictureError, load_picture
from bsap.errors import ModelError
from bsap.propose.detectors import Detector
from bsap.propose.output_file import ProposalsFile
from bsap.propose.picture_list import Picture


def propose(
    pictures: Sequence[Picture],
    output: Path,
    detector: Detector,
    *,
    score: float = 0.5,
    max_per_picture: int = 100,
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    num_workers: int | None = None,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Find objects in pictures and write them to a file; an interrupted attempt is continued.

    The pictures of a batch have the same size, so that none is padded and the batch size changes no detection.

    Args:
        pictures: the pictures.
        output: the file to write: COCO results, or, if its name ends in ``.jsonl``, a line per picture, which also
            lists pictures without any object.
        detector: finds the objects.
        score: the lowest score to keep.
        max_per_picture: how many of the highest scores to keep per picture.
        batch_size: the most pictures at once.
        device: the device of the detector.
        num_workers: processes that decode pictures; None chooses a number from the available cores.
        overwrite: start again from nothing instead of continuing.
        advance: called with the number of pictures that were finished since the last call.

    Returns:
        The content of ``NAME.origin.json``: what made the file.

    Raises:
        ConfigError: if the output was made, or begun, with other settings, or another process is writing it.
        DataError: for a picture that cannot be decoded; what was done before is kept.
        ModelError: if the device has too little memory; what was done before is kept.
    """
    settings = {**detector.describe(), "score": score, "max_per_picture": max_per_picture}
    result = ProposalsFile(output, pictures, settings, overwrite=overwrite)
    if result.origin is not None:
        advance(len(pictures))
        return result.origin
    advance(len(result.done))
    todo = [picture for picture in pictures if picture.image_id not in result.done]
    try:
        for batch, images in _batches(todo, batch_size, num_workers):
            found = _detect(detector, images, device)
            for picture, objects in zip(batch, found, strict=True):
                result.add(picture, rows_of(objects, picture, score=score, most=max_per_picture))
            result.flush()
            advance(len(batch))
    except (PictureError, ModelError) as error:
        raise type(error)(
            f"{error} {len(result.done)} of {len(pictures)} pictures are done and kept in {result.part}: "
            "run the same command again to continue."
        ) from error
    finally:
        result.close()
    return result.finish(batch_size=batch_size, device=str(device))


def rows_of(found: Mapping[str, Tensor], picture: Picture, *, score: float, most: int) -> list[dict[str, Any]]:
    """A picture's objects as COCO results, the highest scores first.

    Args:
        found: N objects, as :data:`bsap.propose.detectors.Found` returns them.
        picture: the picture.
        score: the lowest score to keep.
        most: how many to keep.

    Returns:
        Proposals with ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score`` and, if there are masks,
        ``segmentation``. Boxes are clipped to the picture; boxes without area are left out.

    Example:
        >>> found = {"boxes": torch.tensor([[2.0, 1.0, 99.0, 4.0]]), "scores": torch.ones(1), "labels": torch.ones(1)}
        >>> rows_of(found, Picture("7", Path("7.jpg"), 10, 10), score=0.5, most=5)
        [{'category_id': 1, 'bbox': [2.0, 1.0, 8.0, 3.0], 'score': 1.0}]
    """
    scores = found["scores"].float().cpu().numpy()
    boxes = np.clip(found["boxes"].double().cpu().numpy().reshape(-1, 4), 0, [picture.width, picture.height] * 2)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).round(2)
    order = np.argsort(-scores, kind="stable")
    kept = order[(scores[order] >= score) & (xywh[order, 2:] > 0).all(axis=1)][:most]
    labels = found["labels"].cpu()
    rows: list[dict[str, Any]] = [
        {"category_id": int(labels[n]), "bbox": xywh[n].tolist(), "score": round(float(scores[n]), 6)}
        for n in kept.tolist()
    ]
    if "masks" in found:
        inside = (found["masks"][torch.from_numpy(kept).to(found["masks"].device), 0] > 0.5).byte()
        encodings = coco_mask.encode(np.asfortranarray(inside.permute(1, 2, 0).cpu().numpy()))
        for row, rle in zip(rows, encodings, strict=True):
            row["segmentation"] = {"size": [picture.height, picture.width], "counts": rle["counts"].decode("ascii")}
    return rows


def _decoded(pictures: list[Picture]) -> tuple[list[Picture], list[Tensor]]:
    return pictures, [load_picture(picture.path, picture.width, picture.height) for picture in pictures]


def _batches(
    pictures: Sequence[Picture], size: int, workers: int | None
) -> Iterable[tuple[list[Picture], list[Tensor]]]:
    """Decoded pictures in batches of one size each, the largest first, so that too little memory is found early."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault((picture.width, picture.height), []).append(index)
    large = sorted(groups, key=lambda wh: -wh[0] * wh[1])
    plan = [groups[wh][n : n + size] for wh in large for n in range(0, len(groups[wh]), size)]
    workers = sensible_workers(len(plan)) if workers is None else workers
    return DataLoader(cast("Dataset[Any]", pictures), batch_sampler=plan, num_workers=workers, collate_fn=_decoded)


@torch.inference_mode()
def _detect(detector: Detector, images: Sequence[Tensor], device: torch.device | str) -> Sequence[Mapping[str, Tensor]]:
    try:
        return detector.find([image.to(device).float() / 255 for image in images])
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"{device} has too little memory for {len(images)} pictures at once. Set a smaller --batch-size."
        ) from error
