"""What must hold before and while a bank is learned."""

from __future__ import annotations

from torch import Tensor

from bsap.errors import BSAPError, check_number

__all__ = ["check_number", "finite"]


def finite(x: Tensor) -> Tensor:
    """Gives ``x`` back.

    Raises:
        BSAPError: if it holds NaN or infinite values; says only what, for who knows where to add.
    """
    if not bool(x.isfinite().all()):
        raise BSAPError("a feature")
    return x
