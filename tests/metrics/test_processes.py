"""Both classes on real processes with unequal shards, one of them empty: the bits of one process."""

from __future__ import annotations

import pytest
import torch

from bsap.metrics import RECAccuracy, RECSetScores, RISScores, RISSetScores

BUILD = {
    "rec": lambda: RECAccuracy((0.5, 0.7), strict=True),
    "ris": RISScores,
    "rec_sets": RECSetScores,
    "ris_sets": RISSetScores,
}
SIZES = {
    2: [[7, 1, 40], []],
    3: [[1], [], [64, 9, 30, 2]],
}


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_bits_of_one(world, on_processes, batches):
    sizes = SIZES[world]
    jobs, expected = [], []
    for task, build in BUILD.items():
        shards = [batches(task, shard) for shard in sizes]
        alone = build()
        for shard in shards:
            for batch in shard:
                alone.update(*batch)
        jobs.append(([build() for _ in range(world)], shards))
        expected.append(alone.compute())
    nobody = [RISScores() for _ in range(world)], [[] for _ in range(world)]
    quarrel = [RECAccuracy((0.5,), strict=bool(rank)) for rank in range(world)], [batches("rec", [3])] * world

    results = on_processes([*jobs, nobody, quarrel])

    samples = sum(map(sum, sizes))
    for rank, (*found, empty, refused) in enumerate(results):
        for (values, own), alone in zip(found, expected, strict=True):
            assert own == sum(sizes[rank])
            assert values.keys() == alone.keys()
            assert values["n"] == samples
            for name, value in values.items():
                assert value.dtype == alone[name].dtype
                assert torch.equal(value, alone[name]), name
        assert empty[0]["oIoU"].isnan()
        assert empty[0]["n"] == 0
        assert "same `thresholds` and `strict`" in refused[0]
