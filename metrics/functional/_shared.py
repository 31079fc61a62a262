"""What both families of metrics check and divide in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def _check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The thresholds as floats, after making sure that each names one number between 0 and 1."""
    given = tuple(float(threshold) for threshold in thresholds)
    if not given or len(set(given)) != len(given) or not all(0.0 <= threshold <= 1.0 for threshold in given):
        raise ValueError(
            "Expected argument `thresholds` to be one or more different numbers between 0 and 1, "
            f"but got {tuple(thresholds)}."
        )
    return given


def _check_missing(missing: Tensor | None, like: Tensor) -> Tensor:
    """The missing samples as a bool tensor of the other argument's shape, on its device."""
    if missing is None:
        return torch.zeros_like(like, dtype=torch.bool)
    if missing.dtype != torch.bool or missing.shape != like.shape:
        raise ValueError(
            f"Expected argument `missing` to be a bool tensor of shape {tuple(like.shape)}, "
            f"but got {missing.dtype} of shape {tuple(missing.shape)}."
        )
    return missing.to(like.device)


def _check_int64(**counts: Tensor) -> None:
    """Refuse counts of N samples that are not int64 and of one length."""
    first = next(iter(counts.values()))
    for name, count in counts.items():
        if count.ndim != 1 or count.dtype != torch.int64 or count.shape != first.shape:
            raise ValueError(
                f"Expected argument `{name}` to be an int64 tensor of shape (N,), the same N for all, "
                f"but got {count.dtype} of shape {tuple(count.shape)}."
            )


def _check_all(valid: Tensor, name: str, values: Tensor, expected: str) -> None:
    """Refuse the first of N values that is not valid."""
    if not valid.all():
        row = int((~valid).nonzero()[0])
        raise ValueError(f"Expected argument `{name}` to be {expected}, but got {values[row].tolist()} in row {row}.")


def _reaches(iou: Tensor, thresholds: Sequence[float], *, strict: bool = False) -> Tensor:
    """Whether each of N float64 values reaches each of T thresholds: (N, T) bool."""
    bounds = torch.tensor(thresholds, dtype=torch.float64, device=iou.device)
    return iou[:, None] > bounds if strict else iou[:, None] >= bounds


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` of two counters in float64, NaN where the whole is 0.

    It is divided on the host: some devices have no float64, and a result must not depend on the device.
    """
    return part.cpu().double() / whole.cpu().double()


def _warn_if_empty(total: Tensor, name: str) -> None:
    several = distributed.is_available() and distributed.is_initialized()
    if int(total) == 0 and not (several and distributed.get_rank()):  # one process warns for all
        warnings.warn(f"{name} has seen no sample: its scores are NaN, not 0.", UserWarning, stacklevel=3)
