"""Runs on real processes, cheaply: see `ranks.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SUPPORT = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """The processes of one run."""

    pids: list[int]
    folder: Path
    server: Ranks

    def wait(self, timeout: float = 120) -> list[int | None]:
        """Exit status of every rank; None for one that did not end in time."""
        return self.server.ask({"wait": self.pids, "timeout": timeout})

    def errors(self) -> list[str]:
        """What every rank wrote to standard error."""
        return [(self.folder / f"rank{rank}.err").read_text() for rank in range(len(self.pids))]

    def check(self, status: int = 0) -> None:
        """Wait, and hold every rank to an exit status."""
        codes = self.wait()
        assert codes == [status] * len(self.pids), (codes, self.errors())


class Ranks:
    """Starts runs of `bsap test` on any number of processes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "ranks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._jobs = 0

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        config: dict[str, Any],
        folder: Path,
        *,
        world: int,
        hooks: Sequence[tuple[str, dict[str, Any]]] = (),
        only: Sequence[int] = (),
        flags: Sequence[str] = (),
    ) -> Job:
        """Start `bsap test`; ``hooks`` are functions of `hooks.py` with their arguments.

        ``only`` starts some of the ranks, as when the others were lost.
        """
        self._jobs += 1
        logs = folder / f"job{self._jobs}"
        logs.mkdir(parents=True)
        (logs / "config.yaml").write_text(yaml.safe_dump(config))
        args = ["test", "-c", str(logs / "config.yaml"), *flags]
        request = {"world": world, "args": args, "folder": str(logs), "hooks": hooks, "only": list(only)}
        return Job(self.ask(request), logs, self)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # a decoder that some test left holds the other end of the pipe
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(frozen=True)
class Outcome:
    """What a run folder holds."""

    results: dict[str, Any]
    records: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return cls(results, [json.loads(line) for line in lines])

    def check_same(self, other: Outcome, tolerance: float = 1e-4) -> float:
        """Hold two runs to the same result; returns the greatest difference of a score.

        Batches of other scenes move features in their last bits. A choice may differ where the two best scores lie
        that close; such expressions are listed, and none is expected.
        """
        for key in set(self.results) - {"timing", "settings", "predictions_sha256"}:
            assert self.results[key] == other.results[key], key
        assert [record["id"] for record in self.records] == [record["id"] for record in other.records]
        changed, greatest = [], 0.0
        for mine, theirs in zip(self.records, other.records, strict=True):
            assert {**mine, "scorers": None} == {**theirs, "scorers": None}
            for name, row in mine["scorers"].items():
                twin = theirs["scorers"][name]
                if {**row, "score": None} != {**twin, "score": None}:
                    changed.append((mine["id"], name))
                elif row["score"] is not None:
                    greatest = max(greatest, abs(row["score"] - twin["score"]))
        assert not changed, f"other choices: {changed}"
        assert greatest < tolerance
        return greatest
