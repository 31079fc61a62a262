"""The LightningModule that learns prompts. Another learner overrides one method."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from bsap.datamodules.base import scene_data
from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.loader import global_seed
from bsap.datamodules.scene import Scene
from bsap.errors import BSAPError, ConfigError, DataError, check_number
from bsap.features.ensemble import Ensemble
from bsap.learning.batch import LearningBatch
from bsap.learning.context import FrozenTower, LearnedPrompts, PromptConfig, initial_prompts
from bsap.learning.examples import Examples, Stage
from bsap.learning.learner import FrozenTexts, Learner, PromptBank
from bsap.learning.loss import multi_positive_loss
from bsap.learning.pseudo_scenes import TextConfig, TextScene
from bsap.learning.run_folder import LearningFolder
from bsap.metrics import RECAccuracy
from bsap.models.encoder import Encoder, EncoderConfig
from bsap.models.precision import check_precision
from bsap.models.transformers_families import PREFIX
from bsap.module import OPENAI
from bsap.prompts.templates import Templates
from bsap.runs.processes import local_rank_zero_first
from bsap.runs.results import versions
from bsap.runs.settings import RunConfig, plain, store_folder
from bsap.scoring import Similarities
from bsap.views import View, make_view

MONITOR = "val/acc@0.5"


class PromptLearner(LightningModule):
    """Learns auxiliary prompts for a frozen CLIP-like model, from region features or from text alone.

    Only context vectors are trained, and tau and lam on request. They pass through the frozen text tower, so that a
    learned prompt stays a kind of text. Checkpoints hold no weights of the model.

    Works with every :class:`~bsap.datamodules.base.SceneDataModule` that sets ``train_scenes`` and ``val_scenes``.

    Args:
        encoders: the model, a list of one. The default is OpenAI's ViT-B/32.
        views: as for ``bsap test``.
        resize: as for ``bsap test``.
        templates: the query's template; the bank's one is used for prompts that start from a bank.
        scorer: the scorer that is trained: ``bsap``, ``bsap_h``, or ``class_path`` with ``init_args``.
        aggregate: as for ``bsap test``: ``before`` or ``sum``.
        prompts: number, length and initial values of the prompts.
        learn_tau: also learn the bank's temperature.
        learn_lam: also learn the weight of BSAP in BSAP-H.
        features: ``stored`` uses stored features and opens no picture; ``pictures`` encodes what is not stored, once.
        text: settings of learning from text alone, with ``data.text_only`` or ``data.text_file``.
        lr: peak learning rate of AdamW, followed by a cosine to 0.
        weight_decay: weight decay of the context vectors.
        patience: training stops after this many epochs without a better validation accuracy.
        strict: whether a hit in validation needs IoU > 0.5 instead of IoU >= 0.5.
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
        encoders: Sequence[Any] | str | None = None,
        views: Sequence[str | dict[str, Any]] | str = ("crop", "blur"),
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
        given = dict(locals())  # a copy: under a debugger the comprehension below would change what it goes through
        given = {name: value for name, value in given.items() if name not in ("self", "run", "__class__")}
        super().__init__()
        models = [encoders] if isinstance(encoders, (str, Mapping)) else (OPENAI,) if encoders is None else encoders
        views = given["views"] = [views] if isinstance(views, (str, Mapping)) else views
        configs = [EncoderConfig.of(config) for config in models]
        if len(configs) != 1:
            raise ConfigError(f"Prompts are learned for one model at a time, but `encoders` lists {len(configs)}.")
        if configs[0].name.startswith(PREFIX):
            raise ConfigError(
                f"Prompts are learned for models of open_clip, but {configs[0].name!r} is in the format of "
                "transformers. Name the same weights in open_clip's format; `bsap docs models` says which there are."
            )
        check_number("model.lr", lr, above=True)
        check_number("model.weight_decay", weight_decay)
        check_number("model.patience", patience)
        self.settings = plain(given | {"encoders": configs})
        self.config, self.resize, self.templates, self.aggregate = configs[0], resize, templates, aggregate
        self.views: list[View] = [make_view(view) for view in views]
        self.scorer_spec, self.prompt_config, self.text_config = scorer, prompts, text
        self.learn_tau, self.learn_lam, self.feature_source = learn_tau, learn_lam, features
        self.lr, self.weight_decay, self.patience = lr, weight_decay, patience
        self.run = RunConfig(**run) if isinstance(run, Mapping) else run
        self.store = store
        self.folder = None if self.run is None else LearningFolder(self.run, self.settings, self.learned_bank, MONITOR)
        self.accuracy = RECAccuracy(strict=strict)
        # A list is no submodule: the frozen model is neither trained, nor saved, nor wrapped.
        self._frozen: list[Encoder] = []
        self.ensemble: Ensemble | None = None
        self.examples: Examples | None = None
        self.training_started = False
        self._problem: BSAPError | None = None

    def configure_learner(self, texts: FrozenTexts) -> Learner:
        """Make the learner. Override this for another one: its parameters are trained, its features compared."""
        tower = texts.tower
        prompts = LearnedPrompts(tower, initial_prompts(self.prompt_config, tower, self.templates))
        return PromptBank(texts, self.scorer_spec, prompts, learn_tau=self.learn_tau, learn_lam=self.learn_lam)

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def encoder(self) -> Encoder:
        """The frozen model."""
        return self._frozen[0]

    def configure_callbacks(self) -> list[Callback]:
        """Early stopping, and the run folder with its checkpoints."""
        callbacks: list[Callback] = [EarlyStopping(MONITOR, mode="max", patience=self.patience)]
        if self.folder is None:
            return callbacks
        self.folder.watch_start(self.trainer)
        return [*callbacks, self.folder, *self.folder.checkpoints]

    def configure_model(self) -> None:
        """Load the frozen model once in every process, and read the examples of the trainer's stage."""
        trainer = self.trainer
        check_precision(str(trainer.precision), trainer.strategy.root_device)
        if not (loaded := bool(self._frozen)):
            self._load(str(trainer.precision))
        assert self.ensemble is not None
        assert self.examples is not None
        data, fn = scene_data(trainer), trainer.state.fn
        stages: Sequence[Stage] = ("train", "val") if fn == "fit" else ("val",) if fn == "validate" else ("test",)
        data.leave_unopened(lambda scene: True)  # batches are made of features in memory
        # Lightning suggests to move the hook into the data module, which knows no features.
        warnings.filterwarnings("ignore", ".*overridden `on_before_batch_transfer` in `LightningModule`.*")
        with trainer.precision_plugin.forward_context():
            self.examples.read(data, stages, seed=global_seed())
        if self.feature_source == "stored":
            self.encoder.model.visual = None  # only texts are encoded from here on
        if not loaded:
            self.learner = self.configure_learner(self._frozen_texts()).to(self.device)
        self.ensemble.flush()

    def _load(self, precision: str) -> None:
        encoder = local_rank_zero_first(self.trainer, lambda: Encoder(self.config))
        FrozenTower(encoder)  # refuses other text towers before anything is encoded
        self._frozen = [encoder.to(self.device)]
        self.ensemble = Ensemble(
            [encoder],
            self.views,
            resize=self.resize,
            templates=self.templates,
            precision=precision,
            store=store_folder(self.store, self.run),
        )
        self.examples = Examples(
            self.ensemble,
            self.text_config,
            pictures=self.feature_source == "pictures",
            barrier=self.trainer.strategy.barrier if self.trainer.world_size > 1 else None,
        )

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

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> LearningBatch:
        """Turn the scenes or texts of a loader into features."""
        assert self.examples is not None
        items: Sequence[Scene | TextScene] = batch.scenes if isinstance(batch, SceneBatch) else batch
        stage = self._stage
        return self.examples.batch(stage, items, epoch=self.current_epoch if stage == "train" else -1)

    @property
    def _stage(self) -> Stage:
        return "train" if self.trainer.training else "test" if self.trainer.testing else "val"

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
        """The mean loss over the expressions that have a right region; the others are left out.

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
            # All processes must take a step, even one whose batch has nothing to learn from.
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

    def _count_hits(self, batch: LearningBatch) -> None:
        missing = ~batch.valid.any(-1, keepdim=True).expand_as(batch.real)
        hit = torch.zeros(batch.real.shape, dtype=torch.float64, device=batch.iou.device)
        if batch.valid.shape[-1]:
            choice = self(batch).argmax(-1, keepdim=True)
            hit = batch.iou.gather(-1, choice)[..., 0].double().masked_fill(missing, 0.0)
        self.accuracy.update(hit[batch.real], missing=missing[batch.real])

    def validation_step(self, batch: LearningBatch, batch_idx: int) -> None:
        """Count the hits of a batch."""
        try:
            if batch.ids:
                self._count_hits(batch)
        except BSAPError as error:
            # Shares differ in length, so the processes cannot agree before the end.
            self._problem = self._problem or self._not_finite(error, batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over all processes.

        Raises:
            BSAPError: if a feature was not finite, or nothing was counted; on all processes.
        """
        stage = self._stage
        problem, self._problem = self._problem, None
        if not self.trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            raise problem or self._not_finite(None, None)
        values = self.accuracy.compute()
        self.accuracy.reset()
        if math.isnan(values["acc@0.5"]):
            raise DataError(
                f"No expression of the {stage} split could be counted. Texts alone need several expressions of a "
                "referent, or sentences of several words."
            )
        for name, value in values.items():
            # Already the same on every process; Lightning's own averaging would be wrong.
            self.log(f"{stage}/{name}", float(value), prog_bar=name.startswith("acc"))

    on_test_epoch_end = on_validation_epoch_end

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
    def learned_bank(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of the learned bank and what made it; no tensors if the learner has no bank.

        If the learner was trained behind a projector W, regions look at W' b instead of b, because b . (W r) =
        (W' b) . r: the bank ignores the gap of real regions as it did in training.
        """
        examples, learner = self.examples, self.learner
        assert examples is not None
        features = learner.bank()
        tensors: dict[str, Tensor] = {}
        if len(features):
            projector = examples.projector
            tensors["features"] = features if projector is None else features @ projector.to(features)
            if isinstance(learner, PromptBank):
                tensors |= {"context": learner.prompts.context, "lengths": learner.prompts.lengths}
        scorer = {name: getattr(learner.scorer(), name, None) for name in ("tau", "lam")}
        meta = {
            "model": self.encoder.describe(),
            "scorer": plain(self.scorer_spec),
            "loss": "-log of the sum over regions with IoU >= 0.5 of softmax over regions of the scorer's rank",
            "learned": {name: float(value) for name, value in scorer.items() if isinstance(value, Tensor)},
            "text_only": examples.text_only,
            "projector": examples.projector is not None,
            "skipped_expressions": examples.skipped,
            "settings": self.settings,
            "versions": versions(),
        }
        return tensors, meta

    # --- devices ----------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Move the frozen model, which no module owns, to the device."""
        self.encoder.to(self.device)

    on_validation_start = on_test_start = on_fit_start

    def on_train_start(self) -> None:
        """Note that everything that a checkpoint holds was restored."""
        self.training_started = True


def finite(x: Tensor) -> Tensor:
    """Return ``x``.

    Raises:
        BSAPError: if it holds NaN or infinite values; names what is not finite, and the caller adds where.
    """
    if not bool(x.isfinite().all()):
        raise BSAPError("a feature")
    return x
