"""One process of several: read jobs, count this rank's shards, write what compute returns. Run by `conftest.py`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch.distributed


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
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
