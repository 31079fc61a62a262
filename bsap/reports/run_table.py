"""Many runs in one table: a row for each run and scorer, and a column for each setting in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from bsap.errors import DataError
from bsap.runs.saved import SavedRun

COUNTS = ("n", "missing")
TASKS = {"rec": "REC", "ris": "RIS"}

FILE = ("source", "path", "sha256", "pictures_not_in_file", "pictures_without_proposals")
"""What results say of their proposals that is no setting of its own; whatever else they say is a filter or policy."""
USUAL = (0, None, False, "miss")
"""Filters that leave nothing out, and the usual policy for pictures without proposals."""

MARKS = {
    "partial": "part of the split was left out by a filter or a skip",
    "incomplete": "other than the split's published number of expressions",
    "transductive": "the bank holds expressions of the split under test",
    "ground_truth": "chooses among the annotated objects, not among what a detector finds",
}
"""What a number must not be read without."""


@dataclass(frozen=True)
class Fact:
    """One setting of a row.

    Attributes:
        identity: two rows differ in the setting if this differs.
        text: as the table shows it.
        detail: shown as well where two different identities would look alike.
    """

    identity: Any
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        run: name of the run, or of a published method.
        scorer: name of the scorer; empty for a published method.
        facts: settings by column. A setting that is unknown, or without effect on the row, is left out.
        metrics: per cent, by column.
        n: expressions counted, by task; empty for a published method.
        missing: those of them that had no proposal to choose from, by task.
        marks: keys of :data:`MARKS`.
        source: where a published number stands; empty for a run.
        differs: how a published number was made differently.
    """

    run: str
    scorer: str
    facts: dict[str, Fact]
    metrics: dict[str, float]
    n: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    source: str = ""
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A table of runs.

    Attributes:
        rows: its rows.
        settings: columns of settings: those in which the rows differ.
        metrics: columns of metrics.
    """

    rows: tuple[Row, ...]
    settings: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def marks(self) -> list[str]:
        """The marks that occur."""
        return [mark for mark in MARKS if any(mark in row.marks for row in self.rows)]

    @property
    def missing(self) -> bool:
        """Whether any row counts expressions that had no proposal."""
        return any(any(row.missing.values()) for row in self.rows)


def compare(runs: Sequence[SavedRun], published: Sequence[Row] = ()) -> Comparison:
    """Put runs, and published rows below them, into one table.

    Args:
        runs: finished runs.
        published: from :func:`bsap.reports.published.published_rows`.

    Raises:
        DataError: if a run is not finished, or its results lack something.
    """
    names = _names(runs)
    rows = [row for run, name in zip(runs, names, strict=True) for row in rows_of(run, name)] + list(published)
    settings = [
        name for name in SETTINGS if len({_frozen(row.facts[name].identity) for row in rows if name in row.facts}) > 1
    ]
    metrics = dict.fromkeys(name for row in rows for name in row.metrics)
    return Comparison(tuple(_told_apart(row, rows) for row in rows), tuple(settings), tuple(metrics))


def rows_of(run: SavedRun, name: str) -> list[Row]:
    """The rows of one run."""
    results = run.finished()
    try:
        tables: Mapping[str, Mapping[str, Mapping[str, float]]] = results["metrics"]
        facts = {key: fact for key, make in SETTINGS.items() if (fact := make(results)) is not None}
        bank = results["protocol"]["bank"]
        used_by = None if bank is None else bank["used_by"]
        rows = []
        for scorer in dict.fromkeys(scorer for table in tables.values() for scorer in table):
            values = {task: table[scorer] for task, table in tables.items()}
            no_bank = used_by is not None and scorer not in used_by
            rows.append(
                Row(
                    run=name,
                    scorer=scorer,
                    facts={key: fact for key, fact in facts.items() if not (no_bank and key == "bank")},
                    metrics={
                        metric_column(task, metric): 100 * value
                        for task, row in values.items()
                        for metric, value in row.items()
                        if metric not in COUNTS
                    },
                    n={TASKS[task]: int(row["n"]) for task, row in values.items()},
                    missing={TASKS[task]: int(row["missing"]) for task, row in values.items()},
                    marks=_marks(results, transductive=not no_bank),
                )
            )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{run.folder / 'results.json'}: not the results of a run ({error!r}).") from error
    return rows


def metric_column(task: str, metric: str) -> str:
    """The column of a metric.

    Example:
        >>> metric_column("rec", "acc@0.5")
        'REC acc@0.5'
    """
    return f"{TASKS[task]} {metric}"


def counts(by_task: Mapping[str, int]) -> str:
    """Counts of the tasks in one cell: one number where they are equal.

    Example:
        >>> counts({"REC": 121, "RIS": 121}), counts({"REC": 121, "RIS": 30}), counts({})
        ('121', '121 / 30', '')
    """
    differ = len(set(by_task.values())) > 1
    return " / ".join(map(str, by_task.values() if differ else list(by_task.values())[:1]))


def _marks(results: Mapping[str, Any], *, transductive: bool) -> tuple[str, ...]:
    found = {
        "partial": results["partial"],
        "incomplete": not results["complete"] and not results["partial"],
        "transductive": transductive and results["transductive"],
        "ground_truth": (results["protocol"]["proposals"] or {}).get("source") == "ground_truth",
    }
    return tuple(mark for mark in MARKS if found[mark])


def _names(runs: Sequence[SavedRun]) -> list[str]:
    """Folder names, or whole paths where two folders have the same name."""
    names = [run.folder.resolve().name for run in runs]
    return [str(run.folder) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _told_apart(row: Row, rows: Sequence[Row]) -> Row:
    """The row with details where another row's different setting has the same text."""
    facts = {}
    for name, fact in row.facts.items():
        others = [other.facts[name] for other in rows if name in other.facts]
        alike = any(f.text == fact.text and _frozen(f.identity) != _frozen(fact.identity) for f in others)
        facts[name] = Fact(fact.identity, f"{fact.text} ({fact.detail})") if alike and fact.detail else fact
    return Row(**{**vars(row), "facts": facts})


