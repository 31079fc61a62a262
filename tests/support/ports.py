"""Ports for processes that meet: outside the range from which the system takes ports of its own."""

from __future__ import annotations

import itertools
import os
import socket

# Below 32768, where Linux's own choices begin: a port found free by binding to 0 may go to any connection
# on the machine in the seconds before the first process listens on it. SLURM's jobs take 15000 to 24999.
FIRST, LAST = 25_000, 32_000
_numbers = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port that nobody listens on, and that no other call of this process returned lately."""
    for number in itertools.islice(_numbers, LAST - FIRST):
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("every port is taken")
