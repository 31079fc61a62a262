"""Rows of published datasets as REFER files or as lines of bsap's own JSONL form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsap.datamodules.fields import Record
from bsap.datamodules.masks import boxes_of_masks, encode_mask
from bsap.errors import DataError

REFERENT_COLUMNS = ("ref_id", "ann_id", "image_id", "category_id", "file_name", "split", "sentences")
SAMPLE_COLUMNS = ("image", "image_id", "file_name", "samples")
CAPTION_COLUMNS = ("id", "caption", "bbox", "bbox_id", "ori_category_id", "image_id", "height", "width", "file_name")


def referent(row: dict[str, Any], where: str, *, test: str) -> dict[str, Any]:
    """A row of jxu124's conversions as an entry of ``refs(*).p``; ``test`` is the real name of its split ``test``."""
    record = Record(row, where)
    split = {"validation": "val", "test": test}.get(record.text("split"), record.text("split"))
    sentences = record["sentences"]
    if isinstance(sentences, dict):  # a sequence of mappings may be stored as a mapping of sequences
        sentences = [dict(zip(sentences, values, strict=True)) for values in zip(*sentences.values(), strict=True)]
    found = [{key: sentence.get(key) for key in ("raw", "sent", "sent_id", "tokens")} for sentence in sentences]
    return {
        **{key: record[key] for key in ("ref_id", "ann_id", "image_id", "category_id")},
        "file_name": record.text("file_name"),
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in found],
        "sentences": found,
    }


def instances_of(content: Record, image_ids: set[int]) -> dict[str, Any]:
    """The part of a COCO annotation file that is about some pictures, all of which it must have, and their objects."""
    images = [image for image in content.items("images") if image.get("id") in image_ids]
    if lost := image_ids - {image["id"] for image in images}:
        raise DataError(f"{content.where}: {len(lost)} pictures are not in this file, first {sorted(lost)[:3]}.")
    annotations = [item for item in content.items("annotations") if item.get("image_id") in image_ids]
    return {"images": images, "annotations": annotations, "categories": content.items("categories")}


def line_of_samples(row: dict[str, Any], size: tuple[int, int], where: str, *, form: str) -> dict[str, Any]:
    """A row of RefCOCO-M as a line of JSONL; ``form`` is what :func:`box_form` found."""
    record = Record(row, where)
    objects, expressions = [], []
    for n, item in enumerate(record.items("samples"), start=1):
        sample = Record(item, f"{where}, sample {n}")
        object_id = sample.identity("id")
        box = _to_xywh(np.array([sample["bbox"]], dtype=np.float64), np.array([size]), form)[0].tolist()
        mask, category = _text_mask(sample["mask"]), sample.text("category")
        objects.append({"id": object_id, "bbox": box, "segmentation": mask, "category": category})
        for m, text in enumerate(sample.items("sentences"), start=1):
            expressions.append({"id": f"{object_id}.{m}", "text": text, "target": object_id})
    return _line(record, size, objects, expressions)


def _text_mask(mask: Any) -> dict[str, Any]:
    counts = mask["counts"]
    return {"size": mask["size"], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _line(record: Record, size: tuple[int, int], objects: list[Any], expressions: list[Any]) -> dict[str, Any]:
    return {
        "picture": record.text("file_name"),
        "image_id": record.identity("image_id"),
        "width": size[0],
        "height": size[1],
        "objects_complete": False,
        "objects": objects,
        "expressions": expressions,
    }


BOX_FORMS = ("xywh", "xyxy", "xywh in 0..1", "xyxy in 0..1")


def box_form(rows: Iterable[tuple[dict[str, Any], tuple[int, int]]], where: str) -> str:
    """In which form the boxes of RefCOCO-M's samples are: the one that fits the samples' own masks.

    Args:
        rows: rows with ``samples``, and the sizes (W, H) of their pictures.
        where: the file, for the error if none fits.
    """
    boxes, drawn, sizes = [], [], []
    for row, size in rows:
        for sample in row["samples"]:
            mask = encode_mask(_text_mask(sample["mask"]), *size, where)
            if mask is not None:
                boxes.append(sample["bbox"])
                drawn.append(boxes_of_masks([mask])[0])
                sizes.append(size)
    given, expected = np.array(boxes, dtype=np.float64), np.array(drawn)
    errors = {form: float(np.abs(_to_xywh(given, np.array(sizes), form) - expected).mean()) for form in BOX_FORMS}
    best = min(errors, key=errors.__getitem__)
    if errors[best] > 0.1 * float(expected[:, 2:].mean()):
        raise DataError(f"{where}: the boxes fit the masks in none of the forms {', '.join(BOX_FORMS)}.")
    return best


def _to_xywh(boxes: NDArray[np.float64], sizes: NDArray[np.int64], form: str) -> NDArray[np.float64]:
    found: NDArray[np.float64] = boxes.copy()
    if form.endswith("0..1"):
        found = found * np.concatenate([sizes, sizes], axis=1)
    if form.startswith("xyxy"):
        found[:, 2:] -= found[:, :2]
    return found


def lines_of_captions(rows: Sequence[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Rows of Ref-L4, one for each caption, as lines of JSONL, one for each picture; boxes are xywh."""
    by_picture: dict[str, list[Record]] = {}
    for n, row in enumerate(rows, start=1):
        record = Record(row, f"{where}, row {n}")
        by_picture.setdefault(record.identity("image_id"), []).append(record)
    lines = []
    for records in by_picture.values():
        objects, expressions = {}, []
        for record in records:
            box_id, category = record.identity("bbox_id"), str(record["ori_category_id"])
            objects[box_id] = {"id": box_id, "bbox": record["bbox"], "category": category}
            expressions.append({"id": record.identity("id"), "text": record.text("caption"), "target": box_id})
        size = records[0].size("width"), records[0].size("height")
        lines.append(_line(records[0], size, list(objects.values()), expressions))
    return lines
