"""The left half of the method: from scenes to the similarities that scorers take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Expression, Scene
from bsap.errors import ConfigError
from bsap.features.bank_texts import bank_rows, bank_texts, scene_bank_mask
from bsap.features.cache import FeatureCache
from bsap.features.member import Member
from bsap.features.pairs import count_pairs, pair_similarities
from bsap.features.region_bank import RegionBank, RegionBankFeatures, encode_region_bank
from bsap.features.region_encoder import RegionEncoder, Submission
from bsap.features.regions import pad
from bsap.features.stored_model import Model, StoredModel
from bsap.features.texts import TextCache
from bsap.features.transforms import Transform
from bsap.models.interface import PairScorer
from bsap.models.precision import not_finite
from bsap.prompts.banks import Bank
from bsap.prompts.phrases import Wording
from bsap.prompts.templates import Phrases, Templates
from bsap.scoring import Similarities
from bsap.views import View

Pairs = Mapping[int, tuple[Tensor, Tensor]]
"""Of each model that scores pairs, by its place among the members: (B, E, R) and (B, K, R)."""
NO_PAIRS: Pairs = MappingProxyType({})
Encoded = tuple[Submission, Pairs]
"""A batch whose regions are encoded."""


class Ensemble(RegionEncoder):
    """Models x views, with their templates, noun phrases, caches and feature store: regions and texts in, cosines out.

    Nothing else connects encoders, views and caches. Banks and scorers stay outside.

    Args:
        encoders: the models; :class:`~bsap.features.stored_model.StoredModel` where all features are stored.
        views: how each model is shown a region.
        resize: how a region becomes the encoder's square: ``squash``, ``longest`` or ``shortest``.
        templates: the sentences around queries and prompts; a view with a template of its own replaces both.
        phrases: whether queries are ensembled with their noun phrases.
        pack: the most regions that are drawn and encoded at once; None: by the device.
        precision: Lightning's name of the encoders' precision.
        store: folder of the feature store, or None to keep no features.
        check_pictures: read every picture to find its stored features, instead of trusting its file's size and times.
        transform: what changes the features of regions and texts before they are compared; fitted by :meth:`fit`.

    Attributes:
        members: the N members, models outside, views inside.
        cache: the keys and the store, or None.
        tau: (N,) the models' logit scales.
        region_bank: features of regions of other pictures, or None; from :meth:`fit`.

    Raises:
        ConfigError: two members are the same, or a view does not work with ``resize``.
        ModelError: a view cannot look into a model, or the parser of noun phrases is not installed.

    Example:
        >>> from bsap.models.encoder import Encoder
        >>> from bsap.views import make_view
        >>> [member.label for member in Ensemble([Encoder("demo")], [make_view("crop"), make_view("gray")]).members]
        ['demo/crop', 'demo/gray']
    """

    def __init__(
        self,
        encoders: Sequence[Model],
        views: Sequence[View],
        *,
        resize: str = "squash",
        templates: Templates = Templates(),  # noqa: B008 - frozen
        phrases: Phrases = Phrases(),  # noqa: B008 - frozen
        pack: int | None = None,
        precision: str = "32-true",
        store: Path | None = None,
        check_pictures: bool = False,
        transform: Transform | None = None,
    ) -> None:
        cache = None
        if store is not None:
            cache = FeatureCache(store, precision=precision, resize=resize, by_content=check_pictures)
        wording = Wording(phrases)
        members: list[Member] = []
        for encoder in encoders:
            texts = TextCache(encoder, precision=precision, cache=cache)
            if isinstance(encoder, PairScorer) and phrases.weight:
                raise ConfigError(
                    f"Model {encoder.label!r} scores pairs of regions and texts, and noun phrases are joined with the "
                    "features of sentences, which it does not have. Remove `model.phrases`."
                )
            for view in views:
                # A view that draws on the picture may speak of what it drew.
                own = templates if view.template is None else Templates(view.template, view.template)
                members.append(Member(encoder, view, texts, own, wording, transform))
        labels = [member.label for member in members]
        if len(set(labels)) < len(labels):
            raise ConfigError(f"The members of an ensemble must differ, but got {', '.join(labels)}.")
        for member in members:
            if not isinstance(member.encoder, StoredModel):
                member.view.check(member.encoder, resize=resize)
        super().__init__(members, resize=resize, pack=pack, precision=precision, cache=cache)
        self._views = len(views)
        self.tau = torch.tensor([member.encoder.tau for member in self.members])
        self.transform = transform
        self.region_bank: RegionBankFeatures | None = None
        self._waiting: list[Encoded] = []

    def fit(self, bank: Bank | None, region_bank: RegionBank | None) -> None:
        """Encode the region bank, and fit the transform.

        Args:
            bank: the auxiliary prompts, or None.
            region_bank: regions of other pictures, or None. From now on similarities hold those that are ``compared``.

        Raises:
            ConfigError: a model scores pairs, and has no features; or the transform cannot be fitted.
            DataError: a model is known from a stored run only, and the features are not stored.
        """
        pairs = self._pair_scorers
        if pairs and (region_bank is not None or self.transform is not None):
            raise ConfigError(
                f"{', '.join(pairs)} scores pairs of regions and texts and has no features, which region banks and "
                "transforms need. Remove the transform and the scorers that need a region bank, or use another model."
            )
        others = None if region_bank is None else encode_region_bank(region_bank, self)
        rows = [None for _ in self.members] if others is None else others.rows
        self.members = [member.fit(bank, few) for member, few in zip(self.members, rows, strict=True)]
        self.region_bank = others if region_bank is not None and region_bank.compared else None

    # --- regions ----------------------------------------------------------------------------------------------------

    def submit(self, batch: SceneBatch, bank: Bank | None = None) -> None:
        """Draw the regions of a batch, and encode the packs that are full; :meth:`complete` gives the batch back.

        The bank is for models that score pairs, which read the prompts together with the regions.
        """
        self._waiting.append((self._submission(batch), self._pairs(batch, bank)))

    def complete(self) -> list[Encoded]:
        """The submitted batches of which all packs are encoded by now, each once; after :meth:`finish`, all."""
        found = [item for item in self._waiting if item[0].complete]
        self._waiting = [item for item in self._waiting if not item[0].complete]
        return found

    # --- texts ------------------------------------------------------------------------------------------------------

    def prepare(self, scenes: Sequence[Scene], bank: Bank | None) -> None:
        """Encode each text that scenes and a bank will need, before the first picture: large packs waste no time.

        Where there are several processes, all call it, and each text is encoded in one of them.

        Args:
            scenes: this process's scenes to come.
            bank: the auxiliary prompts, or None.
        """
        expressions = [expression for scene in scenes for expression in scene.expressions]
        prompts = dict.fromkeys(text for scene in scenes for texts in bank_texts(scene, bank) for text in texts)
        for member in self.members:
            if not isinstance(member.encoder, PairScorer):  # which reads texts together with pictures
                member.prepare(expressions, list(prompts), None if bank is None else bank.template)

    # --- similarities -----------------------------------------------------------------------------------------------

    def similarities(self, batch: SceneBatch, bank: Bank | None) -> Similarities:
        """Cosines of all regions of a batch with its expressions and with the auxiliary prompts.

        Args:
            batch: B scenes on the encoders' device.
            bank: the auxiliary prompts, or None.

        Returns:
            Similarities padded over scenes: query (B, N, E, R), bank (B, N, K, R), for N members; bank (B, N, E, K, R)
            for a bank of the query.
        """
        return self.joined((self._at_once(batch), self._pairs(batch, bank)), bank)

    def joined(self, encoded: Encoded, bank: Bank | None) -> Similarities:
        """As :meth:`similarities`, of a batch that :meth:`complete` gave."""
        submission, pairs = encoded
        flat = self._join(submission)
        with torch.autocast(flat[0].device.type, enabled=False):
            padded = [pad(rows, submission.counts) for rows in flat]
            regions = [rows for rows, _ in padded]
            return self.compare(submission.scenes, regions, padded[0][1], bank, pairs=pairs)

    def _pairs(self, batch: SceneBatch, bank: Bank | None) -> Pairs:
        options = {"resize": self.resize, "pack": self.pack, "precision": self.precision, "cache": self.cache}
        return {
            place: pair_similarities(batch, bank, member, **options)
            for place, member in enumerate(self.members)
            if isinstance(member.encoder, PairScorer)
        }

    def cost(self, scenes: Sequence[Scene], bank: Bank | None) -> str | None:
        """What models that score pairs will cost in a run over scenes, in a sentence; None where there is none."""
        if not (members := self._pair_scorers):
            return None
        pairs = count_pairs(scenes, bank)
        return (
            f"{', '.join(members)}: at most {pairs * len(members):,} pairs of region and text to score, "
            f"{pairs / max(sum(len(scene.expressions) for scene in scenes), 1):,.0f} for each expression"
        )

    @property
    def _pair_scorers(self) -> list[str]:
        return [member.label for member in self.members if isinstance(member.encoder, PairScorer)]

    def compare(
        self,
        scenes: Sequence[Scene],
        regions: Sequence[Tensor],
        valid: Tensor,
        bank: Bank | None,
        *,
        query: Tensor | None = None,
        pairs: Pairs = NO_PAIRS,
    ) -> Similarities:
        """As :meth:`similarities`, from region features.

        Args:
            scenes: B scenes.
            regions: for each member (B, R, D) region features, zero in the padding.
            valid: (B, R) bool, False in the padding.
            bank: the auxiliary prompts, or None.
            query: what :meth:`queries` gave for these scenes, if it is known.
            pairs: the scores of models that score pairs.

        Raises:
            ModelError: a model gave features that are not finite.
        """
        query = self.queries(scenes, regions, pairs) if query is None else query
        prompts = self.prompts(scenes, regions, bank, pairs)
        mask = scene_bank_mask(scenes, bank)
        mask = None if mask is None else mask.to(query.device)
        make = partial(Similarities, tau=self.tau.to(query.device), bank_mask=mask, views=self._views)
        try:
            return make(query, prompts, valid=valid, **self._beyond(scenes, regions, bank, make))
        except ValueError:
            for place, member in enumerate(self.members):
                if not bool(query[:, place].isfinite().all() & prompts[:, place].isfinite().all()):
                    raise not_finite(member.encoder.label, "features") from None
            raise

    def _beyond(
        self, scenes: Sequence[Scene], regions: Sequence[Tensor], bank: Bank | None, make: Callable[..., Similarities]
    ) -> dict[str, Any]:
        """What similarities hold of the region bank; ``make`` makes those with its regions."""
        if self.region_bank is None:
            return {}
        others = [rows[None] for rows in self.region_bank.rows]
        query, prompts = self.queries(scenes, others), self.prompts(scenes, others, bank)
        prompts = prompts.expand(len(query), *prompts.shape[1:])
        pairs = torch.stack([rows @ flat.mT for rows, flat in zip(others, regions, strict=True)], dim=1)
        return {"region_bank": make(query, prompts, valid=self.region_bank.others(scenes)), "region_pairs": pairs}

    def queries(self, scenes: Sequence[Scene], regions: Sequence[Tensor], pairs: Pairs = NO_PAIRS) -> Tensor:
        """Cosines of all expressions with all regions of their scene: (B, N, E, R) float32."""
        counts = [len(scene.expressions) for scene in scenes]
        expressions = [expression for scene in scenes for expression in scene.expressions]
        found = []
        for place, (member, flat) in enumerate(zip(self.members, regions, strict=True)):
            if place in pairs:
                found.append(pairs[place][0])
                continue
            rows, _ = pad(member.queries(expressions), counts)
            found.append(member.cosines(rows, flat))
        return torch.stack(found, dim=1)

    def prompts(
        self, scenes: Sequence[Scene], regions: Sequence[Tensor], bank: Bank | None, pairs: Pairs = NO_PAIRS
    ) -> Tensor:
        """Cosines of all auxiliary prompts with all regions: (B, N, K, R) float32; K is 0 without a bank.

        (B, N, E, K, R) for a bank of the query.
        """
        found = []
        for place, (member, flat) in enumerate(zip(self.members, regions, strict=True)):
            if place in pairs:
                found.append(pairs[place][1])
                continue
            if bank is None:
                rows = flat.new_zeros(0, member.encoder.dim)
            elif bank.features is not None:
                rows = bank.features.to(flat)
            else:
                rows = bank_rows(scenes, bank, partial(member.prompts, template=bank.template))
            found.append(member.cosines(rows, flat if rows.dim() < 4 else flat.unsqueeze(1)))
        return torch.stack(found, dim=1)

    def is_cut(self, expression: Expression) -> bool:
        """Whether any model lost the end of an expression at its context length."""
        return any(member.sentence(expression) in member.encoder.truncated for member in self.members)
