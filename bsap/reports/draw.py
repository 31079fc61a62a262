"""Pictures of a finished run: what every scorer chose, and what the model saw of it, drawn again without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from bsap.datamodules.picture_files import scene_picture
from bsap.datamodules.scene import Expression, Scene
from bsap.metrics.functional import best_overlap
from bsap.reports.draw_choices import draw_choices, scored
from bsap.reports.lettering import Mark
from bsap.reports.panels import OVERLAP, PanelRow, overlap, panel
from bsap.reports.scene_picture import REFERENT, choice_colour
from bsap.reports.shown_run import ShownRun, answer_of
from bsap.runs.overlaps import referent_ious
from bsap.runs.schema import Record
from bsap.views import VIEWS, View, make_view

_INSIDE = {
    "global_local": (
        ("tokens outside the line are faded", VIEWS["contour"]),
        ("and its crop", VIEWS["masked_crop"]),
    )
}
"""Views that look into the encoder, by kind: drawn by what comes closest."""


@dataclass(frozen=True)
class SeenView:
    """One way in which a run's models saw regions: ``size`` (h, w) and mean colour (``fill``, 0..255) of the input."""

    label: str
    view: View
    size: tuple[int, int]
    fill: tuple[float, float, float]
    interpolation: str


def looks_of(run: ShownRun) -> list[SeenView]:
    """Every encoder with every view; encoders of one size and preprocessing saw the same."""
    seen: dict[tuple[Any, ...], str] = {}
    for model in run.results["models"]:
        seen.setdefault((tuple(model["size"]), tuple(model["mean"]), model["interpolation"]), model["label"])
    views = [
        (": ".join(filter(None, (view.name, part))), drawn)
        for view in map(make_view, run.model["views"])
        for part, drawn in _INSIDE.get(view.kind, (("", view),))
    ]
    return [
        SeenView(name if len(seen) == 1 else f"{name}, {label}", view, size, (255 * r, 255 * g, 255 * b), interpolation)
        for (size, (r, g, b), interpolation), label in seen.items()
        for name, view in views
    ]


def draw_expression(run: ShownRun, record: Record) -> Image.Image:
    """The scene beside the views that the model saw of the chosen regions and of the referent's best proposal.

    For segmentation a last column shows where the region's mask and the referent's agree.
    """
    scene, expression = run.scene(record)
    picture = scene_picture(scene)
    marks: dict[int, list[Mark]] = {}
    for n, (name, row) in enumerate(record["scorers"].items()):
        for region in answer_of(row):
            marks.setdefault(region, []).append((scored(name, row), choice_colour(n)))
    masks = scene.proposals.masks if expression.referent.has_mask and "ris" in run.tasks else None
    overlaps = _overlaps(scene, expression, by_mask="rec" not in run.tasks and masks is not None)
    if overlaps:
        marks.setdefault(overlaps.index(max(overlaps)), []).append(("best proposal", REFERENT))

    looks = looks_of(run)
    seen = [_seen(run, look, scene, picture, list(marks)) for look in looks] if marks else []
    rows = []
    for place, (region, notes) in enumerate(marks.items()):
        title, images = f"region {region}", [images[place] for images in seen]
        if overlaps and "rec" in run.tasks:
            title += f"   IoU {overlaps[region]:.2f}"
        if masks is not None:
            meant = [mask for mask in expression.referent.masks if mask is not None]
            part, whole = best_overlap(masks[region], meant)
            title += f"   mask I/U {part / whole:.2f}"
            dense = [coco_mask.decode(mask).astype(bool) for mask in (masks[region], *meant)]
            images.append(overlap(_image(picture), dense[0], dense[1:]))
        rows.append(PanelRow(title, notes, images))
    columns = [look.label for look in looks] + (["mask"] if masks is not None else [])
    legend = list(OVERLAP.items()) if masks is not None and rows else []
    return panel(
        draw_choices(run, record, width=560),
        columns=columns if rows else [],
        rows=rows,
        notes=notes_of(run, record, looks),
        legend=legend,
    )


def _seen(run: ShownRun, look: SeenView, scene: Scene, picture: Tensor, regions: Sequence[int]) -> list[Image.Image]:
    masks = scene.proposals.masks
    pixels = look.view.render(
        picture,
        torch.from_numpy(scene.proposals.boxes[list(regions)]),
        look.size,
        masks=None if masks is None else [masks[region] for region in regions],
        resize=run.model["resize"],
        interpolation=look.interpolation,
        fill=look.fill,
    )
    return [_image(image) for image in pixels]


def _overlaps(scene: Scene, expression: Expression, *, by_mask: bool) -> list[float]:
    """How well each proposal meets the referent; empty without either."""
    proposals, referent = scene.proposals, expression.referent
    if not len(proposals) or not len(referent.boxes):
        return []
    if by_mask and proposals.masks is not None:
        meant = [mask for mask in referent.masks if mask is not None]
        return [part / whole for part, whole in (best_overlap(mask, meant) for mask in proposals.masks)]
    return [float(iou) for iou in referent_ious(scene)[id(referent)]]


def notes_of(run: ShownRun, record: Record, looks: Sequence[SeenView]) -> list[str]:
    """The small print below a panel: what was evaluated, and the texts as the model read them."""
    query = run.model["templates"]["query"]
    queries = dict.fromkeys((look.view.template or query).format(record["text"]) for look in looks)
    info = run.results["protocol"]["bank"]
    bank = info["name"] if info else "none"
    phrases = (run.model.get("phrases") or {}).get("weight")
    cut = " (cut at the context length)" if record.get("text_cut") else ""
    return [
        f"{record['id']}   {record['picture']}   {record['n_regions']} proposals   bank: {bank}",
        "text as encoded: " + " | ".join(queries) + cut + (f", and its noun phrase by {phrases:g}" if phrases else ""),
        *_relation_notes(record),
    ]


def _relation_notes(record: Record) -> list[str]:
    """What was understood of a sentence, and the region that each scorer chose as its parts joined."""
    if "relations" not in record:
        return []
    understood = record["relations"]
    if not understood["steps"]:
        return [f"relations: none used ({understood['status'].replace('_', ' ')})"]
    lines = ["relations: " + " > ".join(understood["steps"])]
    for name, choice in record["scorers"].items():
        steps = ("left out" if region is None else str(region) for region in choice.get("steps", ()))
        lines.append(f"region by {name}: " + " > ".join(steps))
    return lines


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
