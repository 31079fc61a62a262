"""The precisions that encoders run in, and the devices that can. Everything after them is float32."""

from __future__ import annotations

import torch

from bsap.errors import ConfigError, ModelError

PRECISIONS: dict[str, torch.dtype | None] = {
    "32-true": None,
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
}
"""Lightning's name -> type of autocast, None for none."""


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """Refuse a precision in which Lightning would cast the batch itself, and a device that metrics cannot run on.

    Raises:
        ConfigError: for a precision other than :data:`PRECISIONS`, and for Apple's GPU, which has no float64.
    """
    if device is not None and device.type == "mps":
        raise ConfigError("Metrics need float64, which Apple's GPU does not have; set `--trainer.accelerator cpu`.")
    if precision not in PRECISIONS:
        raise ConfigError(
            f"Precision {precision!r} would round the boxes themselves. Use one of {', '.join(PRECISIONS)}."
        )


def autocast(precision: str, device: torch.device | str) -> torch.autocast:
    """What surrounds the encoders where no Trainer does.

    Example:
        >>> with autocast("bf16-mixed", "cpu"):
        ...     print((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        torch.bfloat16
    """
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)


def not_finite(label: str, what: str) -> ModelError:
    """The error for features, or ``what`` else in the plural, that are NaN or infinite.

    Example:
        >>> print(not_finite("demo", "text features"))
        Model 'demo' gives text features that are not finite. If the precision is 16-mixed or bf16-mixed, use full
        precision, `--trainer.precision 32-true`; otherwise use another weight file.
    """
    return ModelError(
        f"Model {label!r} gives {what} that are not finite. If the precision is 16-mixed or bf16-mixed, use full "
        "precision, `--trainer.precision 32-true`; otherwise use another weight file."
    )
