"""Batches to learn from: features of regions instead of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bsap.datamodules.scene import Scene
from bsap.runs.overlaps import referent_ious


@dataclass(frozen=True, eq=False)
class Example:
    """One scene, or one pseudo-scene made of texts.

    Attributes:
        id: its name in messages.
        texts: E expressions, without template.
        regions: (N, R, D) features of the regions, for each of N members.
        iou: (E, R), IoU of each region with the referent of each expression.
    """

    id: str
    texts: tuple[str, ...]
    regions: Tensor
    iou: Tensor


@dataclass(frozen=True, eq=False)
class LearningBatch:
    """B examples, padded.

    Attributes:
        ids: B names.
        texts: all expressions, example after example.
        counts: E of each example.
        regions: (B, N, R, D), zero in the padding.
        valid: (B, R) bool, where a region is real.
        iou: (B, E, R).
        real: (B, E) bool, where an expression is real.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    counts: tuple[int, ...]
    regions: Tensor
    valid: Tensor
    iou: Tensor
    real: Tensor

    @property
    def positives(self) -> Tensor:
        """(B, E, R) bool: the region covers the referent with an IoU of at least 0.5."""
        return (self.iou >= 0.5) & self.real[..., None] & self.valid[:, None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LearningBatch:
        """The same batch on ``device``."""
        names = ("regions", "valid", "iou", "real")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names})

    @classmethod
    def of(cls, examples: Sequence[Example]) -> LearningBatch:
        """Pad and stack examples; no examples give a batch of size 0."""
        if not examples:
            flags, regions = torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0, 0, 0, 0)
            return cls(ids=(), texts=(), counts=(), regions=regions, valid=flags, iou=torch.zeros(0, 0, 0), real=flags)
        regions = pad_sequence([example.regions.transpose(0, 1) for example in examples], batch_first=True)
        valid = (
            torch.arange(regions.shape[1]) < torch.tensor([example.regions.shape[1] for example in examples])[:, None]
        )
        counts = tuple(len(example.texts) for example in examples)
        real = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        iou = examples[0].iou.new_zeros(*real.shape, valid.shape[1])
        for rows, example in zip(iou, examples, strict=True):
            rows[: example.iou.shape[0], : example.iou.shape[1]] = example.iou
        return cls(
            ids=tuple(example.id for example in examples),
            texts=tuple(text for example in examples for text in example.texts),
            counts=counts,
            regions=regions.transpose(1, 2),
            valid=valid,
            iou=iou,
            real=real,
        )


def scene_example(scene: Scene, regions: Tensor) -> Example:
    """A scene with the (N, R, D) features of its regions."""
    ious = referent_ious(scene)
    return Example(
        id=scene.path.name,
        texts=tuple(expression.text for expression in scene.expressions),
        regions=regions,
        iou=torch.stack([ious[id(expression.referent)] for expression in scene.expressions]),
    )
