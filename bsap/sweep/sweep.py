"""Many scorers, banks, temperatures and mixtures over a run's stored features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bsap.datamodules import RefCOCODataModule
from bsap.datamodules.records import SplitRecords
from bsap.errors import ConfigError, DataError
from bsap.features.ensemble import Ensemble
from bsap.features.region_bank import RegionBank, RegionBankConfig, load_region_bank
from bsap.features.stored_model import StoredModel
from bsap.features.transforms import make_transform
from bsap.prompts.banks import Bank, check_learned_bank, load_bank
from bsap.prompts.learned import warn_of_few_prompts, warn_of_other_use
from bsap.prompts.templates import Phrases, Templates
from bsap.relations.reading import RelationReader
from bsap.relations.settings import relation_settings
from bsap.runs.saved import SavedRun
from bsap.runs.settings import plain
from bsap.scoring import SCORERS, Scorer, make_scorer, scorer_name
from bsap.scoring.registry import ScorerSpec
from bsap.sweep.stored_split import StoredSplit
from bsap.views import make_view


@dataclass(frozen=True)
class Row:
    """One setting and its metrics."""

    scorer: str  # its unique name
    spec: Any  # what a configuration says for the scorer
    bank: str | None  # None for a scorer without one
    transductive: bool  # whether the bank holds expressions, or the region bank regions, of the split itself
    aggregate: str  # how the ensemble was joined
    metrics: dict[str, float | int]  # by `task/metric`


def scorer_grid(
    scorers: Sequence[ScorerSpec], *, taus: Sequence[float] = (), lams: Sequence[float] = ()
) -> dict[str, Scorer]:
    """Scorers, named or as in a configuration, with each temperature and each weight of the hybrid that they know.

    These come besides the model's own temperature and the ready-made weight of BSAP in BSAP-H.

    Returns:
        Scorers by their unique names; a setting that a scorer does not know makes no second row.

    Raises:
        ConfigError: for a temperature or a weight out of range.

    Example:
        >>> list(scorer_grid(["clip", "bsap", "bsap_h"], taus=[50.0], lams=[0.7]))
        ['clip', 'bsap', 'bsap(tau=50.0)', 'bsap_h', 'bsap_h(lam=0.7)', 'bsap_h(tau=50.0)', 'bsap_h(tau=50.0,lam=0.7)']
    """
    found: dict[str, Scorer] = {}
    for spec in scorers:
        name, base = scorer_name(spec), make_scorer(spec)
        known = {field.name for field in dataclasses.fields(base) if field.init}
        tau_choices: list[dict[str, float]] = [{}, *({"tau": tau} for tau in taus if "tau" in base.temperatures)]
        lam_choices: list[dict[str, float]] = [{}, *({"lam": lam} for lam in lams if "lam" in known)]
        for tau, lam in product(tau_choices, lam_choices):
            try:
                scorer = dataclasses.replace(base, **tau, **lam)
            except ValueError as error:
                raise ConfigError(f"Scorer {name}: {error}") from error
            found.setdefault(name if not tau and not lam else scorer_name(scorer), scorer)
    return found


class Sweep:
    """Evaluates settings over the features that a run has left in the store.

    Args:
        run: a finished run: its data, models, views and templates are swept over.
        split: a split other than the run's own; its features must be stored too.
        sets: whether answers are sets, see :mod:`bsap.sweep.thresholds`; by default each is one region.
        relations: whether relations join scores where they do in the run; otherwise sentences are scored as they are.

    Raises:
        DataError: if features are missing; says how to make them.
        ConfigError: if the other split is the run's own under another name.
    """

    def __init__(self, run: SavedRun, *, split: str | None = None, sets: bool = False, relations: bool = True) -> None:
        results = run.finished()
        self.settings = run.settings
        model = run.settings["model"]
        wanted = relation_settings(model.get("relations", False), several=sets) if relations else None
        data = dict(run.settings["data"])
        own = data.get("split", "val")
        self.data = RefCOCODataModule(**data | {"split": split or own})
        self.data.setup("test")
        if split not in (None, own) and _said(self.data.read(own)) == _said(self.data.read(self.data.split)):
            raise ConfigError(
                f"{data['annotations']} does not tell splits apart: {own} and {split} are the same expressions. "
                f"Run `bsap test` on the file of {split}, and sweep that run."
            )
        described = zip(results["models"], model["encoders"], strict=True)
        self.models = [StoredModel.of(description, config) for description, config in described]
        store = _store_folder(run)
        ensemble = Ensemble(
            self.models,
            [make_view(view) for view in model["views"]],
            resize=model["resize"],
            templates=Templates(**model["templates"]),
            phrases=Phrases(**model.get("phrases", {})),
            pack=results["timing"]["attempts"][-1].get("pack"),
            precision=results["precision"]["effective"],
            store=store,
            transform=None if model.get("transform") is None else make_transform(model["transform"]),
        )
        self.relations = None if wanted is None else RelationReader(wanted, store)
        self.split = StoredSplit(self.data.scenes, ensemble, model["tasks"], sets=sets, relations=self.relations)
        self._region_bank = RegionBankConfig.of(model.get("region_bank"))

    def fit(self, scorers: Mapping[str, Scorer], bank: Bank, others: Sequence[str] = ()) -> RegionBank | None:
        """Take what scorers, the transform and others need besides the bank from the store: the region bank, if any.

        Raises:
            ConfigError: something needs a region bank, and the run had none.
            DataError: its features are not stored.
        """
        ensemble = self.split.ensemble
        region_bank = load_region_bank(self.data, self._region_bank, scorers, others, ensemble.transform)
        ensemble.fit(bank, region_bank)
        return region_bank

    def rows(
        self, scorers: Mapping[str, Scorer], banks: Sequence[str], aggregates: Sequence[str], *, bank_seed: int = 0
    ) -> Iterator[Row]:
        """Evaluate all settings; a scorer without a bank is evaluated once."""
        strict = bool(self.settings["model"]["strict"])
        transform = self.split.ensemble.transform
        always = transform is not None and transform.needs_bank  # then every scorer depends on the bank
        for aggregate in aggregates:
            for number, name in enumerate(banks):
                bank = self.bank(name, scorers, seed=bank_seed)
                todo = {key: scorer for key, scorer in scorers.items() if scorer.needs_bank or always or not number}
                region_bank = self.fit(todo, bank)
                found = self.split.evaluate(todo, bank, aggregate=aggregate, strict=strict)  # type: ignore[arg-type]
                for key, scorer in todo.items():
                    metrics = {f"{task}/{k}": v for task, rows in found.items() for k, v in rows[key].items()}
                    used = name if scorer.needs_bank or always else None
                    learnt = scorer.needs_region_bank or (transform is not None and transform.needs_region_bank)
                    seen = bool(learnt and region_bank is not None and region_bank.transductive)
                    seen |= used is not None and bank.transductive
                    yield Row(key, scorer_spec(scorer, key), used, seen, aggregate, metrics)
        self.split.ensemble.flush()
        if self.relations is not None:
            self.relations.sentences.flush()

    def bank(self, name: str, scorers: Mapping[str, Scorer], *, seed: int = 0) -> Bank:
        """A bank of auxiliary prompts, checked against the run's models."""
        store = self.split.ensemble.cache.store.folder if self.split.ensemble.cache else None
        bank = load_bank(name, split_texts=self.data.texts, seed=seed, store=store)
        check_learned_bank(bank, self.models)
        warn_of_other_use(bank, {**self.settings["model"], "scorers": list(scorers.values())})
        warn_of_few_prompts(bank, scorers)
        return bank

    def config(self, row: Row, *, split: str | None = None) -> dict[str, Any]:
        """The configuration that evaluates a row with ``bsap test``."""
        config = {key: dict(value) if isinstance(value, dict) else value for key, value in self.settings.items()}
        config["model"] |= {"scorers": [row.spec], "aggregate": row.aggregate}
        if row.bank is not None:
            config["model"]["bank"] = row.bank
        if split is not None:
            config["data"]["split"] = split
        return config


def scorer_spec(scorer: Scorer, name: str) -> Any:
    """What a configuration says for a scorer."""
    if name in SCORERS:
        return name
    fields = {f.name: plain(getattr(scorer, f.name)) for f in dataclasses.fields(scorer) if f.init}
    changed = {key: value for key, value in fields.items() if value != getattr(type(scorer)(), key)}
    kind = type(scorer)
    own = kind.__module__.startswith("bsap.scoring.")
    return {"class_path": kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}", "init_args": changed}


def _store_folder(run: SavedRun) -> Path:
    store = run.settings["model"].get("store")
    if store is None:
        raise ConfigError(
            f"{run.folder} kept no features: run it again with `--model.store auto --run.overwrite true`."
        )
    folder = run.folder.resolve().parent / "features" if store == "auto" else Path(store)
    if not folder.is_dir():
        raise DataError(
            f"{folder}, where {run.folder} kept its features, is not there. Make them with `bsap test -c "
            f"{run.folder / 'config.yaml'} --run.overwrite true`."
        )
    return folder


def _said(records: SplitRecords) -> list[tuple[str, str, str]]:
    """What makes two splits the same, whatever they are called."""
    return [(e.referent.image_id, e.referent.id, e.text) for e in records.expressions]
