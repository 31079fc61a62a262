"""What must hold before and while a bank is learned."""

from __future__ import annotations

import math

from torch import Tensor

from bsap.errors import BSAPError, ConfigError


def check_number(name: str, value: float, *, least: float = 0.0, most: float = math.inf, above: bool = False) -> None:
    """Raise a ConfigError unless a setting is a finite number in its range.

    Args:
        name: as the command line calls it.
        value: what was given.
        least: the smallest value.
        most: the greatest value.
        above: whether the smallest value itself is too small.

    Example:
        >>> check_number("model.lr", -1.0, above=True)
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: `model.lr` must be a number greater than 0, but got -1.0.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and (least < value if above else least <= value) and value <= most:
        return
    allowed = f"greater than {least:g}" if above else f"of at least {least:g}"
    allowed += f" and at most {most:g}" if most < math.inf else ""
    raise ConfigError(f"`{name}` must be a number {allowed}, but got {value!r}.")


def finite(x: Tensor) -> Tensor:
    """Gives ``x`` back.

    Raises:
        BSAPError: if it holds NaN or infinite values; says only what, for who knows where to add.
    """
    if not bool(x.isfinite().all()):
        raise BSAPError("a feature")
    return x
