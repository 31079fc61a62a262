"""What the demo's CLIP is trained on: crops of drawn scenes with captions, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bsap.demo.draw import DrawnScene, World, draw_scene
from bsap.demo.language import caption, expressions, scene_caption

Box = tuple[float, float, float, float]


def _margin(thing_box: Box, factor: float, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """The box enlarged by a factor, not exactly centred, inside the picture."""
    x0, y0, x1, y1 = thing_box
    extra = np.array([(x1 - x0), (y1 - y0)]) * (factor - 1)
    left, top = extra * rng.uniform(0.3, 0.7, 2)
    right, bottom = extra - (left, top)
    width, height = size
    return max(0.0, x0 - left), max(0.0, y0 - top), min(float(width), x1 + right), min(float(height), y1 + bottom)


def squash(picture: Image.Image, box: Box, side: int) -> Tensor:
    """One region as a uint8 tensor (3, side, side): cropped at whole pixels and resized without regard to its shape."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    crop = picture.crop((x0, y0, x1, y1)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)


def draw_pair(scene: DrawnScene, side: int, rng: np.random.Generator) -> tuple[Tensor, str]:
    """A random crop of a scene and a caption for it.

    60 % of the crops are tight around one thing, 25 % show its surroundings too, 15 % are the whole scene: tight ones
    make the training converge, the others keep the model used to clutter.
    """
    kind, size = rng.random(), scene.picture.size
    if kind >= 0.85:
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
        return squash(scene.picture, whole, side), scene_caption(scene.things, size[0], rng)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    factor = rng.uniform(1.0, 1.6) if kind < 0.6 else rng.uniform(1.6, 3.0)
    return squash(scene.picture, _margin(thing.box, factor, size, rng), side), caption(thing, rng)


class Check(NamedTuple):
    """One scene to choose in: its ground-truth regions (R, 3, side, side), E texts, and the right region of each."""

    regions: Tensor
    texts: list[str]
    targets: Tensor


class _Drawn(Dataset[object]):
    """Items that are drawn when they are asked for, each from a scene and a random generator of its own."""

    def __init__(self, count: int, world: World, seed: int, draw: Callable[..., object]) -> None:
        self.count, self.seed, self.draw = count, (world, seed), draw

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> object:
        # Drawing and captions share no random numbers.
        return self.draw(draw_scene(*self.seed, index), rng=np.random.default_rng((*self.seed, index, 1)))


def _pairs(scene: DrawnScene, side: int, count: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    pictures, texts = zip(*(draw_pair(scene, side, rng) for _ in range(count)), strict=True)
    return torch.stack(pictures), list(texts)


def _check(scene: DrawnScene, side: int, rng: np.random.Generator) -> Check:
    pairs = [(text, at) for at in range(len(scene.things)) for text in expressions(at, scene.things, rng)]
    regions = torch.stack([squash(scene.picture, thing.box, side) for thing in scene.things])
    return Check(regions, [f"a photo of {text}" for text, _ in pairs], torch.tensor([at for _, at in pairs]))


def _join(items: Sequence[tuple[Tensor, list[str]]]) -> tuple[Tensor, list[str]]:
    return torch.cat([pictures for pictures, _ in items]), [text for _, texts in items for text in texts]


class PairsDataModule(L.LightningDataModule):
    """Draws training pairs on the fly; every step has scenes that no other step has.

    Args:
        steps: training steps; one epoch is the whole training.
        scenes: scenes per step.
        pairs: pairs per scene; ``scenes * pairs`` is the batch.
        checks: scenes to validate on.
        side: pixels of the model's input.
        seed: of scenes, crops and captions.
        workers: processes that draw. The pairs do not depend on it.
    """

    def __init__(
        self,
        *,
        steps: int,
        scenes: int = 16,
        pairs: int = 8,
        checks: int = 60,
        side: int = 64,
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        super().__init__()
        self.steps, self.scenes, self.pairs, self.checks = steps, scenes, pairs, checks
        self.side, self.seed, self.workers = side, seed, workers

    def train_dataloader(self) -> DataLoader[object]:
        """Batches of pictures (scenes * pairs, 3, side, side) uint8 and as many captions."""
        draw = partial(_pairs, side=self.side, count=self.pairs)
        data = _Drawn(self.steps * self.scenes, World.TRAINING, self.seed, draw)
        return DataLoader(data, batch_size=self.scenes, collate_fn=_join, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[object]:
        """One :class:`Check` at a time."""
        data = _Drawn(self.checks, World.CHECKING, self.seed, partial(_check, side=self.side))
        return DataLoader(data, batch_size=None, num_workers=self.workers)
