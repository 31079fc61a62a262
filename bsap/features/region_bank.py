"""The region bank: regions of other pictures, for scorers and transforms that look beyond the texts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bsap.datamodules.base import SceneDataModule
from bsap.datamodules.batch import collate
from bsap.datamodules.scene import Proposals, Scene
from bsap.errors import ConfigError, DataError, check_number
from bsap.features.cache import regions_digest
from bsap.features.region_encoder import RegionEncoder
from bsap.features.stored_model import StoredModel
from bsap.features.transforms import Transform
from bsap.models.precision import autocast, not_finite
from bsap.scoring import Scorer

_SCENES_AT_ONCE = 8


@dataclass(frozen=True)
class RegionBankConfig:
    """Which regions make the region bank.

    Attributes:
        split: the split whose proposals they are; all of its pictures count, whatever filters choose from the split
            under test. The split under test itself makes the results transductive.
        size: how many regions are drawn, each with the same probability; null takes all.
        seed: of the drawing.
    """

    split: str = "train"
    size: int | None = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.split, str) or not self.split:
            raise ConfigError(f"`region_bank.split` must be the name of a split, but got {self.split!r}.")
        if self.size is not None:
            check_number("region_bank.size", self.size, least=1, whole=True)
        check_number("region_bank.seed", self.seed, whole=True)

    @classmethod
    def of(cls, value: object) -> RegionBankConfig | None:
        """The settings from themselves, a split's name, a mapping of the fields, or None."""
        if value is None or isinstance(value, cls):
            return value
        try:
            if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
                raise TypeError("a mapping or list that cannot be read as settings")
            return cls(**value) if isinstance(value, Mapping) else cls(value)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"`region_bank` takes split, size and seed, but got {value!r}.") from error


@dataclass(frozen=True, eq=False)
class RegionBank:
    """Regions of other pictures.

    Attributes:
        config: how they were drawn.
        scenes: the pictures with at least one drawn region.
        drawn: for each of them the indices of its drawn regions.
        available: how many regions the split has.
        transductive: whether pictures under test are among them.
        compared: whether expressions and prompts are compared with them; a transform alone does not need that.
    """

    config: RegionBankConfig
    scenes: tuple[Scene, ...]
    drawn: tuple[tuple[int, ...], ...]
    available: int
    transductive: bool
    compared: bool = True

    def __len__(self) -> int:
        return sum(map(len, self.drawn))

    @property
    def whole(self) -> bool:
        """Whether it holds every region of its split."""
        return len(self) == self.available

    def describe(self) -> dict[str, Any]:
        """What results record: plain values only."""
        digest = sha256()
        for scene, places in zip(self.scenes, self.drawn, strict=True):
            digest.update(f"{scene.image_id} {places} {regions_digest(scene, with_masks=True)}\n".encode())
        return {
            **asdict(self.config),
            "regions": len(self),
            "available": self.available,
            "pictures": len(self.scenes),
            "transductive": self.transductive,
            "digest": digest.hexdigest()[:12],
        }


def draw_region_bank(
    scenes: Sequence[Scene], config: RegionBankConfig, *, tested: Sequence[Scene] = (), same_split: bool = False
) -> RegionBank:
    """Draw regions from the proposals of the scenes of a split.

    The region bank is transductive if it shares a picture with the scenes ``tested``, or is of the ``same_split``.

    Raises:
        ConfigError: the split has no regions.
    """
    counts = [len(scene.proposals) for scene in scenes]
    total = sum(counts)
    if not total:
        raise ConfigError(
            f"The region bank is empty: the split {config.split!r} has {len(scenes)} pictures and no proposals. Choose "
            "another split with `--model.region_bank.split`, or proposals that cover it."
        )
    size = total if config.size is None else min(config.size, total)
    chosen = sorted(random.Random(config.seed).sample(range(total), size)) if size < total else range(total)
    starts = np.cumsum([0, *counts])
    owners = np.searchsorted(starts, np.asarray(chosen), side="right") - 1
    places: dict[int, list[int]] = {}
    for owner, index in zip(owners.tolist(), chosen, strict=True):
        places.setdefault(owner, []).append(index - int(starts[owner]))
    seen = {scene.image_id for scene in tested}
    kept = tuple(scenes[owner] for owner in places)
    shared = same_split or any(scene.image_id in seen for scene in kept)
    return RegionBank(config, kept, tuple(map(tuple, places.values())), total, shared)


