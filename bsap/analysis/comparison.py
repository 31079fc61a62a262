"""Saved runs against each other: which expressions they share, and what one scorer gains over another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bsap.analysis.outcomes import task_outcomes, task_records
from bsap.analysis.paired import Gain, compare_outcomes, holm
from bsap.errors import ConfigError, DataError, unknown
from bsap.runs.buckets import BUCKETS, bucket, check_fields
from bsap.runs.records import read_predictions
from bsap.runs.saved import SavedRun, read_run, unfinished
from bsap.runs.schema import TASKS, Record

SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
"""Least area of the referent's box in square pixels, as COCO divides objects."""


def _size(record: Record) -> str:
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in record["referent"]["boxes"]]
    if not areas:
        return "no target" if record["referent"].get("match") == "all" else "unknown"
    return [name for name, least in SIZES.items() if least <= max(areas)][-1]


FIELDS: dict[str, Callable[[Record], str]] = {
    "category": lambda record: bucket("category", record["category"]),
    "words": lambda record: bucket("words", record["words"]),
    "distractors": lambda record: bucket("distractors", record["distractors"]),
    "size": _size,
}
"""What a comparison can be broken down by, with the bucket of a record."""


@dataclass(frozen=True)
class Side:
    """One scorer of one run, with the run's predictions."""

    run: SavedRun
    scorer: str
    records: Sequence[Record]

    @property
    def label(self) -> str:
        """The side as the command line names it."""
        return f"{self.run.folder}:{self.scorer}"

    @property
    def strict(self) -> bool:
        """Whether the run counts a REC hit with IoU > 0.5."""
        return bool(self.run.settings["model"]["strict"])

    @property
    def metrics(self) -> list[str]:
        """The names ``task/metric`` in the order of ``results.json``."""
        tables = self.run.finished()["metrics"]
        names = [f"{task}/{name}" for task, scorers in tables.items() for name in scorers[self.scorer]]
        return [name for name in names if not name.endswith(("/n", "/missing"))]


@dataclass(frozen=True)
class Comparison:
    """What scorer B gains over the baseline A on the same expressions."""

    a: Side
    b: Side
    gains: Mapping[str, Sequence[Gain]]  # in every metric, for each bucket; the bucket `all` holds all expressions
    left_out: int  # expressions that only one of the runs has


def read_records(run: SavedRun) -> list[Record]:
    """The predictions of a finished run.

    Raises:
        DataError: if they are not all there.
    """
    results, path = run.finished(), run.folder / "predictions.jsonl"
    if not path.exists():
        raise unfinished(run.folder, path.name)
    return read_predictions(path, [task for task in TASKS if task in results["metrics"]])


def read_sides(a: str, b: str) -> list[tuple[Side, Side]]:
    """The pairs of scorers that two arguments ``RUN`` or ``RUN:SCORER`` name.

    Without a scorer, the scorer of the other argument is meant; without any, every scorer that both runs have.

    Raises:
        ConfigError: if a run does not have the scorer, or both arguments name the same one.
    """
    (run_a, scorer_a), (run_b, scorer_b) = map(_split, (a, b))
    records_a = read_records(run_a)
    records_b = records_a if run_a.folder.resolve() == run_b.folder.resolve() else read_records(run_b)
    names_a, names_b = list(records_a[0]["scorers"]), list(records_b[0]["scorers"])
    pairs = [(scorer_a or scorer_b, scorer_b or scorer_a)]
    if scorer_a is None and scorer_b is None:
        pairs = [(name, name) for name in names_a if name in names_b]
    found = []
    for name_a, name_b in pairs:
        for name, names in ((name_a, names_a), (name_b, names_b)):
            if name not in names:
                raise unknown("scorer", name, names)
        found.append((Side(run_a, str(name_a), records_a), Side(run_b, str(name_b), records_b)))
    if not found:
        raise ConfigError(f"{a} and {b} have no scorer in common. Name the scorers, for example {a}:{names_a[0]}.")
    if records_a is records_b and any(name_a == name_b for name_a, name_b in pairs):
        raise ConfigError(f"{a} and {b} are the same. Name two scorers of the run, for example {a}:{names_a[0]}.")
    return found


def _split(text: str) -> tuple[SavedRun, str | None]:
    """A run and the scorer after the last colon, if the whole text is no folder."""
    folder, colon, scorer = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        return read_run(Path(text).expanduser()), None
    return read_run(Path(folder).expanduser()), scorer


