"""The LightningModule: scenes in, choices of every scorer and exact metrics out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule
from torch import nn

from bsap.datamodules.base import scene_data
from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Scene
from bsap.errors import ConfigError, check_names
from bsap.features.ensemble import Encoded, Ensemble
from bsap.features.member import Member
from bsap.features.region_bank import RegionBank, RegionBankConfig, load_region_bank
from bsap.features.transfer import SideStream
from bsap.features.transforms import make_transform
from bsap.models.config import EncoderConfig
from bsap.models.interface import DualEncoder, PairScorer
from bsap.models.load import load_model
from bsap.models.precision import check_precision
from bsap.prompts.banks import Bank, check_learned_bank, load_bank
from bsap.prompts.learned import warn_of_few_prompts, warn_of_other_use
from bsap.prompts.templates import Phrases, Templates
from bsap.relations.reading import RelationReader, asked, parsers_of
from bsap.relations.settings import Relations, relation_settings
from bsap.reports.loggers import LogResults
from bsap.runs.callback import RunCallback
from bsap.runs.choices import Choices
from bsap.runs.make_record import make_records
from bsap.runs.overlaps import check_masks, need_one_answer, warn_if_unreachable
from bsap.runs.processes import local_rank_zero_first
from bsap.runs.schema import Record, Task
from bsap.runs.scorer_metrics import ScorerMetrics
from bsap.runs.settings import RunConfig, plain, some, store_folder
from bsap.scoring import Aggregate, AnswerRule, Scorer, Similarities, make_scorer, scorer_name
from bsap.views import View, make_view

OPENAI = EncoderConfig("ViT-B-32-quickgelu", pretrained="openai")


class BSAPModule(LightningModule):
    """Evaluates CLIP-like models on referring expressions, several scorers at once.

    Every region of a scene is encoded once for each view and encoder and serves all expressions, both tasks and all
    scorers. The encoders run in the Trainer's precision; everything after them runs in float32.

    Args:
        tasks: ``rec`` (pick the box), ``ris`` (pick the mask), or both.
        encoders: CLIP-like models; more than one makes an ensemble: ``NAME``, ``NAME:PRETRAINED``
            (``bsap list models``), settings with ``name``, or loaded models (in Python). By default OpenAI's ViT-B/32.
        views: how a region is shown to the encoders: names (``bsap list views``) or ``class_path`` with ``init_args``.
        resize: how a region becomes the encoder's square: ``squash``, ``longest`` (pads) or ``shortest`` (cuts).
        templates: the sentence around a query and around an auxiliary prompt.
        phrases: whether queries are ensembled with their noun phrases.
        relations: whether relations and superlatives in sentences join the scores, as in ReCLIP's full method: true, or
            settings: ``{parser: en_core_web_sm, between: false, published: false, entities: 9}``.
        bank: the auxiliary prompts: a list of texts, a shipped name (``bsap list banks``), a YAML file, ``captions``,
            ``scene``, ``other_nouns``, ``dropped_words`` or ``learned:PATH``.
        bank_seed: which captions the bank ``captions`` draws.
        region_bank: regions of other pictures, for the scorers and transforms that need them: the split they are drawn
            from, or ``split``, ``size`` and ``seed``; by default none.
        transform: changes features before they are compared: a name (``bsap list transforms``) or ``class_path``.
        scorers: names (``bsap list scorers``) or ``class_path`` with ``init_args``.
        aggregate: where an ensemble is joined: ``before`` the scores (mean of scaled similarities), as their ``sum``,
            as ``max`` (sum over models, largest over views: ReCLIP's), or ``after`` (mean of the members' distributions
            over regions).
        answer: how scores become an answer: ``rule: top``, the best region, or ``rule: threshold``, every region that
            reaches ``value``, which may be none.
        strict: for REC, whether a hit needs IoU > 0.5 (ReCLIP's rule) instead of IoU >= 0.5.
        missing_mask: for RIS, what to do with a referent without a mask: ``error`` or ``skip``.
        compile: compile the image towers with torch.compile, which pays off on long runs only: true, or a mode, where
            ``reduce-overhead`` records CUDA graphs.
        region_batch: how many regions are encoded at once; bounds the memory, and changes last bits only. By
            default 16 on a CPU, 512 on an H100 or H200 and 128 elsewhere.
        run: where the run folder is written; null writes none.
        store: folder of the feature store, which makes another bank or scorer a matter of seconds; ``auto`` keeps it
            beside the runs (``features`` in the runs' root), null keeps none.
        check_pictures: read every picture's bytes to find its stored features. By default the file's size, inode and
            times of change tell whether it is the same picture.

    Raises:
        ConfigError: for unknown names, repeated members and precisions that would change the boxes.

    Source: BSAP, arXiv 2402.18400 (Neurocomputing 671, 132640).
    """

    def __init__(
        self,
        *,
        tasks: Sequence[Task] | Task = ("rec",),
        encoders: Sequence[Any] | str | None = None,
        views: Sequence[str | dict[str, Any]] | str = ("crop", "blur"),
        resize: Literal["squash", "longest", "shortest"] = "squash",
        templates: Templates = Templates(),  # noqa: B008 - frozen
        phrases: Phrases = Phrases(),  # noqa: B008 - frozen
        relations: bool | dict[str, Any] | Relations = False,
        bank: str | Sequence[str] = "coco_categories",
        bank_seed: int = 0,
        region_bank: dict[str, Any] | str | RegionBankConfig | None = None,
        transform: str | dict[str, Any] | None = None,
        scorers: Sequence[str | dict[str, Any]] | str = ("clip", "bsap", "bsap_h"),
        aggregate: Aggregate = "before",
        answer: AnswerRule = AnswerRule(),  # noqa: B008 - frozen
        strict: bool = False,
        missing_mask: Literal["error", "skip"] = "error",
        region_batch: int | None = None,
        compile: bool | str = False,
        run: RunConfig | None = RunConfig(),  # noqa: B008 - frozen
        store: str | None = "auto",
        check_pictures: bool = False,
    ) -> None:
        given = dict(locals())  # a copy: under a debugger the comprehension below would change what it goes through
        # The settings of the models hold `compile`.
        given = {key: value for key, value in given.items() if key not in ("self", "compile", "run", "__class__")}
        super().__init__()
        self.region_bank_config = RegionBankConfig.of(region_bank)
        answer = AnswerRule.of(answer)
        tasks, views, scorers = some("task", tasks), some("view", views), some("scorer", scorers)
        self._given = some("encoder", (OPENAI,) if encoders is None else encoders)
        models = [EncoderConfig.of(item.config if _is_loaded(item) else item) for item in self._given]
        if compile:
            models = [replace(model, compile=compile) for model in models]
        given |= {"tasks": tasks, "encoders": models, "views": views, "scorers": scorers, "answer": answer}
        given |= {"relations": relation_settings(relations) or False, "region_bank": self.region_bank_config}
        self.settings = plain(given)
        self.tasks: list[Task] = tasks
        check_names("task", tasks, ("rec", "ris"))
        check_names("policy for referents without a mask (`missing_mask`)", [missing_mask], ("error", "skip"))
        if not (
            isinstance(templates, Templates) and isinstance(phrases, Phrases) and isinstance(bank, (str, list, tuple))
        ):
            raise ConfigError(
                "`templates` must be a bsap.Templates, `phrases` a bsap.prompts.templates.Phrases and `bank` a text or "
                f"a list of texts, but got {templates!r}, {phrases!r} and {bank!r}."
            )
        self.encoder_configs = models
        self.views: list[View] = [make_view(view) for view in views]
        self.transform = None if transform is None else make_transform(transform)
        self.resize, self.templates, self.aggregate = resize, templates, aggregate
        self.phrases = phrases
        self.relation_settings = relation_settings(relations, several=answer.several)
        self.relations: RelationReader | None = None
        self.bank_spec, self.bank_seed = bank, bank_seed
        self.scorers: dict[str, Scorer] = {scorer_name(spec): make_scorer(spec) for spec in scorers}
        if len(self.scorers) < len(scorers):
            raise ConfigError(f"Two scorers have the same name: {', '.join(scorer_name(spec) for spec in scorers)}.")
        if region_batch is not None and region_batch < 1:
            raise ConfigError(f"`region_batch` must be at least 1, but got {region_batch}.")
        self.missing_mask, self.region_batch, self.answer = missing_mask, region_batch, answer
        self.run = RunConfig(**run) if isinstance(run, Mapping) else run
        self.store, self.check_pictures = store, check_pictures
        self.ensemble: Ensemble | None = None
        self.bank: Bank | None = None
        self.region_bank: RegionBank | None = None
        self.encoders = nn.ModuleList()
        self.metrics = ScorerMetrics(list(self.scorers), self.tasks, strict=strict, sets=answer.several)
        self.results: dict[str, dict[str, dict[str, float | int]]] = {}
        self._side = SideStream(self.device)

    def __repr__(self) -> str:
        models, views = [config.name for config in self.encoder_configs], [view.name for view in self.views]
        return (
            f"BSAPModule(tasks={self.tasks}, encoders={models}, views={views}, bank={self.bank_spec!r}, "
            f"scorers={list(self.scorers)})"
        )

    # --- building ---------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """The run folder's writer and what loggers get, so that plain Python leaves the same as the command line."""
        if self.run is None:
            return []
        callback = RunCallback(self.run)
        callback.watch_start(self.trainer)
        return [callback, LogResults(callback)]

    def configure_model(self) -> None:
        """Load the encoders; called once in every process, on each node first in one of them."""
        if not len(self.encoders):
            self.encoders = nn.ModuleList(local_rank_zero_first(self._trainer, self._load))
        self._connect()

    def _load(self) -> list[DualEncoder | PairScorer]:
        pairs = zip(self._given, self.encoder_configs, strict=True)
        return [item if _is_loaded(item) else load_model(config) for item, config in pairs]

    def _connect(self) -> None:
        """Make the ensemble, for each Trainer again: its precision and its data may be others."""
        trainer = self._trainer
        if self.bank is not None:
            check_learned_bank(self.bank, self.models)
            warn_of_other_use(self.bank, self.settings)
            warn_of_few_prompts(self.bank, self.scorers)
        self.ensemble = Ensemble(
            self.models,
            self.views,
            resize=self.resize,
            templates=self.templates,
            phrases=self.phrases,
            pack=self.region_batch,
            precision="32-true" if trainer is None else str(trainer.precision),
            store=self.store_folder,
            check_pictures=self.check_pictures,
            transform=self.transform,
        )
        if trainer is not None:
            data = scene_data(trainer)
            data.leave_unopened(self.ensemble.is_stored if self.ensemble.cache is not None else None)
            pairs = any(isinstance(model, PairScorer) for model in self.models)
            scenes = asked(data.scenes, self.relations) if pairs else ()
            if (cost := self.ensemble.cost(scenes, self.bank)) and trainer.is_global_zero:
                print(f"bsap: {cost}.", file=sys.stderr)

    @property
    def store_folder(self) -> Path | None:
        """The feature store's folder, or None when none is kept."""
        return store_folder(self.store, self.run)

    @property
    def parsers(self) -> dict[str, dict[str, str]]:
        """Name and version of the spaCy pipelines that parse sentences, by what they do it for."""
        return {name: sentences.pipeline for name, sentences in parsers_of(self.relations, self.bank).items()}

    @property
    def models(self) -> list[DualEncoder | PairScorer]:
        """The loaded models."""
        return [encoder for encoder in self.encoders if isinstance(encoder, (DualEncoder, PairScorer))]

    @property
    def members(self) -> list[Member]:
        """The ensemble: every encoder with every view."""
        return self._connected.members

    @property
    def _connected(self) -> Ensemble:
        assert self.ensemble is not None, "configure_model has not run"
        return self.ensemble

    def setup(self, stage: str) -> None:
        """Check the precision and the masks, load the bank, forget an earlier test."""
        check_precision(str(self.trainer.precision), self.trainer.strategy.root_device)
        data = scene_data(self.trainer)
        if self.relation_settings is not None and self.relations is None:
            self.relations = RelationReader(self.relation_settings, self.store_folder)
        if self.run is None:
            self.metrics.reset()
            data.skip(())
        if stage == "test" and not self.answer.several:
            need_one_answer(e for scene in data.scenes for e in scene.expressions)
        if stage == "test" and "ris" in self.tasks:
            check_masks(data.scenes, self.missing_mask)
        if stage == "test" and "rec" in self.tasks:
            warn_if_unreachable(data.scenes)
        if any(part is not None and part.needs_bank for part in (*self.scorers.values(), self.transform)):
            self.bank = load_bank(self.bank_spec, split_texts=data.texts, seed=self.bank_seed, store=self.store_folder)
        others = ["the answer's threshold"] if self.answer.needs_region_bank else []
        self.region_bank = load_region_bank(data, self.region_bank_config, self.scorers, others, self.transform)

    # --- the forward pass -------------------------------------------------------------------------------------------

    def similarities(self, batch: SceneBatch) -> Similarities:
        """Cosines of all regions with all expressions and all auxiliary prompts.

        Args:
            batch: B scenes.

        Returns:
            Similarities padded over scenes: query (B, N, E, R), bank (B, N, K, R), for N members.
        """
        return self._connected.similarities(batch, self.bank)

    def predict_scenes(self, batch: SceneBatch) -> list[Record]:
        """One record for each expression of a batch, in order: what every scorer chose."""
        to_score = replace(batch, scenes=asked(batch.scenes, self.relations))
        similarities = self.similarities(to_score) if _to_score(batch) else None
        return self._records(to_score.scenes, similarities)

    def _records(self, scenes: Sequence[Scene], similarities: Similarities | None) -> list[Record]:
        options: Any = {"aggregate": self.aggregate, "rule": self.answer, "relations": self.relations}
        all_scores = self.run is not None and self.run.all_scores
        choices = Choices(scenes, self.scorers, similarities, all_scores=all_scores, **options)
        options = {"tasks": self.tasks, "missing_mask": self.missing_mask, "is_cut": self._connected.is_cut}
        understand = None if self.relations is None else self.relations.describe
        records = make_records(choices, understand=understand, **options)
        self._connected.keep()
        return records

    # --- Lightning's steps ------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Encode all texts of all scenes, each once and in one process, and the region bank; fit the transform."""
        if self.ensemble is not None:
            self._side = SideStream(self.device)
            self.ensemble.prepare(asked(scene_data(self.trainer).assigned, self.relations), self.bank)
        self.on_predict_start()

    def on_predict_start(self) -> None:
        """Encode the region bank and fit the transform."""
        if self.ensemble is not None:
            self.ensemble.fit(self.bank, self.region_bank)

    def test_step(self, batch: SceneBatch, batch_idx: int) -> Mapping[str, Any]:
        """Encode a batch; score and count those that are complete, for packs reach over several batches."""
        ensemble = self._connected
        self._side.mark()
        complete = ensemble.complete()
        if _to_score(batch):
            ensemble.submit(replace(batch, scenes=asked(batch.scenes, self.relations)), self.bank)
        if not self._side.exists:  # a GPU works on this batch while the host makes records of earlier ones
            complete += ensemble.complete()
        records = self._count(complete, () if _to_score(batch) else batch.scenes)
        last = self.trainer.test_loop.batch_progress.is_last_batch
        return {"records": [*records, *self.finish()] if last else records}

    def finish(self) -> list[Record]:
        """Count the scenes that wait for their packs, which are filled up; called at the end, also at an early one."""
        self._connected.finish()
        self._side.mark()
        return self._count(self._connected.complete())

    def _count(self, complete: Sequence[Encoded], empty: Sequence[Scene] = ()) -> list[Record]:
        records = self._records(empty, None)
        with self._side.after_mark():
            for encoded in complete:
                records += self._records(encoded[0].scenes, self._connected.joined(encoded, self.bank))
        if records:
            self.metrics.update(records)
        return records

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> list[Record]:
        """Score a batch of one's own pictures, which have no referents to count."""
        return self.predict_scenes(batch)

    def on_test_epoch_end(self) -> None:
        """Join the integer counters of all processes, then divide: every process holds the same value."""
        self.results = self.metrics.compute()
        for task, scorers in self.results.items():
            for scorer, values in scorers.items():
                for name, value in values.items():
                    # Already the same on every rank; Lightning's own averaging over ranks would be wrong.
                    self.log(f"{task}/{scorer}/{name}", float(value), rank_zero_only=True)
        self.metrics.reset()
        self.keep_features()

    def keep_features(self) -> None:
        """Put on disk what the feature store holds in memory; called at the end, however a run ends."""
        if self.ensemble is not None:
            self.ensemble.flush()
        for sentences in parsers_of(self.relations, self.bank).values():
            sentences.flush()


def _to_score(batch: SceneBatch) -> bool:
    return bool(sum(batch.counts)) and any(scene.expressions for scene in batch.scenes)


def _is_loaded(model: Any) -> bool:
    return isinstance(model, (DualEncoder, PairScorer))
