"""A split's features from the store, scored as often as one likes: no picture is opened, no image encoder loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from bsap.datamodules.scene import RLE, Scene
from bsap.errors import DataError
from bsap.features.cache import masks_bytes
from bsap.features.ensemble import Ensemble
from bsap.features.regions import pad
from bsap.features.store import make_key
from bsap.metrics.functional import best_overlap, mask_overlap_matrix, rec_accuracy, ris_scores
from bsap.prompts.banks import Bank
from bsap.relations.reading import RelationReader
from bsap.runs.overlaps import need_one_answer, referent_ious
from bsap.runs.recompute import as_numbers
from bsap.runs.schema import Metrics, Task
from bsap.scoring import Scorer, Similarities
from bsap.scoring.scorers import Aggregate

CHUNK = 128
"""Scenes that are scored at once; of similar numbers of regions, so that little is padding."""


@dataclass(frozen=True)
class _Part:
    """Scenes that are scored at once."""

    scenes: list[Scene]
    asked: Sequence[Scene]
    regions: list[Tensor]
    query: Tensor | None
    valid: Tensor
    real: Tensor
    iou: Tensor
    overlap: Tensor
    scored: Tensor


class StoredSplit:
    """A split whose region features are all in the store of an ensemble.

    Where expressions may mean nothing or several objects (``sets``), :meth:`evaluate` has no meaning, and
    :mod:`bsap.sweep.thresholds` measures. ``relations`` joins the scores of sentences with those of their entities.

    Raises:
        DataError: if features are missing, or an expression means nothing or a set; says what to do.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        ensemble: Ensemble,
        tasks: Sequence[Task],
        *,
        sets: bool = False,
        relations: RelationReader | None = None,
    ) -> None:
        self.ensemble, self.tasks, self.sets, self.relations = ensemble, list(tasks), sets, relations
        if not sets:
            need_one_answer(expression for scene in scenes for expression in scene.expressions)
        ordered = sorted((scene for scene in scenes if scene.expressions), key=lambda scene: len(scene.proposals))
        nothing = [torch.zeros(0, member.encoder.dim) for member in ensemble.members]
        missing: list[str] = []
        self.parts = []
        for start in range(0, len(ordered), CHUNK):
            part = ordered[start : start + CHUNK]
            found = [ensemble.stored_regions(scene) if len(scene.proposals) else nothing for scene in part]
            missing += [scene.path.name for scene, rows in zip(part, found, strict=True) if rows is None]
            if not missing:
                self.parts.append(self._part(part, [rows for rows in found if rows is not None]))
        if missing:
            raise DataError(
                f"The features of {len(missing)} of {len(ordered)} pictures are not stored, first "
                f"{', '.join(missing[:3])}. Make them with `bsap test` on the same data, models, views and "
                "precision; a finished run needs `--run.overwrite true` for it, and encodes what is missing only."
            )

    def _part(self, scenes: list[Scene], found: list[list[Tensor]]) -> _Part:
        counts = [len(scene.proposals) for scene in scenes]
        padded = [pad(torch.cat(flat), counts) for flat in zip(*found, strict=True)]
        regions, valid = [rows for rows, _ in padded], padded[0][1]
        shape = (len(scenes), max(len(scene.expressions) for scene in scenes), max(1, *counts))
        real = torch.zeros(shape[:2], dtype=torch.bool)
        scored = torch.zeros(shape[:2], dtype=torch.bool)
        iou = torch.zeros(shape, dtype=torch.float64)
        overlap = torch.zeros(2, *(shape if "ris" in self.tasks else (0, 0, 0)), dtype=torch.int64)
        for i, scene in enumerate(scenes):
            real[i, : len(scene.expressions)] = True
            if self.sets:
                continue
            # Expressions share referents: each table is made once per referent.
            ious = referent_ious(scene)
            pairs: dict[int, Tensor] = {}
            for j, expression in enumerate(scene.expressions):
                referent = expression.referent
                iou[i, j, : counts[i]] = ious[id(referent)]
                if "ris" in self.tasks and referent.has_mask:
                    if id(referent) not in pairs:
                        pairs[id(referent)] = self._overlaps(
                            scene, [mask for mask in referent.masks if mask is not None]
                        )
                    scored[i, j] = True
                    overlap[:, i, j, : max(counts[i], 1)] = pairs[id(referent)]
        asked = scenes if self.relations is None else self.relations.asked(scenes)
        # A transform is fitted later, and for each bank again.
        query = None if self.ensemble.transform is not None else self.ensemble.queries(asked, regions)
        return _Part(scenes, asked, regions, query, valid, real, iou, overlap, scored)

    def _overlaps(self, scene: Scene, targets: list[RLE]) -> Tensor:
        """(2, R) intersection and union of each proposal with the referent's best mask; kept in the store.

        Without proposals (2, 1): no pixel, and the referent's area.
        """
        masks = scene.proposals.masks
        if len(scene.proposals) and masks is None:
            raise DataError(f"Picture {scene.path.name}: RIS needs mask proposals, but these have boxes only.")
        assert self.ensemble.cache is not None
        store, digest = self.ensemble.cache.store, sha256()
        for mask in (*(masks or ()), *targets):
            digest.update(masks_bytes(mask))
        key = make_key(overlap=digest.hexdigest(), targets=len(targets))
        found = store.get(key)
        if found is None:
            if masks and len(targets) == 1:
                found = torch.stack(mask_overlap_matrix(masks, targets))[..., 0]
            else:
                found = torch.tensor([best_overlap(mask, targets) for mask in masks or (None,)]).T
            store.put(key, found)
        return found

    def similarities(self, bank: Bank | None) -> Iterator[tuple[_Part, Similarities]]:
        """The split's similarities, part by part; those of the sentences' entities follow those of the sentences."""
        for part in self.parts:
            yield part, self.ensemble.compare(part.asked, part.regions, part.valid, bank, query=part.query)

    def evaluate(
        self, scorers: dict[str, Scorer], bank: Bank | None, *, aggregate: Aggregate = "before", strict: bool = False
    ) -> Metrics:
        """The metrics of scorers with one bank, as ``{task: {scorer: {metric: value}}}``."""
        chosen: dict[str, list[Tensor]] = {name: [] for name in scorers}
        for part, similarities in self.similarities(bank):
            for name, scorer in scorers.items():
                scores = scorer(similarities, aggregate=aggregate)
                if self.relations is not None:
                    scores, _ = self.relations.join(part.scenes, scores)
                chosen[name].append(scores.choice.clamp(min=0))
        found: Metrics = {task: {} for task in self.tasks}
        absent = torch.cat([(~part.valid.any(-1, keepdim=True)).expand_as(part.real)[part.real] for part in self.parts])
        scored = torch.cat([part.scored[part.real] for part in self.parts])
        for name, choices in chosen.items():
            pairs = list(zip(self.parts, choices, strict=True))
            if "rec" in self.tasks:
                iou = torch.cat([_at(part.iou, choice)[part.real] for part, choice in pairs])
                found["rec"][name] = as_numbers(rec_accuracy(iou, absent, strict=strict))
            if "ris" in self.tasks:
                pixels = [_at(part.overlap, choice)[:, part.real] for part, choice in pairs]
                intersection, union = torch.cat(pixels, dim=1)[:, scored]
                found["ris"][name] = as_numbers(ris_scores(intersection, union, absent[scored]))
        return found


def _at(table: Tensor, choice: Tensor) -> Tensor:
    """(..., E) what a table (..., E, R) holds of the chosen regions (B, E)."""
    return table.gather(-1, choice.expand(table.shape[:-1])[..., None])[..., 0]
