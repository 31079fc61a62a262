"""Files of proposals in the forms that detectors and other projects write.

The forms are recognised by their keys:

    {"266240": [[x, y, w, h], ...], ...}                                 ReCLIP's detector dictionary
    [{"image_id": 266240, "box": [x, y, w, h]}, ...]                     ReCLIP's and MAttNet's lists
    [{"image_id": 266240, "bbox": ..., "score": ..., "segmentation": ...}, ...]      COCO results
    {"images": [...], "annotations": [{"image_id": 266240, "bbox": ...}, ...]}       a COCO dataset
    {"dets": [{"image_id": 266240, "box": ...}, ...]}                    MAttNet's detections: a list under one key
    {"image_id": "266240", "proposals": [{"bbox": ..., "score": ..., "segmentation": ...}]}     one line per picture
    {"image": {"file_name": ...}, "annotations": [{"bbox": ..., "segmentation": ...}]}   SAM's form of one picture

A folder holds one JSON file for each picture, named as the picture: a list of proposals, or SAM's form of one picture,
as Segment Anything's automatic mask generator and SA-1B have them.

``box`` means the same as ``bbox``, ``rle`` as ``segmentation``, ``predicted_iou`` as ``score``. A proposal may have a
mask and no box: the box is then the mask's bounding box. See https://github.com/allenai/reclip,
https://github.com/lichengunc/MAttNet, https://github.com/facebookresearch/segment-anything and
https://cocodataset.org/#format-results.
"""

from __future__ import annotations

from collections.abc import Iterable

from bsap.datamodules.fields import Record, identity, shown
from bsap.datamodules.files import as_utf8, json_records, parse_json
from bsap.datamodules.records import RegionRecord
from bsap.errors import DataError

FORMS = (
    "a dictionary {image_id: [[x, y, w, h], ...]}, a list of {image_id, box}, COCO results (a list of {image_id, bbox, "
    "score, segmentation}), a COCO dataset {images, annotations}, MAttNet's {dets: [...]}, or one JSON line {image_id, "
    "proposals} per picture"
)
_LISTS = ("annotations", "dets", "detections", "masks", "predictions", "proposals", "results")
"""Keys under which a list of proposals of all pictures may stand."""


def read_proposals(data: bytes, name: str) -> dict[str, list[RegionRecord]]:
    """All proposals of a file, by picture.

    Returns:
        Proposals in the file's order. Pictures that the file lists without proposals have an empty list.

    Raises:
        DataError: if the file has none of the forms, or names a picture twice.

    Example:
        >>> found = read_proposals(b'{"7": [[0, 0, 10, 10]], "8": []}', "dets.json")
        >>> {image_id: len(regions) for image_id, regions in found.items()}
        {'7': 1, '8': 0}
    """
    data = as_utf8(data, name)
    if _is_lines(data):
        return _read_lines(json_records(data, name))
    # A picture that a dictionary names twice would lose its first boxes. A list has an object per proposal, too many to
    # look at each.
    content = parse_json(data, name, unique=data.lstrip().startswith(b"{"))
    if isinstance(content, dict):
        return _read_dictionary(content, name)
    if isinstance(content, list):
        if content and isinstance(content[0], dict) and isinstance(content[0].get("proposals"), list):
            return _read_lines(json_records(data, name))
        return _read_list(content, name)
    raise DataError(f"{name}: expected {FORMS}, but got {shown(content)}.")


def region(item: object, where: str) -> RegionRecord:
    """A proposal written as an object: a box, a mask or both, and perhaps a ``score``."""
    record = Record(item, where)
    bbox, segmentation = _either(record, ("bbox", "box")), _either(record, ("segmentation", "rle"))
    if bbox is None and not segmentation:
        raise DataError(f"{where}: a proposal needs a 'bbox' [x, y, width, height] or a 'segmentation'.")
    return RegionRecord(
        where=where, bbox=bbox, segmentation=segmentation, score=_either(record, ("score", "predicted_iou"))
    )


def _either(record: Record, keys: tuple[str, str]) -> object:
    given = [record.get(key) for key in keys if record.get(key) is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise DataError(f"{record.where}: {keys[0]!r} and {keys[1]!r} differ, but mean the same. Keep one of them.")
    return given[0] if given else None


def _is_lines(data: bytes) -> bool:
    """Whether a file begins as one line per picture, of which the first may be broken."""
    lines = data.lstrip().split(b"\n", 2)[:2]
    return not lines[0].startswith(b"[") and any(line.startswith(b"{") and b'"proposals"' in line for line in lines)


def _read_lines(records: Iterable[tuple[int, Record]]) -> dict[str, list[RegionRecord]]:
    found: dict[str, list[RegionRecord]] = {}
    for _, record in records:
        image_id = record.identity("image_id" if "image_id" in record else "picture")
        if image_id in found:
            raise _twice(record.where, image_id)
        found[image_id] = _read_items(record.items("proposals"), record.where)
    return found


def _twice(where: str, image_id: str) -> DataError:
    return DataError(f"{where}: the picture {image_id} occurs twice. Merge what its entries hold.")


def read_picture_file(data: bytes, name: str) -> list[RegionRecord]:
    """The proposals of one picture, from a file that holds nothing else: a list of them, or SAM's form."""
    content = parse_json(data, name)
    if isinstance(content, dict):
        content = Record(content, name).items("annotations")
    if not isinstance(content, list):
        raise DataError(f"{name}: expected a list of proposals of one picture, but got {shown(content)}.")
    return _read_items(content, name)


def _read_dictionary(content: dict[str, object], name: str) -> dict[str, list[RegionRecord]]:
    record = Record(content, name)
    if isinstance(content.get("image"), dict):  # SAM's form of one picture
        image = Record(content["image"], f"{name}, 'image'")
        image_id = image.identity("file_name" if "file_name" in image else "image_id")
        return {image_id: _read_items(record.items("annotations"), name)}
    known = [key for key in _LISTS if isinstance(content.get(key), list)]
    if known and ("images" in content or all(isinstance(item, dict) for item in record.items(known[0]))):
        images = record.items("images") if "images" in content else []
        listed: dict[str, list[RegionRecord]] = {}
        for n, item in enumerate(images, start=1):
            image_id = Record(item, where := f"{name}, image {n}").identity("id")
            if image_id in listed:
                raise _twice(where, image_id)
            listed[image_id] = []
        return listed | _read_list(record.items(known[0]), name)
    found = {}
    for key, items in content.items():
        image_id = identity(key, name)
        where = f"{name}, picture {image_id}"
        if not isinstance(items, list):
            raise DataError(f"{where}: expected {FORMS}, but got {shown(items)}.")
        found[image_id] = _read_items(items, where)
    return found


def _read_items(items: list[object], where: str) -> list[RegionRecord]:
    places = (f"{where}, proposal {n}" for n in range(1, len(items) + 1))
    return [
        region(item, place) if isinstance(item, dict) else RegionRecord(place, item)
        for item, place in zip(items, places, strict=True)
    ]


def _read_list(items: list[object], name: str) -> dict[str, list[RegionRecord]]:
    found: dict[str, list[RegionRecord]] = {}
    for n, item in enumerate(items, start=1):
        proposal = region(item, f"{name}, record {n}")
        found.setdefault(Record(item, proposal.where).identity("image_id"), []).append(proposal)
    return found