@dataclass(frozen=True, eq=False)
class RegionBankFeatures:
    """The encoded region bank.

    Attributes:
        rows: (G, D) float32 unit vectors for each member.
        image_ids: the picture of each of the G regions.
    """

    rows: tuple[Tensor, ...]
    image_ids: tuple[str, ...]

    def others(self, scenes: Sequence[Scene]) -> Tensor | None:
        """(B, G) bool, False where a region is of the scene's own picture; None where none is."""
        if not {scene.image_id for scene in scenes}.intersection(self.image_ids):
            return None
        names = np.array(self.image_ids)
        return torch.from_numpy(np.stack([names != scene.image_id for scene in scenes])).to(self.rows[0].device)


def load_region_bank(
    data: SceneDataModule,
    config: RegionBankConfig | None,
    scorers: Mapping[str, Scorer],
    others: Sequence[str] = (),
    transform: Transform | None = None,
) -> RegionBank | None:
    """The region bank of a run, or None where nothing needs one.

    Scorers and ``others`` are compared with it, by the names given; a transform may learn from it.

    Raises:
        ConfigError: something needs a region bank and there is none, or not the one it needs.
    """
    needed_by = [*others, *(name for name, scorer in scorers.items() if scorer.needs_region_bank)]
    compared = bool(needed_by)
    needed_by += [transform.name] if transform is not None and transform.needs_region_bank else []
    whole = [name for name, scorer in scorers.items() if scorer.needs_whole_split]
    if not needed_by:
        return None
    own = data.summary.split
    if config is None:
        raise ConfigError(
            f"Regions of other pictures are needed for {', '.join(needed_by)}. Name the split that they are drawn "
            "from, for example `--model.region_bank train`."
        )
    scenes = data.load_split(config.split, unfiltered=True)
    bank = draw_region_bank(scenes, config, tested=data.scenes, same_split=config.split == own)
    if whole and not (config.split == own and bank.whole):
        raise ConfigError(
            f"All regions of the split under test are needed for {', '.join(whole)}: set `--model.region_bank.split "
            f"{own}` and `--model.region_bank.size null`."
        )
    return replace(bank, compared=compared)


@torch.no_grad()
def encode_region_bank(bank: RegionBank, encoder: RegionEncoder) -> RegionBankFeatures:
    """The features of the drawn regions, from the store where it has them, from the encoders otherwise.

    A picture whose regions are all stored is not opened. Of any other only the drawn regions are encoded, and kept.

    Raises:
        DataError: features are missing that cannot be made.
        ModelError: features are not finite.
    """
    device = encoder.device
    rows: dict[int, list[Tensor]] = {}
    todo: list[tuple[int, Scene]] = []
    for number, (scene, places) in enumerate(zip(bank.scenes, bank.drawn, strict=True)):
        part = _only(scene, places)
        if encoder.is_stored(scene):
            rows[number] = [features[list(places)].to(device) for features in encoder.stored_regions(scene) or ()]
        elif part is not scene and encoder.is_stored(part):
            rows[number] = [features.to(device) for features in encoder.stored_regions(part) or ()]
        else:
            todo.append((number, part))
    if todo and isinstance(encoder.members[0].encoder, StoredModel):
        raise DataError(
            f"The features of the region bank are not stored for {len(todo)} of {len(bank.scenes)} pictures, first "
            f"{todo[0][1].path.name}. Make them with `bsap test` and `--run.overwrite true`."
        )
    with autocast(encoder.precision, device):
        for start in range(0, len(todo), _SCENES_AT_ONCE):
            some = todo[start : start + _SCENES_AT_ONCE]
            unopened = torch.empty(3, 0, 0, dtype=torch.uint8)
            batch = collate([(scene, unopened) for _, scene in some]).to(device).with_pictures()
            encoded = encoder.regions(batch)
            for member, features in zip(encoder.members, encoded, strict=True):
                if not bool(features.isfinite().all()):
                    raise not_finite(member.encoder.label, "features")
            split = [features.split(batch.counts) for features in encoded]
            rows.update({number: list(parts) for (number, _), *parts in zip(some, *split, strict=True)})
            encoder.keep()
    joined = tuple(torch.cat(parts) for parts in zip(*(rows[n] for n in range(len(bank.scenes))), strict=True))
    ids = [scene.image_id for scene, places in zip(bank.scenes, bank.drawn, strict=True) for _ in places]
    return RegionBankFeatures(joined, tuple(ids))


def _only(scene: Scene, places: Sequence[int]) -> Scene:
    """The scene with some of its regions and no text."""
    regions, indices = scene.proposals, list(places)
    if indices == list(range(len(regions))):
        return scene
    kept = Proposals(
        regions.boxes[indices],
        None if regions.masks is None else tuple(regions.masks[index] for index in indices),
        None if regions.scores is None else regions.scores[indices],
    )
    return replace(scene, proposals=kept, expressions=(), texts=())
