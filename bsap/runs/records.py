"""Predictions as records, and the metrics of records.

A record is one line of ``predictions.jsonl``: one expression with what every scorer chose. It holds all that the
metrics need, and :class:`ScorerMetrics` is fed from records only, whether they come from the model or from a file, so
that recomputing and resuming give the same bits as the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from bsap.datamodules.scene import Expression, Scene
from bsap.errors import DataError
from bsap.metrics import RECAccuracy, RISScores
from bsap.metrics.functional import best_overlap

Task = Literal["rec", "ris"]
Record = dict[str, Any]


def make_record(
    scene: Scene,
    expression: Expression,
    choices: Mapping[str, tuple[int, float]],
    *,
    tasks: Sequence[Task],
    missing_mask: Literal["error", "skip"] = "error",
    ious: Tensor | None = None,
    text_cut: bool = False,
) -> Record:
    """What became of one expression.

    Args:
        scene: the picture.
        expression: one of its expressions.
        choices: for each scorer the chosen region's index and score; ignored when the picture has no proposal.
        tasks: what is measured.
        ious: (R,) IoU of each proposal with the referent, :func:`bsap.runs.overlaps.referent_ious`; needed for REC.
        text_cut: whether a model lost the end of the sentence at its context length.
        missing_mask: what to do for RIS when the referent has no mask; ``skip`` leaves the expression out of RIS.

    Raises:
        DataError: if RIS is asked for and a mask is missing.
    """
    referent = expression.referent
    found = len(scene.proposals) > 0
    segment = "ris" in tasks and bool(len(referent.boxes))
    if segment and not referent.has_mask:
        if missing_mask == "error":
            raise DataError(
                f"{expression.id}: the referent (annotation {', '.join(referent.ann_ids)}) has no mask, but RIS needs "
                "one. Leave such referents out with `--model.missing_mask skip`, or evaluate `--model.tasks '[rec]'`."
            )
        segment = False
    record: Record = {
        "id": expression.id,
        "picture": scene.path.name,
        "image_id": scene.image_id,
        "text": expression.text,
        "n_regions": len(scene.proposals),
        "status": ("ok" if found else "no_proposals") if segment or "ris" not in tasks else "no_mask",
        "referent": {"id": referent.id, "ann_ids": list(referent.ann_ids), "boxes": referent.boxes.tolist()},
        "category": referent.category,
        "text_cut": text_cut,
        "words": len(expression.text.split()),
        "distractors": referent.distractors,
        "scorers": {},
    }
    targets = [mask for mask in referent.masks if mask is not None] if segment else []
    if segment:
        record["referent"]["areas"] = [int(coco_mask.area(mask)) for mask in targets]
    for name, (region, score) in choices.items():
        row: dict[str, Any] = {"region": None, "score": None, "box": None}
        if found:
            row.update(region=region, score=score, box=scene.proposals.boxes[region].tolist())
        if "rec" in tasks and ious is not None:
            row["box_iou"] = float(ious[region]) if found else 0.0
        if segment:
            row["intersection"], row["union"] = best_overlap(_chosen_mask(scene, region) if found else None, targets)
        record["scorers"][name] = row
    return record


def _chosen_mask(scene: Scene, region: int) -> Any:
    if scene.proposals.masks is None:
        raise DataError(
            f"Picture {scene.path.name}: the proposals have boxes only, but RIS chooses a mask. "
            "Give mask proposals (`--data.proposals.path`); or, where only some of them lack a mask, leave those out "
            "with `--data.proposals.masked_only true`; or evaluate `--model.tasks '[rec]'`."
        )
    return scene.proposals.masks[region]


class ScorerMetrics(nn.Module):
    """The metrics of every scorer and task, fed with records.

    Args:
        scorers: names of the scorers.
        tasks: ``rec``, ``ris`` or both.
        strict: for REC, whether a hit needs IoU > 0.5 (ReCLIP's rule) instead of IoU >= 0.5.
        sync: whether ``compute`` joins the counters of all processes; records already merged need no joining.
    """

    def __init__(
        self, scorers: Sequence[str], tasks: Sequence[Task], *, strict: bool = False, sync: bool = True
    ) -> None:
        super().__init__()
        self.scorers = list(scorers)
        self.tasks = list(tasks)
        # Lists, not dictionaries: a scorer's name may hold a full stop, which a module's name may not.
        self.rec = nn.ModuleList(RECAccuracy(strict=strict, sync_on_compute=sync) for _ in scorers if "rec" in tasks)
        self.ris = nn.ModuleList(RISScores(sync_on_compute=sync) for _ in scorers if "ris" in tasks)

    def update(self, records: Sequence[Record]) -> None:
        """Count records."""
        for name, metric in zip(self.scorers, self.rec, strict=False):
            self._count(metric, records, name, ("box_iou",))
        masked = [record for record in records if record["status"] != "no_mask"]
        for name, metric in zip(self.scorers, self.ris, strict=False):
            self._count(metric, masked, name, ("intersection", "union"))

    @staticmethod
    def _count(metric: nn.Module, records: Sequence[Record], scorer: str, fields: tuple[str, ...]) -> None:
        if not records:
            return
        rows = [record["scorers"][scorer] for record in records]
        missing = torch.tensor([row["region"] is None for row in rows])
        dtype = torch.float64 if fields == ("box_iou",) else torch.int64
        values: list[Tensor] = [torch.tensor([row[field] for row in rows], dtype=dtype) for field in fields]
        metric.update(*values, missing=missing)  # type: ignore[operator]

    def compute(self) -> dict[str, dict[str, dict[str, float | int]]]:
        """Values as ``{task: {scorer: {metric: value}}}``, over all processes."""
        results: dict[str, dict[str, dict[str, float | int]]] = {}
        for task, metrics in (("rec", self.rec), ("ris", self.ris)):
            if task in self.tasks:
                results[task] = {
                    name: {key: value.item() for key, value in metric.compute().items()}  # type: ignore[operator]
                    for name, metric in zip(self.scorers, metrics, strict=True)
                }
        return results

    def reset(self) -> None:
        """Forget everything counted."""
        for metric in (*self.rec, *self.ris):
            metric.reset()


def read_records(path: Path) -> list[Record]:
    """Read a file of records; a half-written last line, as a killed process leaves it, is left out.

    Raises:
        DataError: if any other line is not a record; names the file and the line.
    """
    records: list[Record] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            record["id"], record["scorers"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number}: not a prediction record ({error!r}). Remove the line, and "
                "`bsap test` with the same settings computes it again."
            ) from error
        records.append(record)
    return records


def dump_records(records: Iterable[Record]) -> str:
    """Records as JSON lines. Python writes the shortest text that reads back as the very same float64."""
    return "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
