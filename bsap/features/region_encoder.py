"""The image side of an ensemble: region features that are stored, and those that wait for their packs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Scene
from bsap.features.cache import FeatureCache
from bsap.features.member import Member
from bsap.features.packs import PackQueue, Promise
from bsap.features.regions import promised_features
from bsap.features.stored_model import StoredModel
from bsap.features.transfer import HostCopy
from bsap.models.interface import DualEncoder, PairScorer
from bsap.models.precision import autocast
from bsap.views.packing import default_pack, pack_size


@dataclass(frozen=True, eq=False)
class MemberRegions:
    """The region features of a batch for one member of an ensemble.

    Attributes:
        found: (R, D) of each scene that is stored, None of the others.
        keys: of the scenes in the store, if there is one.
        new: the features of the others, scene after scene; None where all are stored.
    """

    found: list[Tensor | None]
    keys: list[str]
    new: Promise | None = None


@dataclass(frozen=True, eq=False)
class Submission:
    """A batch whose regions are on their way through the packs.

    Attributes:
        scenes: B scenes; their pictures are not kept.
        counts: R of each scene.
        members: the region features of each member.
    """

    scenes: tuple[Scene, ...]
    counts: list[int]
    members: list[MemberRegions]

    @property
    def complete(self) -> bool:
        """Whether all features are known."""
        return all(member.new is None or not member.new.missing for member in self.members)


class RegionEncoder:
    """Models x views: regions in, features out, with one queue of packs for each model and the feature store."""

    def __init__(
        self, members: list[Member], *, resize: str, pack: int | None, precision: str, cache: FeatureCache | None
    ) -> None:
        self.members, self.resize, self.pack, self.precision, self.cache = members, resize, pack, precision, cache
        encoders = [member.encoder for member in members]
        self._queues = {
            id(encoder): PackQueue(encoder, pack) for encoder in encoders if isinstance(encoder, DualEncoder)
        }
        self._new: list[tuple[list[str], list[int], HostCopy]] = []

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.members[0].encoder.device

    def regions(self, batch: SceneBatch) -> list[Tensor]:
        """The region features of a batch, from the store where it has them, from the encoder otherwise.

        Args:
            batch: B scenes on the encoders' device.

        Returns:
            For each member (sum of R, D) float32 unit vectors, scene after scene; D is 0 for a model that scores pairs.
        """
        return self._join(self._at_once(batch))

    def stored_regions(self, scene: Scene) -> list[Tensor] | None:
        """The stored features of a scene's regions, (R, D) for each member; None unless all members' are stored."""
        if self.cache is None:
            return None
        found = [self.cache.store.get(self._key(self.cache, scene, member)) for member in self.members]
        kept = [features for features in found if features is not None]
        return kept if len(kept) == len(found) else None

    def is_stored(self, scene: Scene) -> bool:
        """Whether a scene's features are stored for all members, so that its picture need not be opened."""
        # An empty store has none, and no picture needs to be read to know.
        return (
            self.cache is not None
            and len(self.cache.store) > 0
            and all(
                not isinstance(member.encoder, PairScorer) and self._key(self.cache, scene, member) in self.cache.store
                for member in self.members
            )
        )

    def finish(self, *, fill: bool = True) -> None:
        """Encode the regions that wait for others; ``fill`` their packs up, so that they round as all others."""
        for queue in self._queues.values():
            with torch.no_grad(), autocast(self.precision, queue.encoder.device):
                queue.finish(fill=fill)

    def keep(self) -> None:
        """Hand new features to the store; after they were compared, which finds those that are not finite."""
        new, self._new = self._new, []
        for keys, counts, copy in new:
            for key, features in zip(keys, copy.wait().split(counts), strict=True):
                if self.cache is not None:
                    self.cache.store.put(key, features)

    def flush(self) -> None:
        """Write what is new in the store to disk."""
        if self.cache is not None:
            self.cache.flush()

    def _submission(self, batch: SceneBatch) -> Submission:
        """Draw the regions of a batch, and encode the packs that are full."""
        return Submission(batch.scenes, batch.counts, [self._drawn(batch, member) for member in self.members])

    def _drawn(self, batch: SceneBatch, member: Member) -> MemberRegions:
        if isinstance(member.encoder, StoredModel):
            raise TypeError(f"{member.label} is known from a stored run only and encodes no picture.")
        if isinstance(member.encoder, PairScorer):
            return MemberRegions([batch.boxes.new_zeros(len(batch.boxes), 0)], [])
        keys: list[str] = []
        found: list[Tensor | None] = [None] * len(batch.scenes)
        if self.cache is not None:
            keys = [self._key(self.cache, scene, member) for scene in batch.scenes]
            found = [self.cache.store.get(key) for key in keys]
        todo = [index for index, features in enumerate(found) if features is None]
        if not todo:
            return MemberRegions(found, keys)
        rest = batch.select(todo).with_pictures()
        queue = self._queues[id(member.encoder)]
        return MemberRegions(found, keys, promised_features(rest, queue, member.view, resize=self.resize))

    def _at_once(self, batch: SceneBatch) -> Submission:
        """A batch whose regions are all encoded."""
        submission = self._submission(batch)
        self.finish(fill=self.cache is not None)  # what is stored has to have the bits of a run's packs
        return submission

    def _join(self, submission: Submission) -> list[Tensor]:
        """For each member (sum of R, D) float32 unit vectors of a complete submission, scene after scene."""
        return [self._joined(member, submission.counts) for member in submission.members]

    def _joined(self, regions: MemberRegions, counts: Sequence[int]) -> Tensor:
        found = list(regions.found)
        if regions.new is not None:
            new = regions.new.features()
            todo = [index for index, features in enumerate(found) if features is None]
            sizes = [counts[index] for index in todo]
            # After a change of the pack's size in the middle the features have no key.
            if regions.keys and regions.new.size:
                self._new.append(([regions.keys[index] for index in todo], sizes, HostCopy(new)))
            if len(todo) == len(found):
                return new
            for index, features in zip(todo, new.split(sizes), strict=True):
                found[index] = features
        return torch.cat([features.to(self.device) for features in found if features is not None])

    def _key(self, cache: FeatureCache, scene: Scene, member: Member) -> str:
        encoder = member.encoder
        if isinstance(encoder, StoredModel):
            pack = self.pack or default_pack(encoder.device)
        else:
            pack = pack_size(encoder, self.pack)
        return cache.region_key(scene, encoder, member.view, pack)
