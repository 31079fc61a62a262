"""Recipes of ``bsap reproduce``: runs with the numbers that a paper printed for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from bsap.datamodules.fields import from_mapping
from bsap.datamodules.files import parse_yaml, read_bytes
from bsap.datamodules.refer import refs_files
from bsap.errors import ConfigError, unknown


@dataclass(frozen=True, kw_only=True)
class Need:
    """What must be there before a recipe runs.

    Attributes:
        get: the dataset, as ``bsap data get`` calls it; None for files that the user must bring.
        splits: its splits.
        files: files below the root.
        how: how to make files that cannot be downloaded.
    """

    get: str | None = None
    splits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    how: str | None = None

    def missing(self, root: Path) -> str | None:
        """What to do about it, if something is not there."""
        splits = f" --splits {' '.join(self.splits)}" if self.splits else ""
        lost = next((file for file in self.files if not (root / file).exists()), None)
        if lost is None and (self.get is None or self.files or any(name == self.get for name, _ in refs_files(root))):
            return None
        if self.get is not None:
            return f"bsap data get {self.get} --root {root}{splits}"
        return f"{root / (lost or '')}: {self.how or 'bring this file'}"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Runs of one kind, one for each split and seed.

    Attributes:
        name: of the kind.
        splits: ``dataset/split_by/split`` of each; empty leaves the data to the settings.
        seeds: which drawings of the captions to run.
        settings: as in a configuration file; they win over the recipe's.
        published: per cent, by scorer, ``task/metric`` and split (or ``all`` without splits). ``task/metric over clip``
            is the gain over another scorer.
        tolerance: how many points a number may differ.
        note: why the published numbers are of something else; then there is no verdict.
    """

    name: str
    splits: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    tolerance: float = 0.0
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe; ``configs/recipes`` holds the shipped ones.

    Attributes:
        about: what it reproduces.
        source: where the numbers were printed.
        runs: the runs.
        needs: what must be there.
        drawn: whether it runs on the embedded drawn world.
        protocols: shipped configurations that come first.
        settings: of all runs.
    """

    about: str
    source: str
    runs: tuple[RunPlan, ...]
    needs: tuple[Need, ...] = ()
    drawn: bool = False
    protocols: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run of a recipe: its folder's name, its kind, ``dataset/split_by/split`` or ``all``, and its settings."""

    name: str
    plan: RunPlan
    split: str
    settings: dict[str, Any]


def shipped_recipes() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in (files("bsap.configs") / "recipes").iterdir())


def read_recipe(name: str) -> Recipe:
    """A shipped recipe, or the one in a YAML file.

    Raises:
        ConfigError: for an unknown name or a recipe with unknown keys.
        DataError: for a file that is missing or not YAML.
    """
    if name.endswith((".yaml", ".yml")):
        content = parse_yaml(read_bytes(name, what="recipe", fix="Name a recipe or a YAML file."), name)
    elif name in shipped_recipes():
        content = parse_yaml((files("bsap.configs") / "recipes" / f"{name}.yaml").read_bytes(), name)
    else:
        raise unknown("recipe", name, shipped_recipes())
    parts = {"runs": RunPlan, "needs": Need}
    given = dict(content) if isinstance(content, dict) else content
    for key, kind in parts.items():
        if isinstance(given, dict) and isinstance(given.get(key), list):
            given[key] = tuple(from_mapping(kind, item, f"{name}, {key}") for item in given[key])
    recipe = from_mapping(Recipe, given, name)
    if not recipe.runs:
        raise ConfigError(f"{name}: a recipe needs `runs`.")
    return recipe


def plan_runs(recipe: Recipe) -> list[Run]:
    """All runs of a recipe, in order.

    Example:
        >>> [run.name for run in plan_runs(read_recipe("red_circle"))][:2]
        ['red_circle-refcoco-unc-val-0', 'red_circle-refcoco-unc-val-1']
    """
    runs = []
    for plan in recipe.runs:
        base = merged(recipe.settings, plan.settings)
        for split in plan.splits or ("all",):
            for seed in plan.seeds or (None,):
                name, settings = plan.name, base
                if split != "all":
                    dataset, split_by, part = split.split("/")
                    settings = merged(settings, {"data": {"dataset": dataset, "split_by": split_by, "split": part}})
                    name += f"-{split.replace('/', '-')}"
                if seed is not None:
                    settings = merged(settings, {"model": {"bank_seed": seed}})
                    name += f"-{seed}"
                runs.append(Run(name, plan, split, settings))
    return runs


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two configurations as one; the second wins, mappings are joined key by key."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


@dataclass(frozen=True)
class Cell:
    """One number of a paper beside ours, as ``table.json`` holds it.

    Attributes:
        run: the kind of run and its split.
        scorer: the scorer.
        metric: ``task/metric``.
        published: per cent.
        ours: per cent, one for each seed.
        verdict: ``same``, ``differs``, or why there is none.
        difference: ours minus the published number, in points; the smallest over the seeds.
    """

    run: str
    scorer: str
    metric: str
    published: float
    ours: tuple[float, ...]
    verdict: str
    difference: float


def compare(runs: Sequence[Run], results: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """The published numbers of finished runs beside ours.

    Args:
        runs: the runs.
        results: ``results.json`` of each run, by its name.

    Raises:
        ConfigError: for a scorer or metric that the runs do not have.
    """
    cells = []
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((id(run.plan), run.split), []).append(run)
    for (_, split), same in groups.items():
        plan = same[0].plan
        for scorer, metrics in plan.published.items():
            for metric, by_split in metrics.items():
                if split in by_split:
                    ours = tuple(_value(results[run.name], scorer, metric, run.name) for run in same)
                    difference = min((value - by_split[split] for value in ours), key=abs)
                    verdict = plan.note or ("same" if abs(difference) <= plan.tolerance + 1e-9 else "differs")
                    where = f"{plan.name} {split}"
                    cells.append(Cell(where, scorer, metric, by_split[split], ours, verdict, difference))
    return cells


def _value(results: Mapping[str, Any], scorer: str, metric: str, run: str) -> float:
    metric, _, base = metric.partition(" over ")
    if base:
        return _value(results, scorer, metric, run) - _value(results, base, metric, run)
    task, _, name = metric.partition("/")
    try:
        return 100 * float(results["metrics"][task][scorer][name])
    except KeyError as error:
        raise ConfigError(f"The run {run} has no {metric} of the scorer {scorer}: {error} is not there.") from None
