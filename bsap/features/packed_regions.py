"""A batch on its way through the packs: what is stored, what waits, and what both give in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Scene
from bsap.features.cache import FeatureCache
from bsap.features.member import Member
from bsap.features.packs import PackQueue
from bsap.features.regions import QueuedRegions
from bsap.features.stored_model import StoredModel
from bsap.features.transfer import HostCopy
from bsap.models.interface import DualEncoder, PairScorer
from bsap.models.precision import autocast
from bsap.views.packing import default_pack, pack_size


class MemberRegions:
    """The region features of a batch for one member of an ensemble, from the store where it has them.

    Args:
        batch: B scenes on the encoders' device.
        member: the model and the view.
        queue: of the model; None for a model that scores pairs.
        resize: how a region becomes the encoder's square.
        cache: the feature store, or None.
    """

    def __init__(
        self, batch: SceneBatch, member: Member, queue: PackQueue | None, *, resize: str, cache: FeatureCache | None
    ) -> None:
        self._found: list[Tensor | None] = [None] * len(batch.scenes)
        self._keys: list[str] = []
        self._new: QueuedRegions | None = None
        self._device = batch.boxes.device
        if queue is None:
            self._found = [batch.boxes.new_zeros(len(batch.boxes), 0)]
            return
        self._pack = queue.size
        if cache is not None:
            self._keys = [cache.region_key(scene, member.encoder, member.view, self._pack) for scene in batch.scenes]
            self._found = [cache.get(key) for key in self._keys]
        self._todo = [index for index, features in enumerate(self._found) if features is None]
        if self._todo:
            rest = batch if len(self._todo) == len(self._found) else batch.select(self._todo)
            self._counts = rest.counts
            self._new = QueuedRegions(rest.with_pictures(), queue, member.view, resize=resize)

    @property
    def complete(self) -> bool:
        """Whether all features are known."""
        return self._new is None or self._new.complete

    def join(self, keep: Callable[[Sequence[str], Sequence[int], Tensor], None]) -> Tensor:
        """(sum of R, D) float32 unit vectors, scene after scene.

        Args:
            keep: takes keys, R of each key's scene, and all their new features, which the store does not have.
        """
        if self._new is not None:
            new = self._new.features()
            # After a change of the pack's size in the middle the features have no key.
            if self._keys and self._new.pack == self._pack:
                keep([self._keys[index] for index in self._todo], self._counts, new)
            if len(self._todo) == len(self._found):
                return new
            for index, features in zip(self._todo, new.split(self._counts), strict=True):
                self._found[index] = features
        return torch.cat([features.to(self._device) for features in self._found if features is not None])


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
        return all(member.complete for member in self.members)


class PackedRegions:
    """The region features of an ensemble: one queue of packs for each model, and the feature store.

    Args:
        members: models and views.
        resize: how a region becomes the encoder's square.
        pack: the regions of a pack; None: by the device.
        precision: Lightning's name of the encoders' precision.
        cache: the feature store, or None.
    """

    def __init__(
        self, members: Sequence[Member], *, resize: str, pack: int | None, precision: str, cache: FeatureCache | None
    ) -> None:
        self.members, self.resize, self.pack, self.precision, self.cache = members, resize, pack, precision, cache
        encoders = [member.encoder for member in members]
        self._queues = {
            id(encoder): PackQueue(encoder, pack) for encoder in encoders if isinstance(encoder, DualEncoder)
        }
        self._new: list[tuple[Sequence[str], Sequence[int], HostCopy]] = []

    def submit(self, batch: SceneBatch) -> Submission:
        """Draw the regions of a batch, and encode the packs that are full.

        Args:
            batch: B scenes on the encoders' device.
        """
        members = []
        for member in self.members:
            if isinstance(member.encoder, StoredModel):
                raise TypeError(f"{member.label} is known from a stored run only and encodes no picture.")
            queue = self._queues.get(id(member.encoder))
            members.append(MemberRegions(batch, member, queue, resize=self.resize, cache=self.cache))
        return Submission(batch.scenes, batch.counts, members)

    def finish(self, *, fill: bool = True) -> None:
        """Encode the regions that wait for others to fill their pack.

        Args:
            fill: fill the last packs up, so that they round as all others.
        """
        for queue in self._queues.values():
            with torch.no_grad(), autocast(self.precision, queue.encoder.device):
                queue.finish(fill=fill)

    def at_once(self, batch: SceneBatch) -> Submission:
        """A batch whose regions are all encoded."""
        submission = self.submit(batch)
        self.finish(fill=self.cache is not None)  # what is stored has to have the bits of a run's packs
        return submission

    def join(self, submission: Submission) -> list[Tensor]:
        """For each member (sum of R, D) float32 unit vectors of a complete submission, scene after scene."""
        return [member.join(self._note) for member in submission.members]

    def _note(self, keys: Sequence[str], counts: Sequence[int], features: Tensor) -> None:
        self._new.append((keys, counts, HostCopy(features)))

    def keep(self) -> None:
        """Hand new features to the store."""
        new, self._new = self._new, []
        for keys, counts, copy in new:
            for key, features in zip(keys, copy.wait().split(list(counts)), strict=True):
                if self.cache is not None:
                    self.cache.put(key, features)

    def stored(self, scene: Scene) -> list[Tensor] | None:
        """The stored features of a scene's regions, (R, D) for each member; None unless all members' are stored."""
        if self.cache is None:
            return None
        found = [self.cache.get(self._key(self.cache, scene, member)) for member in self.members]
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

    def _key(self, cache: FeatureCache, scene: Scene, member: Member) -> str:
        encoder = member.encoder
        if isinstance(encoder, StoredModel):
            pack = self.pack or default_pack(encoder.device)
        else:
            pack = pack_size(encoder, self.pack)
        return cache.region_key(scene, encoder, member.view, pack)
