"""The LightningModule that learns prompts; another learner overrides one hook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from bsap.errors import BSAPError, ConfigError, DataError
from bsap.features.ensemble import Ensemble
from bsap.learning.batch import LearningBatch
from bsap.learning.checks import check_number, finite
from bsap.learning.context import FrozenTower, LearnedPrompts, PromptConfig, initial_prompts
from bsap.learning.examples import Material, RegionSource
from bsap.learning.learner import FrozenTexts, Learner, PromptBank
from bsap.learning.loss import multi_positive_loss
from bsap.learning.pseudo_scenes import TextConfig
from bsap.learning.shell import store_command
from bsap.metrics import RECAccuracy
from bsap.models.encoder import Encoder, EncoderConfig
from bsap.models.precision import check_precision
from bsap.module import OPENAI
from bsap.prompts.templates import Templates
from bsap.runs.processes import local_rank_zero_first
from bsap.runs.results import versions
from bsap.runs.settings import RunConfig, plain
from bsap.scoring import Similarities
from bsap.views import View, make_view

MONITOR = "val/acc@0.5"


class PromptLearner(LightningModule):
    """Learns auxiliary prompts for a frozen CLIP-like model, from region features or from text alone.

    Only context vectors (and on request tau and lam) train. They pass through the frozen text tower, so that the
    learned prompts stay texts of a kind. Checkpoints hold nothing of the model.

    Args:
        encoders: the model, a list of one. The default is OpenAI's ViT-B/32.
        views: as for ``bsap test``.
        resize: as for ``bsap test``.
        templates: the query's; the bank's serves prompts that start from a bank.
        scorer: whose regions' distribution is trained: ``bsap``, ``bsap_h``, or ``class_path`` with ``init_args``.
        aggregate: as for ``bsap test``, ``before`` or ``sum``.
        prompts: number, length and start of the prompts.
        learn_tau: learn the bank's temperature, too.
        learn_lam: learn the weight of BSAP in BSAP-H, too.
        features: ``stored`` opens no picture; ``pictures`` encodes, once, what the store does not have.
        text: settings of learning from text alone, with ``data.text_only`` or ``data.text_file``.
        lr: peak learning rate of AdamW, followed by a cosine to 0.
        weight_decay: of the context vectors.
        patience: epochs without a better validation accuracy after which training stops.
        strict: whether a hit in validation needs IoU > 0.5.
        run: where the run folder is written; null writes none.
        store: as for ``bsap test``.

    Raises:
        ConfigError: for settings that contradict each other.

    Source: context vectors, CoOp (arXiv 2109.01134); text alone, TLDR (arXiv 2311.18291); BSAP, arXiv 2402.18400.
    """

    learner: Learner

    def __init__(
        self,
        *,
        encoders: Sequence[EncoderConfig] | None = None,
        views: Sequence[str | dict[str, Any]] = ("crop", "blur"),
        resize: Literal["squash", "longest", "shortest"] = "squash",
        templates: Templates = Templates(),  # noqa: B008 - frozen
        scorer: str | dict[str, Any] = "bsap",
        aggregate: Literal["before", "sum"] = "before",
        prompts: PromptConfig = PromptConfig(),  # noqa: B008 - frozen
        learn_tau: bool = False,
        learn_lam: bool = False,
        features: Literal["stored", "pictures"] = "stored",
        text: TextConfig = TextConfig(),  # noqa: B008 - frozen
        lr: float = 0.01,
        weight_decay: float = 0.0,
        patience: int = 10,
        strict: bool = False,
        run: RunConfig | None = RunConfig(),  # noqa: B008 - frozen
        store: str | None = "auto",
    ) -> None:
        super().__init__()
        configs = [EncoderConfig.of(config) for config in ((OPENAI,) if encoders is None else encoders)]
        if len(configs) != 1:
            raise ConfigError(f"Prompts are learned for one model at a time, but `encoders` lists {len(configs)}.")
        check_number("model.lr", lr, above=True)
        for name, value in (("weight_decay", weight_decay), ("patience", patience)):
            check_number(f"model.{name}", value)
        self.settings = plain(
            {
                "encoders": configs,
                "views": views,
                "resize": resize,
                "templates": templates,
                "scorer": scorer,
                "aggregate": aggregate,
                "prompts": prompts,
                "learn_tau": learn_tau,
                "learn_lam": learn_lam,
                "features": features,
                "text": text,
                "lr": lr,
                "weight_decay": weight_decay,
                "patience": patience,
                "strict": strict,
                "store": store,
            }
        )
        self.config, self.resize, self.templates, self.aggregate = configs[0], resize, templates, aggregate
        self.views: list[View] = [make_view(view) for view in views]
        self.scorer_spec, self.prompt_config, self.text_config = scorer, prompts, text
        self.learn_tau, self.learn_lam = learn_tau, learn_lam
        self.feature_source = features
        self.lr, self.weight_decay, self.patience = lr, weight_decay, patience
        self.run = RunConfig(**run) if isinstance(run, Mapping) else run
        self.store = store
        self.accuracy = RECAccuracy(strict=strict)
        # In a list, which makes no submodule: the frozen model is neither trained, nor saved, nor wrapped.
        self._frozen: list[Encoder] = []
        self.ensemble: Ensemble | None = None
        self.material: Material | None = None
        self._problem: BSAPError | None = None

    # --- the hook ---------------------------------------------------------------------------------------------------

    def configure_learner(self, texts: FrozenTexts) -> Learner:
        """What learns. Override this for another learner: its parameters train, its features are compared."""
        tower = texts.tower
        context = initial_prompts(self.prompt_config, tower, self.templates)
        prompts = LearnedPrompts(tower, context)
        return PromptBank(texts, self.scorer_spec, prompts, learn_tau=self.learn_tau, learn_lam=self.learn_lam)

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def encoder(self) -> Encoder:
        """The frozen model."""
        return self._frozen[0]

    @property
    def store_folder(self) -> Path | None:
        """The feature store's folder, or None when none is kept."""
        if self.store == "auto":
            return None if self.run is None else Path(self.run.root) / "features"
        return None if self.store is None else Path(self.store)

    def configure_callbacks(self) -> list[Callback]:
        """Early stopping and the best checkpoint; the run folder's writer."""
        from bsap.learning.run_folder import LearningFolder, checkpoints

        callbacks: list[Callback] = [EarlyStopping(MONITOR, mode="max", patience=self.patience)]
        return callbacks if self.run is None else [*callbacks, LearningFolder(self.run), *checkpoints(MONITOR)]

    def configure_model(self) -> None:
        """Load the frozen model once in every process, and the features of what each run of the trainer looks at."""
        trainer = self._trainer
        precision = "32-true" if trainer is None else str(trainer.precision)
        check_precision(precision)
        known = bool(self._frozen)
        if not known:
            self._load(precision)
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            self._read(data)
        if self.feature_source == "stored":
            self.encoder.model.visual = None  # all that is left to do is text
        if not known:
            self.learner = self.configure_learner(self._frozen_texts()).to(self.device)
        assert self.ensemble is not None
        self.ensemble.flush()

    def _load(self, precision: str) -> None:
        encoder = local_rank_zero_first(self._trainer, lambda: Encoder(self.config))
        self._frozen = [encoder.to(self.device)]
        self.ensemble = Ensemble(
            [encoder],
            self.views,
            resize=self.resize,
            templates=self.templates,
            precision=precision,
            store=self.store_folder,
        )
        self.material = Material(self.ensemble)

    def _frozen_texts(self) -> FrozenTexts:
        assert self.ensemble is not None
        members = self.ensemble.members
        return FrozenTexts(
            tower=FrozenTower(self.encoder),
            features=members[0].texts.features,
            templates=tuple(member.templates.query for member in members),
            bank_template=self.templates.bank,
            tau=self.encoder.tau,
        )

    def _read(self, data: Any) -> None:
        """The features of all stages, and what makes batches of them."""
        material = self.material
        assert material is not None
        with self.trainer.precision_plugin.forward_context():
            material.read(data, self.text_config, source=self._region_source(data))
        data.collate = lambda stage, items: material.collate(
            stage, items, epoch=self.current_epoch if stage == "train" else -1
        )

    def _region_source(self, data: Any) -> RegionSource:
        def command(split: str, limit: int | None) -> str | None:
            folder, precision = self.store_folder, str(self.trainer.precision)
            if folder is None:
                return None
            return store_command(self.settings, data, split, folder, precision=precision, limit=limit)

        barrier = self.trainer.strategy.barrier if self.trainer.world_size > 1 else None
        return RegionSource(self.feature_source == "pictures", barrier, command)

    # --- the forward pass -------------------------------------------------------------------------------------------

    def forward(self, batch: LearningBatch) -> Tensor:
        """(B, E, R) ranks, -inf where a region is padding."""
        learner = self.learner
        bank, queries = learner.bank(), learner.queries(batch.texts)
        with torch.autocast(self.device.type, enabled=False):
            regions = learner.regions(batch.regions).float()
            bank = bank.float().to(regions.device)
            size = batch.real.shape
            places = batch.real.flatten().nonzero()[:, 0]
            rows = queries.float().new_zeros(len(queries), size.numel(), queries.shape[-1])
            rows = rows.index_copy(1, places, queries.float()).unflatten(1, size).transpose(0, 1)
            similarities = Similarities(
                query=finite(rows @ regions.mT),
                bank=finite(bank @ regions.mT),
                tau=torch.full((regions.shape[1],), learner.texts.tau, device=regions.device),
                valid=batch.valid,
            )
            rank: Tensor = learner.scorer()(similarities, aggregate=self.aggregate).rank
        return rank

    def training_step(self, batch: LearningBatch, batch_idx: int) -> Tensor:
        """The mean loss over the expressions that have a right region; the others are skipped (``material.skipped``).

        Raises:
            BSAPError: if the loss or a feature is not finite; on all processes.
        """
        problem, losses = None, torch.zeros(0, device=self.device)
        try:
            if batch.ids:
                losses = multi_positive_loss(self(batch), batch.positives)
                if not bool(losses.isfinite().all()):
                    raise BSAPError("the loss")
        except BSAPError as error:
            problem = error
        if not self.trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            raise self._not_finite(problem, batch)
        if not len(losses):
            # All processes must take a step, also one whose share holds nothing to learn from.
            return sum((p.sum() for p in self.learner.parameters()), torch.zeros((), device=self.device)) * 0.0
        loss = losses.mean()
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(losses), prog_bar=True)
        return loss

    def _not_finite(self, problem: BSAPError | None, batch: LearningBatch | None) -> BSAPError:
        rates = [f", learning rate {optimizer.param_groups[0]['lr']:g}" for optimizer in self.trainer.optimizers]
        ids = ", ".join(() if batch is None else batch.ids) or "none"
        where = f"step {self.global_step}{''.join(rates)}, batch {ids}"
        what = f"{problem} is not finite" if problem is not None else "another process has a number that is not finite"
        return BSAPError(f"Training stopped: {what} at {where}. Try a smaller `--model.lr`.")

    def _count(self, batch: LearningBatch | None) -> None:
        if batch is None:
            return
        try:
            self._count_hits(batch)
        except BSAPError as error:
            # Shares differ in length, so that the processes cannot agree before the end.
            self._problem = self._problem or self._not_finite(error, batch)

    def _count_hits(self, batch: LearningBatch) -> None:
        missing = ~batch.valid.any(-1, keepdim=True).expand_as(batch.real)
        hit = torch.zeros(batch.real.shape, dtype=torch.float64, device=batch.iou.device)
        if batch.valid.shape[-1]:
            choice = self(batch).argmax(-1, keepdim=True)
            hit = batch.iou.gather(-1, choice)[..., 0].double().masked_fill(missing, 0.0)
        self.accuracy.update(hit[batch.real], missing=missing[batch.real])

    def validation_step(self, batch: LearningBatch | None, batch_idx: int) -> None:
        """Count the hits of a batch."""
        self._count(batch)

    def test_step(self, batch: LearningBatch | None, batch_idx: int) -> None:
        """Count the hits of a batch."""
        self._count(batch)

    def on_validation_epoch_end(self) -> None:
        """Join the integer counters of all processes, then divide.

        Raises:
            BSAPError: if a feature was not finite, or nothing was counted; on all processes.
        """
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Join the integer counters of all processes, then divide."""
        self._log_accuracy("test")

    def _log_accuracy(self, stage: str) -> None:
        problem, self._problem = self._problem, None
        if not self.trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            raise problem or self._not_finite(None, None)
        values = self.accuracy.compute()
        self.accuracy.reset()
        if math.isnan(values["acc@0.5"]):
            raise DataError(
                f"No expression was counted on the {stage} split, so that its accuracy says nothing: texts alone need "
                "several expressions of a referent, or sentences of several words."
            )
        for name, value in values.items():
            # Already the same on every process; Lightning's own averaging would be wrong.
            self.log(f"{stage}/{name}", float(value), prog_bar=name.startswith("acc"))

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine to 0."""
        optimizer = torch.optim.AdamW(self.learner.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- what is learned --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def bank_tensors(self) -> dict[str, Tensor]:
        """What a learned bank's file holds; empty for a learner without a bank.

        Regions look at W b instead of b where a projector W was trained with: b . (W r) = (W' b) . r, so that the bank
        ignores the gap of real regions as it did in training.
        """
        features = self.learner.bank()
        if not len(features):
            return {}
        projector = None if self.material is None else self.material.projector
        found = {"features": features if projector is None else features @ projector.to(features)}
        if isinstance(self.learner, PromptBank):
            found |= {"context": self.learner.prompts.context, "lengths": self.learner.prompts.lengths}
        return found

    def bank_meta(self) -> dict[str, Any]:
        """What made the bank, as far as the learner knows."""
        scorer = self.learner.scorer()
        learned = {
            name: float(value.detach())
            for name in ("tau", "lam")
            if isinstance(value := getattr(scorer, name, None), Tensor)
        }
        return {
            "model": self.encoder.describe(),
            "scorer": plain(self.scorer_spec),
            "loss": "-log of the sum over regions with IoU >= 0.5 of softmax over regions of the scorer's rank",
            "learned": learned,
            "text_only": self.material is not None and self.material.text_only,
            "projector": self.material is not None and self.material.projector is not None,
            "skipped_expressions": 0 if self.material is None else self.material.skipped,
            "settings": self.settings,
            "versions": versions(),
        }

    # --- devices ----------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Bring the frozen model along: no module owns it, so that nothing else does."""
        self.encoder.to(self.device)

    def on_validation_start(self) -> None:
        """Likewise."""
        self.encoder.to(self.device)

    def on_test_start(self) -> None:
        """Likewise."""
        self.encoder.to(self.device)
