"""The retrieval bias of a finished run, before and after every scorer, from its stored features and records.

"Before" is CLIP's own cosine, pooled over the members of the ensemble. "After" is what a scorer ranks by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bsap.analysis.comparison import read_records
from bsap.analysis.explain import stored_features
from bsap.analysis.measures import (
    modality_gap,
    popularity,
    popularity_share,
    range_variation,
    rank_correlation,
    skewness,
    top_share,
)
from bsap.datamodules.scene import Expression, Scene
from bsap.errors import DataError
from bsap.prompts.banks import Bank, check_learned_bank, load_bank
from bsap.runs.overlaps import referent_ious
from bsap.runs.saved import SavedRun
from bsap.runs.schema import Choice, Record
from bsap.scoring import CLIP, Scorer, Similarities, make_scorer, scorer_name
from bsap.scoring.scorers import Aggregate
from bsap.sweep.sweep import Sweep

Choices = Mapping[str, Mapping[str, Choice]]
"""What each scorer chose, by expression."""
BEFORE = "clip"
"""The scorer that stands for the scores before any correction; it is measured whether the run has it or not."""
TEXTS = 1000
"""Texts of the split that popularity is measured over; of a larger split an even sample."""
SPREAD: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "spread": np.std, "range": np.ptp}
"""What is told of a region's scores over all texts."""


@dataclass(frozen=True)
class Changes:
    """What a scorer makes of some of CLIP's choices: how many these are, how many are right, and wins and losses."""

    choices: int = 0
    right: int = 0
    wins: int = 0
    losses: int = 0


@dataclass(frozen=True)
class ScorerBias:
    """What one scorer makes of the bias. Where answers are sets, its choice is the best region.

    Attributes:
        popularity_share: the mean over pictures of :func:`~bsap.analysis.measures.popularity_share`. That of `clip` is
            the imbalance that a correction should remove.
        range_variation: the mean over pictures of :func:`~bsap.analysis.measures.range_variation`.
        hub_skewness: skewness of how often each region is the best of its picture, over all texts and regions,
            relative to the regions of the picture.
        split_skewness: skewness of how often each region of the whole split is among the ten best of a text. It means
            something for scorers whose scores can be compared between pictures.
        hub_share: share of all texts that choose the most popular tenth of the regions of their picture.
        referent_share: the same for the referents' best regions: what a scorer without errors has.
        chosen_share: the same for the run's own choices for its expressions.
        wrong: share of the expressions that the scorer gets wrong.
        wrong_on_popular: share of those wrong choices that fall on the region that is most popular before correction.
        wrong_by_chance: the share that would, if wrong choices fell evenly on all regions but the referent's.
        correction: rank correlation, over the regions of all pictures, of the popularity before and the mean change
            that the scorer makes: -1 for a scorer that takes most from the most popular.
        popular_changed: what it makes of CLIP's choices of the region that is most popular before correction; all 0 for
            CLIP itself and without it in the run.
        others_changed: the same of CLIP's other choices.
    """

    popularity_share: float
    range_variation: float
    hub_skewness: float
    split_skewness: float
    hub_share: float
    referent_share: float
    chosen_share: float
    wrong: float
    wrong_on_popular: float
    wrong_by_chance: float
    correction: float
    popular_changed: Changes
    others_changed: Changes


