"""The expressions of the report's gallery: which are shown, and what the browser needs to draw them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from bsap.datamodules.picture_files import read_picture
from bsap.datamodules.scene import RLE, Expression, Scene
from bsap.errors import DataError
from bsap.reports.shown_run import ShownRun, answer_of, boxes_of, by_label, overlap_of, spread
from bsap.runs.schema import Record

LONGEST = 480
"""Pixels of the longer side of a thumbnail."""


def chosen_records(run: ShownRun, count: int) -> dict[str, str]:
    """The expressions to show with the reason: where scorers differ, where a scorer loses against the first, others.

    Args:
        run: the run.
        count: how many at most; about half of them where scorers differ, a quarter losses.

    Returns:
        Reasons by expression id, in annotation order.
    """
    first, *others = run.scorers
    losses = [r for r in run.records if run.hit(r, first) and any(run.hit(r, name) is False for name in others)]
    reasons = {r["id"]: "random" for r in spread(run.records, count)}
    reasons |= {r["id"]: "scorers differ" for r in spread(run.select(disagree=True), count // 2)}
    reasons |= {r["id"]: f"{first} is right, another is not" for r in spread(losses, count // 4)}
    keep = sorted(reasons, key=lambda name: reasons[name] == "random")[:count]
    return {r["id"]: reasons[r["id"]] for r in run.records if r["id"] in set(keep)}


def gallery(runs: Mapping[str, ShownRun], count: int, room: int) -> dict[str, Any]:
    """What the page's script draws.

    Args:
        runs: runs by name; the first one decides which expressions are shown.
        count: expressions at most.
        room: bytes that the pictures may take.

    Returns:
        ``items`` (expressions with the choices of every run's scorers), ``pictures`` (by image id; ``data`` is null
        where a picture is missing or did not fit), ``scorers``, how many pictures were ``left_out`` by their size, and
        the first ``problem`` with the data. Masks are the strings of COCO's compressed run lengths.
    """
    main = next(iter(runs))
    records = {name: {record["id"]: record for record in run.records} for name, run in runs.items()}
    labels = by_label({name: run.scorers for name, run in runs.items()})
    pictures: dict[str, dict[str, Any]] = {}
    items, left_out, problem = [], 0, ""
    for id, reason in chosen_records(runs[main], count).items():
        record = records[main][id]
        found: dict[str, tuple[Scene, Expression]] = {}
        for name, run in runs.items():
            try:
                if id in records[name]:
                    found[name] = run.scene(records[name][id])
            except DataError as error:
                problem = problem or str(error)
        scene, expression = found.get(main, (None, None))
        if record["image_id"] not in pictures:
            entry = _picture(record, scene, masks="ris" in runs[main].tasks)
            size = len(entry["data"] or "") + sum(map(len, entry["masks"]))
            if size > room:
                entry["data"], entry["masks"], left_out = None, [], left_out + 1
            else:
                room -= size
            pictures[record["image_id"]] = entry
        masks = () if expression is None or "ris" not in runs[main].tasks else expression.referent.masks
        items.append(
            {
                "id": id,
                "text": record["text"],
                "category": record["category"] or "unknown",
                "words": record["words"],
                "picture": record["image_id"],
                "reason": reason,
                "nothing": record["referent"].get("match") == "all" and not record["referent"]["boxes"],
                "referent": [list(map(float, box)) for box in record["referent"]["boxes"]],
                "referent_masks": [_text(mask) for mask in masks if mask is not None],
                "choices": [
                    {"scorer": label, **_choice(runs[name], records[name][id], scorer, found.get(name), scene)}
                    for label, (name, scorer) in labels.items()
                    if id in records[name]
                ],
            }
        )
    return {"items": items, "pictures": pictures, "scorers": list(labels), "left_out": left_out, "problem": problem}


def _choice(
    run: ShownRun, record: Record, scorer: str, found: tuple[Scene, Expression] | None, main: Scene | None
) -> dict[str, Any]:
    """A scorer's choice; with the scores of all regions, if they are recorded and the regions are those of the page."""
    row = record["scorers"][scorer]
    answer = answer_of(row)
    masks = found[0].proposals.masks if found is not None and "ris" in run.tasks else None
    own = found is not None and main is not None and np.array_equal(found[0].proposals.boxes, main.proposals.boxes)
    return {
        "hit": run.hit(record, scorer),
        "regions": answer,
        "boxes": boxes_of(row),
        "score": row["score"],
        "iou": overlap_of(row),
        "masks": [] if masks is None else [_text(masks[region]) for region in answer],
        "own": own,
        "scores": [float(f"{score:.3g}") for score in row["scores"]] if own and "scores" in row else None,
    }


def _picture(record: Record, scene: Scene | None, *, masks: bool) -> dict[str, Any]:
    """A thumbnail with the size of the original, its proposals and their masks."""
    entry: dict[str, Any] = {"name": record["picture"], "width": 0, "height": 0, "boxes": [], "masks": [], "data": None}
    if scene is None:
        return entry
    entry |= {"width": scene.width, "height": scene.height, "boxes": scene.proposals.boxes.tolist()}
    if masks and scene.proposals.masks is not None:
        entry["masks"] = list(map(_text, scene.proposals.masks))
    try:
        image = Image.fromarray(read_picture(scene.path, scene.width, scene.height, scene.size_tolerance))
    except DataError:
        return entry
    image.thumbnail((LONGEST, LONGEST))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=75)
    entry["data"] = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return entry


def _text(mask: RLE) -> str:
    return mask["counts"].decode()
