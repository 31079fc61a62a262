"""The loss: how likely the right regions are among all regions of a scene."""

from __future__ import annotations

import math

from torch import Tensor


def multi_positive_loss(rank: Tensor, positives: Tensor) -> Tensor:
    """-log of the summed probability of an expression's right regions.

    The probabilities are the softmax over regions of a scorer's rank: of z for BSAP, of the log of the mixture for
    BSAP-H. Several proposals may cover the referent well; the sum asks for any of them.

    Args:
        rank: ``(..., E, R)``, -inf where a region is padding.
        positives: ``(..., E, R)`` bool, True where a region's IoU with the referent is at least 0.5.

    Returns:
        ``(P,)``, one loss for each expression with at least one right region, in order; the others are left out.

    Example:
        >>> import torch
        >>> rank = torch.tensor([[0.0, 0.0, math.log(2.0)], [1.0, 2.0, 3.0]])
        >>> right = torch.tensor([[True, True, False], [False, False, False]])
        >>> multi_positive_loss(rank, right).exp()  # 1 / (1/4 + 1/4); the second expression has no right region
        tensor([2.])
    """
    rows = positives.any(-1)
    log_p = rank[rows].log_softmax(-1)
    return -log_p.masked_fill(~positives[rows], -math.inf).logsumexp(-1)