@dataclass(frozen=True)
class Bias:
    """The bias of a run.

    Attributes:
        texts: number of texts that popularity is measured over.
        regions: number of regions.
        pictures: number of pictures with at least two regions, the only ones that a bias can change.
        gap: modality gap of each member of the ensemble.
        similarity: for texts of the split and for the bank the mean over regions of the mean, the spread and the range
            of a region's cosines over all of these texts.
        depends: rank correlation of the popularity before correction with the area, the horizontal and vertical
            position of the region, its detection score, and its best IoU with any referent.
        background: mean popularity of regions that meet no referent (IoU below 0.5) less that of the others, in units
            of the standard deviation of popularity; NaN where all do or none does.
        categories: mean popularity of the best regions of the referents of each category, in the same unit.
        scorers: by name.
        by_region: every region with its popularity before correction, its best IoU with any referent, and for the bank
            and for every scorer the mean, the spread and the range of its scores over the texts; `clip` are cosines
            with the texts of the split. ``NAME.best`` counts the texts for which it is the best of its picture.
    """

    texts: int
    regions: int
    pictures: int
    gap: dict[str, float]
    similarity: dict[str, dict[str, float]]
    depends: dict[str, float]
    background: float
    categories: dict[str, float]
    scorers: dict[str, ScorerBias]
    by_region: list[dict[str, str | int | float]]


def measure_bias(
    run: SavedRun, *, texts: int = TEXTS, sweep: Sweep | None = None, records: Sequence[Record] | None = None
) -> Bias:
    """Measure the bias of a finished run from its stored features. No picture is opened and no image encoder runs.

    Popularity is measured over at most so many ``texts`` of the split, spread evenly over it. The run's stored features
    and predictions can be given, if they are read already.

    Raises:
        DataError: if features are not stored, or no picture has two regions.
        ConfigError: if the run kept no features.
    """
    sweep = sweep or stored_features(run)
    model = run.settings["model"]
    bank = load_bank(model["bank"], split_texts=sweep.data.texts, seed=model["bank_seed"])
    check_learned_bank(bank, sweep.models)
    scorers = {BEFORE: CLIP(), **{scorer_name(spec): make_scorer(spec) for spec in model["scorers"]}}
    sweep.fit(scorers, bank)
    choices = {r["id"]: r["scorers"] for r in (read_records(run) if records is None else records)}
    probe = _probe(sweep.data.scenes, texts)
    members = sweep.split.ensemble.members
    rows = [member.queries(probe) for member in members]
    scenes = [
        _measure_scene(scene, similarities, scorers, model["aggregate"])
        for scene, similarities in _similarities(sweep, bank, probe, rows)
        if len(scene.proposals) > 1
    ]
    if not scenes:
        raise DataError(
            f"{run.folder}: no picture has two regions, so that no scorer can prefer one. Nothing to measure."
        )
    gaps = {}
    for number, (member, of_texts) in enumerate(zip(members, rows, strict=True)):
        regions = torch.cat([part.regions[number][part.valid] for part in sweep.split.parts])
        gaps[member.label] = modality_gap(regions.numpy(), of_texts.numpy())
    overlaps = [_overlaps(found.scene) for found in scenes]
    before = np.concatenate([found.popular[BEFORE] for found in scenes])
    return Bias(
        texts=len(probe),
        regions=len(before),
        pictures=len(scenes),
        gap=gaps,
        similarity={name: _spread([found.cosines[name] for found in scenes]) for name in ("split", "bank")},
        depends={name: rank_correlation(before, values) for name, values in _properties(scenes, overlaps).items()},
        background=_background(before, np.concatenate(overlaps) >= 0.5),
        categories=_categories(scenes),
        scorers={name: _scorer_bias(name, scenes, choices, strict=bool(model["strict"])) for name in scorers},
        by_region=[row for found, ious in zip(scenes, overlaps, strict=True) for row in _region_rows(found, ious)],
    )


