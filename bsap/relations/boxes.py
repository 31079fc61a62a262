"""Relations of boxes: how far each holds between every two of a picture's regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Weights = NDArray[np.float64]


def relation_matrix(name: str, boxes: ArrayLike) -> Weights:
    """How far each region has a relation to each other one.

    Left, right, above and below compare centres, bigger and smaller areas; inside is the share of a box that the other
    one covers.

    Args:
        name: of :data:`bsap.relations.entities.RELATIONS`.
        boxes: (R, 4), xyxy.

    Returns:
        (R, R): entry [r, s] is 0 to 1 for "r is NAME of s".

    Example:
        >>> relation_matrix("left", [[0, 0, 2, 2], [4, 0, 6, 2]]).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    if name == "inside":
        return _covered(np.stack([x0, y0, x1, y1], 1), np.stack([x0, y0, x1, y1], 1))
    area = (x1 - x0) * (y1 - y0)
    value = {
        "left": x0 + x1,
        "right": -x0 - x1,
        "above": y0 + y1,
        "below": -y0 - y1,
        "bigger": -area,
        "smaller": area,
    }[name]
    weights: Weights = (value[:, None] < value[None]).astype(np.float64)
    return weights


def between_weights(boxes: ArrayLike, first: Weights, second: Weights) -> Weights:
    """How far each region lies between two others, over what these two may be.

    A region lies between two others as far as the smallest box around both covers it.

    Args:
        boxes: (R, 4), xyxy.
        first: (R,) distribution of the first of the two.
        second: (R,) distribution of the second.

    Returns:
        (R,); no region is between itself and another, and no two are the same.
    """
    known = np.asarray(boxes, np.float64).reshape(-1, 4)
    count = len(known)
    total = np.zeros(count)
    for one in np.flatnonzero(first):  # one at a time: R regions cubed would not fit into memory
        around = np.concatenate([np.minimum(known[one, :2], known[:, :2]), np.maximum(known[one, 2:], known[:, 2:])], 1)
        share = _covered(known, around)
        np.fill_diagonal(share, 0.0)
        share[one], share[:, one] = 0.0, 0.0
        total += first[one] * (share @ second)
    return total


def _covered(boxes: Weights, others: Weights) -> Weights:
    """(R, S): the share of each box that each other one covers; 0 for boxes without area."""
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    shares: Weights = sides.clip(min=0.0).prod(2) / np.where(area > 0, area, np.inf)[:, None]
    return shares
