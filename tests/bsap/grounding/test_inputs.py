"""Regions in the forms that Python users have them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bsap.grounding.inputs import to_proposals


@pytest.mark.parametrize("soft", [lambda m: m * 0.9 + 0.01, lambda m: m * 2.0 - 1.0], ids=["probabilities", "logits"])
def test_soft_masks_are_refused(soft: Any) -> None:
    masks = np.zeros((2, 20, 30))
    masks[0, :5, :5] = masks[1, 10:, 10:] = 1
    assert len(to_proposals(masks, 20, 30)) == 2
    with pytest.raises(ValueError, match=r"masks > 0.5` for probabilities"):
        to_proposals(soft(masks), 20, 30)


def test_normalised_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"look normalised to 0..1. Multiply x by 300 and y by 200"):
        to_proposals([[0.1, 0.1, 0.3, 0.3], [0.5, 0.4, 0.8, 0.8]], 200, 300)