def compare_sides(
    a: Side,
    b: Side,
    *,
    metrics: Sequence[str] = (),
    by: Sequence[str] = (),
    common: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare a scorer with the baseline ``a`` in every metric, and in every bucket of some of :data:`FIELDS`.

    By default the metrics (``task/metric``) are all that both runs have. With ``common``, the expressions that both
    runs have are compared, instead of refusing runs over different ones.

    Raises:
        DataError: for runs over different expressions, unless ``common``, or without a common one.
        ConfigError: for runs with different rules for a hit, or unknown metrics or fields.
    """
    if a.strict != b.strict:
        raise ConfigError(
            f"{a.run.folder} and {b.run.folder} count a hit by different rules (`model.strict`). Evaluate one of them "
            "again with the rule of the other: the features are stored, so no picture is encoded again."
        )
    records_a, records_b, left_out = _paired(a, b, common=common)
    tables: dict[str, list[Gain]] = {}
    both = [name for name in a.metrics if name in b.metrics]
    for name in metrics:
        if name not in both:
            raise unknown("metric", name, both)
    if not both:
        raise ConfigError(
            f"{a.label} and {b.label} have no metric in common: {', '.join(a.metrics)}; {', '.join(b.metrics)}. "
            "Compare runs of one task, with answers of one kind (`model.answer`)."
        )
    for name in by:
        if name not in FIELDS:
            raise unknown("field to compare by", name, FIELDS)
    for task in TASKS:
        chosen = [name.split("/")[1] for name in metrics or both if name.startswith(f"{task}/")]
        if not chosen:
            continue
        counted = task_records(records_a, task)
        counted_b = task_records(records_b, task)
        if len(counted) != len(counted_b):
            raise DataError(f"{a.run.folder} and {b.run.folder} have masks for different referents.")
        one = task_outcomes(counted, a.scorer, task, chosen, strict=a.strict)
        other = task_outcomes(counted_b, b.scorer, task, chosen, strict=b.strict)
        for group, members in _groups(counted, by).items():
            pictures = [counted[number]["image_id"] for number in members]
            found = compare_outcomes(one.of(members), other.of(members), pictures, resamples=resamples, seed=seed)
            tables.setdefault(group, []).extend(found)
    return Comparison(a, b, tables, left_out)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction for all of their p-values together."""
    values = [g.p for c in comparisons for gains in c.gains.values() for g in gains if g.p is not None]
    left = iter(holm(values))
    return [
        replace(
            c,
            gains={
                name: [g if g.p is None else replace(g, p_holm=next(left)) for g in gains]
                for name, gains in c.gains.items()
            },
        )
        for c in comparisons
    ]


def _groups(records: Sequence[Record], by: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers of the records in each bucket, in the order of its values."""
    check_fields([name for name in by if name in BUCKETS], ((r["category"], r["distractors"]) for r in records))
    groups: dict[str, list[int]] = {"all": list(range(len(records)))}
    for name in by:
        buckets: dict[str, list[int]] = {}
        for number, record in enumerate(records):
            buckets.setdefault(FIELDS[name](record), []).append(number)
        groups |= {f"{name} {key}": buckets[key] for key in sorted(buckets, key=group_order)}
    return {key: np.array(members, np.intp) for key, members in groups.items()}


def group_order(name: str) -> tuple[float, str]:
    """What sorts groups: numbers ascending, sizes from small to large, names by the alphabet, ``unknown`` last."""
    digits = name.rstrip("+").partition("-")[0]
    number = float(digits) if digits.isdigit() else SIZES.get(name, 0.0)
    return (float("inf") if name in ("no target", "unknown") else number, name)


def _paired(a: Side, b: Side, *, common: bool) -> tuple[list[Record], list[Record], int]:
    """The records of the expressions that both sides have, in the order of A, and how many others there are."""
    of_b = {record["id"]: record for record in b.records}
    shared = [record for record in a.records if record["id"] in of_b]
    left_out = len(a.records) + len(b.records) - 2 * len(shared)
    if left_out and not common:
        raise DataError(
            f"{a.run.folder} and {b.run.folder} are runs over different expressions: they share {len(shared)}, and "
            f"{left_out} are in one of them only. Use `--common` to compare those that they share."
        )
    if not shared:
        raise DataError(f"{a.run.folder} and {b.run.folder} share no expression.")
    return shared, [of_b[record["id"]] for record in shared], left_out
