"""Files of proposals, whoever wrote them.

Four forms are told apart by their keys:

    {"266240": [[x, y, w, h], ...], ...}                                 ReCLIP's detector dictionary
    [{"image_id": 266240, "box": [x, y, w, h]}, ...]                     ReCLIP's detector list
    [{"image_id": 266240, "bbox": ..., "score": ..., "segmentation": ...}, ...]      COCO results
    {"image_id": "266240", "proposals": [{"bbox": ..., "score": ..., "segmentation": ...}]}     one line per picture

A proposal may give a mask and no box: the box is then the mask's own. See https://github.com/allenai/reclip and
https://cocodataset.org/#format-results.
"""

from __future__ import annotations

import codecs

from bsap.datamodules.fields import Record, identity, json_lines, parse_json, shown
from bsap.datamodules.records import RegionRecord
from bsap.errors import DataError

FORMS = (
    "a dictionary {image_id: [[x, y, w, h], ...]}, a list of {image_id, box}, COCO results (a list of {image_id, bbox, "
    "score, segmentation}), or one JSON line {image_id, proposals} per picture"
)


def read_proposals(data: bytes, name: str) -> dict[str, list[RegionRecord]]:
    """All proposals of a file, by picture.

    Args:
        data: the file's content.
        name: the file's name, for errors.

    Returns:
        Proposals in the file's order. Pictures that the file lists without proposals have an empty list.

    Raises:
        DataError: if the file has none of the four forms, or its dictionary names a picture twice.

    Example:
        >>> found = read_proposals(b'{"7": [[0, 0, 10, 10]], "8": []}', "dets.json")
        >>> {image_id: len(regions) for image_id, regions in found.items()}
        {'7': 1, '8': 0}
    """
    data = data.removeprefix(codecs.BOM_UTF8)  # some editors begin a file with it
    if _is_lines(data):
        return _read_lines(data, name)
    # A picture that a dictionary names twice would lose its first boxes. A list has an object per proposal, too many to
    # look at each.
    content = parse_json(data, name, unique=data.lstrip().startswith(b"{"))
    if isinstance(content, dict):
        return {identity(key, name): _read_boxes(key, boxes, name) for key, boxes in content.items()}
    if isinstance(content, list):
        return _read_list(content, name)
    raise DataError(f"{name}: expected {FORMS}, but got {shown(content)}.")


def region(item: object, where: str) -> RegionRecord:
    """A proposal written as an object: a ``bbox``, a ``segmentation`` or both, and perhaps a ``score``."""
    record = Record(item, where)
    bbox = record.get("bbox")
    segmentation = record.get("segmentation")
    if bbox is None and not segmentation:
        raise DataError(f"{where}: a proposal needs a 'bbox' [x, y, width, height] or a 'segmentation'.")
    return RegionRecord(where=where, bbox=bbox, segmentation=segmentation, score=record.get("score"))


def _is_lines(data: bytes) -> bool:
    """Whether a file begins as one line per picture, of which the first may be broken."""
    lines = data.lstrip().split(b"\n", 2)[:2]
    return not lines[0].startswith(b"[") and any(line.startswith(b"{") and b'"proposals"' in line for line in lines)


def _read_lines(data: bytes, name: str) -> dict[str, list[RegionRecord]]:
    found: dict[str, list[RegionRecord]] = {}
    for _, record in json_lines(data, name):
        image_id = record.identity("image_id" if "image_id" in record else "picture")
        if image_id in found:
            raise DataError(f"{record.where}: the picture {image_id} occurs twice.")
        items = record.items("proposals")
        found[image_id] = [region(item, f"{record.where}, proposal {n}") for n, item in enumerate(items, start=1)]
    return found


def _read_boxes(key: str, boxes: object, name: str) -> list[RegionRecord]:
    if not isinstance(boxes, list):
        raise DataError(f"{name}, picture {shown(key)}: expected {FORMS}, but got {shown(boxes)}.")
    return [RegionRecord(f"{name}, picture {key}, proposal {n}", box) for n, box in enumerate(boxes, start=1)]


def _read_list(items: list[object], name: str) -> dict[str, list[RegionRecord]]:
    found: dict[str, list[RegionRecord]] = {}
    for n, item in enumerate(items, start=1):
        where = f"{name}, record {n}"
        record = Record(item, where)
        if "box" in record:
            proposal = RegionRecord(where, record["box"], score=record.get("score"))
        else:
            proposal = region(item, where)
        found.setdefault(record.identity("image_id"), []).append(proposal)
    return found
