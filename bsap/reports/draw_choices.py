"""Pictures of a finished run with what every scorer chose; without torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from bsap.datamodules.picture_files import read_picture
from bsap.reports.scene_picture import contact_sheet, draw_scene
from bsap.reports.shown_run import ShownRun, answer_of, key_of
from bsap.runs.schema import Record


def draw_choices(run: ShownRun, record: Record, *, title: str | None = None, width: int = 480) -> Image.Image:
    """The scene, its proposals, the referent and every choice with its score; the title is the text by default."""
    scene, _ = run.scene(record)
    choices: dict[str, list[int]] = {}
    hits: dict[str, bool] = {}
    for name, row in record["scorers"].items():
        label = scored(name, row)
        choices[label] = answer_of(row)
        if (hit := run.hit(record, name)) is not None:
            hits[label] = hit
    return draw_scene(
        Image.fromarray(read_picture(scene.path, scene.width, scene.height, scene.size_tolerance)),
        boxes=scene.proposals.boxes,
        referent=record["referent"]["boxes"] if "match" in record["referent"] else record["referent"]["boxes"] or None,
        choices=choices,
        hits=hits,
        title=title or record["text"],
        width=width,
    )


def draw_sheet(run: ShownRun, records: Sequence[Record], *, columns: int = 3) -> Image.Image:
    """A contact sheet of scenes; each title begins with the expression's key."""
    return contact_sheet(
        [draw_choices(run, record, title=f"[{key_of(record['id'])}] {record['text']}") for record in records], columns
    )


def scored(name: str, row: Mapping[str, Any]) -> str:
    """A scorer with its score."""
    return name if row["score"] is None else f"{name} {row['score']:.3g}"
