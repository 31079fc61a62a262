"""Regions of objects of any class: the first stage of torchvision's two-stage detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FirstStage(nn.Module):
    """What a region proposal network finds, without a class: for proposals that COCO's 80 categories do not limit.

    Args:
        model: a detector of :mod:`torchvision.models.detection` with a region proposal network ``rpn``.
        score: the lowest objectness that is returned.
        most: the most regions of a picture.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015.
    """

    def __init__(self, model: Any, *, score: float, most: int) -> None:
        super().__init__()
        self.transform, self.backbone, self.rpn, self.most = model.transform, model.backbone, model.rpn, most
        self.rpn.score_thresh = score
        choose = self.rpn.filter_proposals

        def remember(*given: Any) -> Any:
            self.chosen = choose(*given)  # the network itself returns the boxes without their objectness
            return self.chosen

        self.rpn.filter_proposals = remember

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """For each (3, H, W) picture ``boxes`` (N, 4) xyxy in pixels and ``scores`` (N,), the best first."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, _ = self.transform(images)
        self.rpn(batch, self.backbone(batch.tensors))
        found = [
            {"boxes": boxes[: self.most], "scores": scores[: self.most], "labels": torch.ones_like(scores[: self.most])}
            for boxes, scores in zip(*self.chosen, strict=True)
        ]
        resized: list[dict[str, Tensor]] = self.transform.postprocess(found, batch.image_sizes, sizes)
        return resized
