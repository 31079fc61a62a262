"""The host waits for what it needs of the device, and not for all it has asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class SideStream:
    """A stream in which the host reads results while the device goes on with the next packs. Nothing on a CPU.

    Args:
        device: of the models.

    Example:
        >>> side = SideStream(torch.device("cpu"))
        >>> side.mark()
        >>> with side.after_mark():
        ...     print(float(torch.ones(1)))
        1.0
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._event = torch.cuda.Event() if device.type == "cuda" else None

    @property
    def exists(self) -> bool:
        """Whether the host gains by reading what is done before it reads what it has just asked for."""
        return self._stream is not None

    def mark(self) -> None:
        """What the device was asked for up to now is what :meth:`after_mark` may read."""
        if self._event is not None:
            self._event.record()

    @contextlib.contextmanager
    def after_mark(self) -> Iterator[None]:
        """Inside, work waits for what came before :meth:`mark` only; at the end the host waits for the work inside."""
        if self._stream is None or self._event is None:
            yield
            return
        self._stream.wait_event(self._event)
        with torch.cuda.stream(self._stream):
            yield
        # Before tensors that were made outside are freed, which other work could take.
        self._stream.synchronize()


class HostCopy:
    """A tensor on its way to the host: the device copies it when it gets there, and the host goes on meanwhile.

    Args:
        tensor: on any device.

    Example:
        >>> HostCopy(torch.ones(2)).wait()
        tensor([1., 1.])
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._tensor = tensor.cpu()

    def wait(self) -> Tensor:
        """The tensor on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor
