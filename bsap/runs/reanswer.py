"""Other answers from the scores that a run recorded of all regions: no model, no pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bsap.datamodules.scene import Expression, Scene
from bsap.errors import DataError
from bsap.runs.answered import add_answer
from bsap.runs.schema import Choice, Record, Task
from bsap.scoring import AnswerRule, answered


def reanswered(
    records: Sequence[Record],
    scene_of: Callable[[Record], tuple[Scene, Expression]],
    rule: AnswerRule,
    tasks: Sequence[Task],
) -> list[Record]:
    """Records of a run with the answers of another rule.

    Raises:
        DataError: a threshold over something that the run did not record, which takes ``run.all_scores``.
    """
    found = []
    for record in records:
        scene, expression = scene_of(record)
        boxes = torch.from_numpy(scene.proposals.boxes)
        measured = [task for task in tasks if task == "rec" or record["status"] != "no_mask"]
        new = copy.copy(record)
        new["scorers"] = {}
        for name, row in record["scorers"].items():
            regions: list[int] = []
            if row["region"] is not None:
                rank, values = _recorded(row, rule, f"{record['id']}, scorer {name}")
                (regions,) = answered(values[None], rank[None], boxes, rule)
            new["scorers"][name] = changed = copy.copy(row)
            add_answer(changed, scene, expression.referent, regions, tasks=measured)
        found.append(new)
    return found


def _recorded(row: Choice, rule: AnswerRule, where: str) -> tuple[Tensor, Tensor]:
    """What a choice was ranked by, as far as it was recorded, and what a threshold is compared with."""
    scores = torch.tensor(row.get("scores", [0.0] * (1 + (row["region"] or 0))))
    values = scores if rule.over == "p" or not rule.several else row.get("values", {}).get(rule.over)
    if values is None or (rule.several and "scores" not in row):
        sets = "" if rule.over == "p" else " and `--model.answer.rule threshold`"
        bank = " and a region bank" if rule.needs_region_bank else ""
        raise DataError(
            f"{where}: the run did not record {rule.over!r} of all regions, which the threshold is set over. Run "
            f"`bsap test` again with `--run.all_scores true`{sets}{bank}."
        )
    rank = torch.tensor(row.get("values", {}).get("score", scores.tolist()))
    rank[row["region"]] = torch.inf  # the recorded best region is the best, also where scores are equal
    return rank, torch.as_tensor(values)
