"""Several scenes on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bsap.datamodules.picture_files import scene_picture
from bsap.datamodules.scene import Scene


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """B scenes with their decoded pictures.

    Lightning moves it with :meth:`to` and pins it with :meth:`pin_memory`. Masks stay run-length encoded on the host.

    Attributes:
        scenes: B scenes.
        pictures: B uint8 tensors (3, H, W), RGB, each of its own size.
        boxes: (sum of R, 4) float32, the proposals of all scenes, scene after scene.
    """

    scenes: tuple[Scene, ...]
    pictures: tuple[Tensor, ...]
    boxes: Tensor

    @property
    def counts(self) -> list[int]:
        """R of each scene."""
        return [len(scene.proposals) for scene in self.scenes]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SceneBatch:
        """The same batch with pictures and boxes on ``device``, from page-locked memory without a wait."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking or x.is_pinned())

        return replace(self, pictures=tuple(map(move, self.pictures)), boxes=move(self.boxes))

    def select(self, indices: Sequence[int]) -> SceneBatch:
        """The batch of some of its scenes."""
        parts = self.boxes.split_with_sizes(self.counts)
        return SceneBatch(
            scenes=tuple(self.scenes[i] for i in indices),
            pictures=tuple(self.pictures[i] for i in indices),
            boxes=torch.cat([parts[i] for i in indices]) if indices else self.boxes[:0],
        )

    def with_pictures(self) -> SceneBatch:
        """The same batch with every picture decoded that the loader left out because its features were stored."""
        if all(picture.numel() for picture in self.pictures):
            return self
        device = self.boxes.device
        pictures = [
            picture if picture.numel() else scene_picture(scene).to(device)
            for scene, picture in zip(self.scenes, self.pictures, strict=True)
        ]
        return replace(self, pictures=tuple(pictures))

    def pin_memory(self) -> SceneBatch:
        """The same batch in page-locked memory."""
        return replace(self, pictures=tuple(p.pin_memory() for p in self.pictures), boxes=self.boxes.pin_memory())


def collate(items: Sequence[tuple[Scene, Tensor]]) -> SceneBatch:
    """Join (scene, picture) pairs into a batch; no pairs, into a batch of no scene."""
    if not items:
        return SceneBatch(scenes=(), pictures=(), boxes=torch.zeros(0, 4))
    scenes, pictures = zip(*items, strict=True)
    boxes = torch.cat([torch.from_numpy(scene.proposals.boxes).reshape(-1, 4) for scene in scenes])
    return SceneBatch(scenes=scenes, pictures=pictures, boxes=boxes)