def _frozen(value: Any) -> str:
    return repr(value)


# --- the settings -----------------------------------------------------------------------------------------------------


def short(value: Any) -> str:
    """A setting in few words.

    Example:
        >>> short(["crop", {"class_path": "bsap.views.Blur", "init_args": {"std": 50}}])
        'crop + Blur(std=50)'
        >>> short({"query": "a {}", "bank": "{}"}), short(None)
        ('query a {}, bank {}', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = ", ".join(f"{key}={short(item)}" for key, item in (value.get("init_args") or {}).items())
        return f"{str(value['class_path']).rpartition('.')[2]}({arguments})"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " + ".join(map(short, value))
    return str(value)


def _protocol(*keys: str) -> Callable[[Mapping[str, Any]], Fact | None]:
    def fact(results: Mapping[str, Any]) -> Fact | None:
        values = [results["protocol"][key] for key in keys]
        return Fact(values, " ".join(short(value) for value in values if value is not None))

    return fact


def _split(results: Mapping[str, Any]) -> Fact | None:
    names = [results["protocol"][key] for key in ("dataset", "split_by", "split")]
    return None if None in names else Fact("/".join(names), " ".join(names))


def _proposals(results: Mapping[str, Any]) -> Fact | None:
    given = results["protocol"]["proposals"]
    if given is None:
        return None
    changed = {key: value for key, value in given.items() if key not in FILE and value not in USUAL}
    file = "" if given["source"] == "ground_truth" else f" {PurePath(given['path'] or '').name}"
    digest = str(given.get("sha256"))
    text = given["source"].replace("_", " ") + file + (f", {short(changed)}" if changed else "")
    return Fact([given["source"], digest if file else None, changed], text, digest[:8])


def _model(results: Mapping[str, Any]) -> Fact:
    models = [(model["label"], model["weights_sha256"]) for model in results["models"]]
    return Fact(models, short([label for label, _ in models]), " + ".join(str(sha)[:8] for _, sha in models))


def _bank(results: Mapping[str, Any]) -> Fact | None:
    bank = results["protocol"]["bank"]
    if bank is None:
        return None
    seed = results["protocol"]["bank_seed"] if bank["transductive"] else 0
    digest = str(bank.get("prompts_digest"))
    return Fact([bank["name"], digest, seed], bank["name"] + (f", seed {seed}" if seed else ""), digest[:8])


def _hit(results: Mapping[str, Any]) -> Fact | None:
    return Fact(results["protocol"]["hit"], results["protocol"]["hit"]) if "rec" in results["metrics"] else None


def _wording(results: Mapping[str, Any]) -> Fact | None:
    data = results["settings"]["data"]
    if "text" not in data:
        return None
    return Fact([data["text"], data["lowercase"]], data["text"] + (", lower case" if data["lowercase"] else ""))


def _selection(results: Mapping[str, Any]) -> Fact:
    return Fact(results["selection"], short(results["selection"]) or "all")


def _precision(results: Mapping[str, Any]) -> Fact:
    return Fact(results["precision"]["effective"], results["precision"]["effective"])


SETTINGS: dict[str, Callable[[Mapping[str, Any]], Fact | None]] = {
    "split": _split,
    "selection": _selection,
    "wording": _wording,
    "proposals": _proposals,
    "model": _model,
    "views": _protocol("views"),
    "resize": _protocol("resize"),
    "templates": _protocol("templates"),
    "phrases": _protocol("phrases"),
    "bank": _bank,
    "aggregate": _protocol("aggregate"),
    "hit": _hit,
    "missing mask": _protocol("missing_mask"),
    "precision": _precision,
}
"""Column -> how to read it off ``results.json``; None where it has no meaning there."""