def _probe(scenes: Sequence[Scene], count: int) -> list[Expression]:
    """Distinct texts, at most ``count``, evenly spread."""
    unique = list({e.text: e for scene in scenes for e in scene.expressions}.values())
    count = min(count, len(unique))
    return [unique[number * len(unique) // count] for number in range(count)]


def _similarities(
    sweep: Sweep, bank: Bank, probe: Sequence[Expression], rows: Sequence[Tensor]
) -> Iterator[tuple[Scene, Similarities]]:
    """Every scene with the cosines of its regions with the probing texts, as if these were its expressions."""
    ensemble = sweep.split.ensemble
    for part in sweep.split.parts:
        for number, scene in enumerate(part.scenes):
            count = len(scene.proposals)
            regions = [flat[number : number + 1, :count] for flat in part.regions]
            query = torch.stack([m.cosines(*x) for m, *x in zip(ensemble.members, rows, regions, strict=True)], dim=1)
            asked = replace(scene, expressions=tuple(probe))
            valid = torch.ones(1, count, dtype=torch.bool)
            yield scene, ensemble.compare([asked], regions, valid, bank, query=query)


@dataclass(frozen=True)
class _SceneBias:
    """What one scene contributes."""

    scene: Scene
    before: np.ndarray
    popular: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    cosines: dict[str, np.ndarray]


def _measure_scene(
    scene: Scene, similarities: Similarities, scorers: Mapping[str, Scorer], aggregate: Aggregate
) -> _SceneBias:
    pairs = (("split", similarities.query), ("bank", similarities.bank))
    cosines = {name: cosine[0].mean(0).flatten(0, -2).numpy() for name, cosine in pairs}
    popular, counts, kept = {}, {}, {}
    for name, scorer in scorers.items():
        scores = cosines["split"] if name == BEFORE else scorer(similarities, aggregate=aggregate).rank[0].numpy()
        popular[name] = popularity(scores)
        deviation = (scores - scores.mean(1, keepdims=True)).std()
        popular[name] = popular[name] / deviation if deviation > 0 else popular[name]
        kept[name] = scores.astype(np.float32)
        counts[name] = np.bincount(scores.argmax(1), minlength=scores.shape[1])
    return _SceneBias(scene, popularity(cosines["split"]), popular, kept, counts, cosines)


def _region_rows(found: _SceneBias, overlaps: np.ndarray) -> Iterator[dict[str, str | int | float]]:
    tables = {"bank": found.cosines["bank"], **found.scores}
    columns: dict[str, np.ndarray] = {"popularity": found.before, "referent_iou": overlaps}
    for name, table in tables.items():
        if table.size:
            columns |= {f"{name}.{what}": measure(table, axis=0) for what, measure in SPREAD.items()}
    columns |= {f"{name}.best": counts for name, counts in found.counts.items()}
    for region in range(len(overlaps)):
        own = {name: column[region].item() for name, column in columns.items()}
        yield {"image_id": found.scene.image_id, "region": region, **own}


def _scorer_bias(name: str, scenes: Sequence[_SceneBias], choices: Choices, *, strict: bool) -> ScorerBias:
    counts = [found.counts[name] for found in scenes]
    relative = np.concatenate([values / values.mean() for values in counts])
    wrong = on_popular = by_chance = total = 0.0
    chosen, meant = [], []
    changed = np.zeros((2, 4), int)
    for found in scenes:
        size = len(found.before)
        most = int(found.before.argmax())
        picks, truth = np.zeros(size), np.zeros(size)
        for expression, ious in _referents(found.scene):
            truth[int(ious.argmax())] += 1
            of_clip, region = (_region(choices, expression, scorer) for scorer in (BEFORE, name))
            if region is None:
                continue
            picks[region] += 1
            total += 1
            right = ious > 0.5 if strict else ious >= 0.5
            if of_clip is not None and name != BEFORE:
                was, now = bool(right[of_clip]), bool(right[region])
                changed[int(of_clip != most)] += [1, was, now and not was, was and not now]
            if not right[region]:
                wrong += 1
                on_popular += region == most
                others = int((~right).sum())
                by_chance += (not right[most]) / others
        chosen.append(picks)
        meant.append(truth)
    before = np.concatenate([found.popular[BEFORE] for found in scenes])
    after = np.concatenate([found.popular[name] for found in scenes])
    return ScorerBias(
        popularity_share=_mean([popularity_share(found.scores[name]) for found in scenes]),
        range_variation=_mean([range_variation(found.scores[name]) for found in scenes]),
        hub_skewness=skewness(relative),
        split_skewness=skewness(_occurrences(np.concatenate([found.scores[name] for found in scenes], axis=1))),
        hub_share=_mean_top(counts),
        referent_share=_mean_top(meant),
        chosen_share=_mean_top(chosen),
        wrong=wrong / total if total else float("nan"),
        wrong_on_popular=on_popular / wrong if wrong else float("nan"),
        wrong_by_chance=by_chance / wrong if wrong else float("nan"),
        correction=rank_correlation(before, after - before),
        popular_changed=Changes(*changed[0].tolist()),
        others_changed=Changes(*changed[1].tolist()),
    )


def _region(choices: Choices, expression: Expression, scorer: str) -> int | None:
    choice = choices.get(expression.id, {}).get(scorer)
    return None if choice is None else choice["region"]


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are known."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _occurrences(scores: np.ndarray, k: int = 10) -> np.ndarray:
    """How often each region is among the k best of a text, from (T, R) scores."""
    k = min(k, scores.shape[1])
    best = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    return np.bincount(best.ravel(), minlength=scores.shape[1])


def _mean_top(counts: Sequence[np.ndarray]) -> float:
    """The share of the most popular tenth, weighted by the texts of each scene."""
    totals = [float(values.sum()) for values in counts]
    shares = [top_share(values) * total for values, total in zip(counts, totals, strict=True) if total]
    return sum(shares) / sum(totals) if sum(totals) else float("nan")


def _spread(tables: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean over regions of the mean, spread and range of their cosines over texts."""
    if not tables[0].size:
        return dict.fromkeys(SPREAD, float("nan"))
    return {
        what: float(np.concatenate([measure(table, axis=0) for table in tables]).mean())
        for what, measure in SPREAD.items()
    }


def _referents(scene: Scene) -> Iterator[tuple[Expression, np.ndarray]]:
    """The expressions of a scene whose referent is known, with the IoU of each region."""
    ious = referent_ious(scene)
    for expression in scene.expressions:
        if id(expression.referent) in ious:
            yield expression, ious[id(expression.referent)].numpy()


def _overlaps(scene: Scene) -> np.ndarray:
    """(R,) best IoU of each region with any referent."""
    found = [ious for _, ious in _referents(scene)]
    return np.max(found, axis=0) if found else np.zeros(len(scene.proposals))


def _properties(scenes: Sequence[_SceneBias], overlaps: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    boxes = np.concatenate(
        [found.scene.proposals.boxes / np.tile([found.scene.width, found.scene.height], 2) for found in scenes]
    )
    properties = {
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        "right": boxes[:, ::2].mean(1),
        "down": boxes[:, 1::2].mean(1),
        "overlap with a referent": np.concatenate(overlaps),
    }
    scores = [found.scene.proposals.scores for found in scenes]
    if all(values is not None for values in scores):
        properties["detection score"] = np.concatenate([values for values in scores if values is not None])
    return properties


def _background(values: np.ndarray, objects: np.ndarray) -> float:
    if objects.all() or not objects.any() or not values.std():
        return float("nan")
    return float((values[~objects].mean() - values[objects].mean()) / values.std())


def _categories(scenes: Sequence[_SceneBias]) -> dict[str, float]:
    """Mean popularity of the referents' best regions, by category, in units of its standard deviation."""
    spread = float(np.concatenate([found.popular[BEFORE] for found in scenes]).std()) or 1.0
    groups: dict[str, list[float]] = {}
    for found in scenes:
        for expression, ious in {id(e.referent): (e, ious) for e, ious in _referents(found.scene)}.values():
            value = found.popular[BEFORE][int(ious.argmax())] / spread
            groups.setdefault(expression.referent.category or "unknown", []).append(float(value))
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}
