"""What every scorer makes of a batch of scenes, on the host: choices, answers, and the values that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from bsap.datamodules.scene import Scene
from bsap.features.transfer import HostCopy
from bsap.relations.reading import AllSteps, RelationReader, join_all, sentences_of
from bsap.runs.schema import Choice
from bsap.scoring import AnswerRule, Scorer, Scores, Similarities, answer_values, answered
from bsap.scoring.answers import WITHOUT_REGION_BANK, Over
from bsap.scoring.scorers import Aggregate


class Chosen(NamedTuple):
    """What one scorer makes of one expression.

    Attributes:
        choice: for its record, without what depends on the boxes and the referent.
        answer: the regions of the answer, the best first, where it may be none or several.
    """

    choice: Choice
    answer: list[int] | None


class Choices:
    """The choices of all scorers in a batch. The device computes them while the host goes on, to :meth:`rows`.

    There are no similarities where no scene has a region or an expression. ``relations`` joins the scores of sentences
    with those of their entities, which scenes and similarities then hold, too; not with answers of several regions.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        scorers: Mapping[str, Scorer],
        similarities: Similarities | None,
        *,
        aggregate: Aggregate,
        rule: AnswerRule,
        all_scores: bool = False,
        relations: RelationReader | None = None,
    ) -> None:
        self.scenes = scenes if relations is None else sentences_of(scenes)
        self._scorers, self._rule, self._all_scores, self._relations = list(scorers), rule, all_scores, relations
        self._copies: dict[str, HostCopy] = {}
        if similarities is None:
            return
        overs: list[Over] = [rule.over] if rule.several else []
        if rule.several and all_scores:
            known = similarities.region_bank is not None
            overs = [over for over in get_args(Over) if known or over in WITHOUT_REGION_BANK]
        with torch.autocast(similarities.query.device.type, enabled=False):
            scores = [scorer(similarities, aggregate=aggregate) for scorer in scorers.values()]
            if relations is None:
                self._copies = {name: HostCopy(part) for name, part in self._parts(scores).items()}
            else:  # the scores of parts are joined on the host
                every = [torch.stack([score.rank.float(), score.value.float()]) for score in scores]
                self._copies["every"] = HostCopy(torch.stack(every))
            for over in overs:
                pairs = zip(scorers.values(), scores, strict=True)
                found = [answer_values(over, *pair, similarities, aggregate=aggregate) for pair in pairs]
                self._copies[f"over {over}"] = HostCopy(torch.stack(found).float())

    def _parts(self, scores: Sequence[Scores]) -> dict[str, Tensor]:
        """What is needed of the scores of all scorers, each in one tensor: one transfer for all."""
        parts = {"picked": torch.stack([torch.stack(_picked(score)) for score in scores])}
        if self._all_scores:
            parts["shown"] = torch.stack([score.value.float() for score in scores])
        if self._rule.several:
            parts["rank"] = torch.stack([score.rank.float() for score in scores])
        return parts

    def rows(self) -> list[list[dict[str, Chosen]]]:
        """For each scene and expression, the choice of each scorer."""
        rule, all_scores = self._rule, self._all_scores
        if not self._copies:
            none: Choice = {"region": None, "score": None, "box": None}
            if all_scores:
                none["scores"] = []
            answer: list[int] | None = [] if rule.several else None
            return [
                [{name: Chosen(none.copy(), answer) for name in self._scorers} for _ in scene.expressions]
                for scene in self.scenes
            ]
        host = {name: copy.wait() for name, copy in self._copies.items()}
        steps: AllSteps = {}
        if self._relations is not None:
            every = {name: Scores(*both) for name, both in zip(self._scorers, host.pop("every"), strict=True)}
            joined, steps = join_all(self._relations, self.scenes, every)
            host |= self._parts(joined)
        picked, shown, rank = host["picked"], host.get("shown"), host.get("rank")
        values = {name.removeprefix("over "): rows for name, rows in host.items() if name.startswith("over ")}
        batch: list[list[dict[str, Chosen]]] = []
        for b, scene in enumerate(self.scenes):
            size, boxes = len(scene.proposals), torch.from_numpy(scene.proposals.boxes)
            rows: list[dict[str, Chosen]] = [{} for _ in scene.expressions]
            for s, name in enumerate(self._scorers):
                part = (s, b, slice(len(rows)), slice(size))
                answers = None if rank is None else answered(values[rule.over][part], rank[part], boxes, rule)
                for e, row in enumerate(rows):
                    place = (s, b, e, slice(size))
                    choice: Choice = {"region": None, "score": None, "box": None}
                    if size:
                        choice["region"], choice["score"] = int(picked[s, 0, b, e]), float(picked[s, 1, b, e])
                    if shown is not None:
                        choice["scores"] = shown[place].tolist()
                    if (joined_by := steps.get((b, e), {}).get(name)) is not None:
                        choice["steps"] = list(joined_by)
                    if answers is not None and all_scores:  # `p` is among the scores
                        choice["values"] = {over: of[place].tolist() for over, of in values.items() if over != "p"}
                    row[name] = Chosen(choice, None if answers is None else answers[e])
            batch.append(rows)
        return batch


def _picked(scores: Scores) -> tuple[Tensor, Tensor]:
    """(..., E) choices and their values; both mean nothing for a picture without regions."""
    choice = scores.choice
    value = scores.value.gather(-1, choice.clamp(min=0)[..., None])[..., 0]
    return choice.float(), value.float()
