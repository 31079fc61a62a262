"""The expressions of the report's gallery: which are shown, and what the browser needs to draw them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bsap.datamodules.picture_files import scene_picture
from bsap.datamodules.scene import Scene
from bsap.errors import DataError
from bsap.reports.shown_run import ShownRun, spread
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
    first, *others = list(run.records[0]["scorers"]) if run.records else [""]
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
        where a picture is missing or did not fit), ``scorers``, and how many pictures were left out by their size.
    """
    main = next(iter(runs.values()))
    reasons = chosen_records(main, count)
    records = {name: {record["id"]: record for record in run.records} for name, run in runs.items()}
    pictures: dict[str, dict[str, Any]] = {}
    items, left_out, problem = [], 0, ""
    for id, reason in reasons.items():
        record = records[next(iter(runs))][id]
        scene = None
        try:
            scene, _ = main.scene(record)
        except DataError as error:
            problem = problem or str(error)
        if record["image_id"] not in pictures:
            entry = _picture(record, scene)
            size = len(entry["data"] or "")
            if size > room:
                entry["data"], left_out = None, left_out + 1
            else:
                room -= size
            pictures[record["image_id"]] = entry
        items.append(
            {
                "id": id,
                "text": record["text"],
                "category": record["category"] or "unknown",
                "words": record["words"],
                "picture": record["image_id"],
                "reason": reason,
                "referent": [list(map(float, box)) for box in record["referent"]["boxes"]],
                "choices": [
                    {"scorer": label, "hit": run.hit(other[id], name), **_choice(other[id], name)}
                    for label, run, other, name in _columns(runs, records)
                    if id in other
                ],
            }
        )
    labels = [label for label, *_ in _columns(runs, records)]
    return {"items": items, "pictures": pictures, "scorers": labels, "left_out": left_out, "problem": problem}


def _columns(
    runs: Mapping[str, ShownRun], records: Mapping[str, Mapping[str, Record]]
) -> Iterator[tuple[str, ShownRun, Mapping[str, Record], str]]:
    """Every scorer of every run: its label, run, records and name."""
    for run_name, run in runs.items():
        for scorer in run.records[0]["scorers"] if run.records else ():
            yield (scorer if len(runs) == 1 else f"{run_name}: {scorer}"), run, records[run_name], scorer


def _choice(record: Record, scorer: str) -> dict[str, Any]:
    row = record["scorers"][scorer]
    iou = row.get("box_iou")
    if iou is None and "union" in row:
        iou = row["intersection"] / row["union"]
    return {"region": row["region"], "box": row["box"], "score": row["score"], "iou": iou}


def _picture(record: Record, scene: Scene | None) -> dict[str, Any]:
    """A thumbnail with the size of the original and its proposals."""
    entry: dict[str, Any] = {"name": record["picture"], "width": 0, "height": 0, "boxes": [], "data": None}
    if scene is None:
        return entry
    entry |= {"width": scene.width, "height": scene.height, "boxes": scene.proposals.boxes.tolist()}
    try:
        pixels = scene_picture(scene)
    except DataError:
        return entry
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    image.thumbnail((LONGEST, LONGEST))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=75)
    entry["data"] = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return entry


def hit_table(run: ShownRun, scorer: str) -> tuple[Sequence[Record], np.ndarray]:
    """The records whose outcome is known, and whether the scorer is right: (N,) bool."""
    known = [record for record in run.records if run.hit(record, scorer) is not None]
    return known, np.array([bool(run.hit(record, scorer)) for record in known], bool)
