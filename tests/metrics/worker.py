"""Several processes: each reads jobs, counts its rank's shards and writes what compute returns. Run by `conftest.py`.

They are forked from one process, which imports torch and torchmetrics once for all.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from pathlib import Path

import torch.distributed

import bsap.metrics.sets  # noqa: F401 - with torchmetrics, the slow part of every start


def main(folder: Path, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    jobs = pickle.loads((folder / "jobs.pickle").read_bytes())
    init = (folder / "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=world_size)
    results = []
    for metrics, shards in jobs:
        metric = metrics[rank]
        for batch in shards[rank]:
            metric.update(*batch)
        try:
            values = metric.compute()
        except ValueError as error:
            values = str(error)
        results.append((values, int(metric.total)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    (folder / f"results{rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    world = int(sys.argv[2])
    children = []
    for number in range(world):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                main(Path(sys.argv[1]), number, world)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
