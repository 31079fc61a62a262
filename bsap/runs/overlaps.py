"""The overlap of each proposal of a scene with each referent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bsap.datamodules.scene import Scene
from bsap.metrics.functional import box_iou_pairs


def referent_ious(scene: Scene) -> dict[int, Tensor]:
    """IoU of all proposals with all referents of a scene, computed at once.

    Returns:
        For each referent, by its ``id()``, (R,) float64: the best IoU over its annotations. Referents without a box, as
        in a user's own picture, are left out.
    """
    referents = {id(e.referent): e.referent for e in scene.expressions if len(e.referent.boxes)}
    if not referents:
        return {}
    targets = torch.from_numpy(np.concatenate([referent.boxes for referent in referents.values()]))
    boxes = torch.from_numpy(scene.proposals.boxes)
    pairs = box_iou_pairs(boxes.repeat(len(targets), 1), targets.repeat_interleave(len(boxes), 0))
    rows = pairs.view(len(targets), len(boxes)).split([len(referent.boxes) for referent in referents.values()])
    return {key: row.amax(0) for key, row in zip(referents, rows, strict=True)}
