"""A server of processes: imports the heavy packages once, then forks the ranks of many runs. Started by `processes.py`.

Every rank is a real process with the environment that `torchrun` gives it. Requests and answers are lines of JSON on
standard input and output:

    {"world": 2, "args": ["test", ...], "folder": "for rank0.err", "hooks": [["slow", {...}]]}  -> [pid, ...]
        ("only": [0] starts some of the ranks)
    {"wait": [pid, ...], "timeout": 60}  -> [exit status (negative: signal) or null, ...]; what still runs is killed
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from ports import free_port


def be_rank(rank: int, port: int, request: dict[str, Any]) -> int:
    """Run the command line as one of several processes; returns its exit status."""
    import hooks
    import torch

    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(Path(request["folder"]) / f"rank{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream.fileno())
    os.environ.update(
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(request["world"]), "NODE_RANK": "0"}
        | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    )
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    try:
        for name, arguments in request.get("hooks", ()):
            getattr(hooks, name)(rank, **arguments)
        from bsap.cli import main

        return main([*request["args"], "--trainer.devices", str(request["world"])])
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def start(request: dict[str, Any]) -> list[int]:
    port, pids = free_port(), []
    for rank in request.get("only") or range(request["world"]):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = be_rank(rank, port, request)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def wait(pids: list[int], timeout: float) -> list[int | None]:
    codes: dict[int, int] = {}
    end = time.monotonic() + timeout
    while len(codes) < len(pids) and time.monotonic() < end:
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for pid in set(pids) - set(codes):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [codes.get(pid) for pid in pids]


def serve() -> None:
    # The slow part of every start, done once.
    import open_clip  # noqa: F401

    import bsap.cli.evaluate  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(request["wait"], request["timeout"]) if "wait" in request else start(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
