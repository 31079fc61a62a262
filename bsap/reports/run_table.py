"""Many runs in one table: a row for each run and scorer, and a column for each setting in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from bsap.errors import DataError, unknown
from bsap.runs.saved import SavedRun
from bsap.runs.settings import region_bank_name

if TYPE_CHECKING:
    from bsap.analysis.paired import Gain

COUNTS = ("n", "missing")
TASKS = {"rec": "REC", "ris": "RIS"}

FILE = ("source", "path", "sha256", "pictures_not_in_file", "pictures_without_proposals")
"""What results hold about proposals that is not a setting of its own; the rest is a filter or a policy."""
USUAL = (0, None, False, "miss")
"""Filters that leave nothing out, and the usual policy for pictures without proposals."""

MARKS = {
    "partial": "part of the split was left out by a filter or a skip",
    "incomplete": "other than the split's published number of expressions",
    "transductive": "the bank holds expressions, or the region bank regions, of the split under test",
    "unchecked": "results.json has no checksum, as in version 0.1.0: `bsap score` compares it with the predictions",
    "ground_truth": "chooses among the annotated objects, not among what a detector finds",
}
"""What a number must not be read without."""


@dataclass(frozen=True)
class Setting:
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
        settings: by column. A setting that is unknown, or without effect on the row, is left out.
        metrics: per cent, by column.
        n: expressions counted, by task; empty for a published method.
        missing: those of them that had no proposal to choose from, by task.
        marks: keys of :data:`MARKS`.
        source: where a published number stands; empty for a run.
        differs: how a published number was made differently.
        gains: gains over a baseline, by column.
        best: columns in which no other row of the same split and proposals is better.
        folder: the run's folder; empty for a published method.
    """

    run: str
    scorer: str
    settings: dict[str, Setting]
    metrics: dict[str, float]
    n: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    source: str = ""
    differs: tuple[str, ...] = ()
    gains: Mapping[str, Gain] = field(default_factory=dict)
    best: frozenset[str] = frozenset()
    folder: str = ""


@dataclass(frozen=True)
class RunTable:
    """A table of runs.

    Attributes:
        rows: its rows.
        settings: columns of settings: those in which the rows differ.
        metrics: columns of metrics.
        gains: those of the metrics that have a gain beside them.
        baseline: what the gains are over.
        notes: lines below the table.
    """

    rows: tuple[Row, ...]
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    gains: tuple[str, ...] = ()
    baseline: str = ""
    notes: tuple[str, ...] = ()

    @property
    def marks(self) -> list[str]:
        """The marks that occur."""
        return [mark for mark in MARKS if any(mark in row.marks for row in self.rows)]

    @property
    def missing(self) -> bool:
        """Whether any row counts expressions that had no proposal."""
        return any(any(row.missing.values()) for row in self.rows)


def make_table(runs: Sequence[SavedRun], published: Sequence[Row] = (), *, metrics: Sequence[str] = ()) -> RunTable:
    """Put runs, and published rows below them, into one table.

    A scorer that does not use the bank gives the same row in runs that differ in nothing else: such a row stands once.

    Args:
        runs: finished runs.
        published: from :func:`bsap.reports.published.published_rows`.
        metrics: names ``task/metric`` to show, in rows that have one of them; by default all.

    Raises:
        DataError: if a run is not finished, or its results lack something.
        ConfigError: for an unknown metric.
    """
    names = run_names(runs)
    own = _once([row for run, name in zip(runs, names, strict=True) for row in rows_of(run, name)])
    rows = [*_with_best(own), *published]
    found = {name: {repr(row.settings[name].identity) for row in rows if name in row.settings} for name in SETTINGS}
    settings = [name for name, identities in found.items() if len(identities) > 1]
    columns = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if metrics:
        known = {metric_name(name): name for name in columns}
        for name in metrics:
            if name not in known:
                raise unknown("metric", name, known)
        columns = [known[name] for name in metrics]
        rows = [row for row in rows if row.metrics.keys() & set(columns)]
    return RunTable(tuple(_distinguished(row, rows) for row in rows), tuple(settings), tuple(columns))


def _once(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of another run that say the same of the same scorer."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        settings = {name: setting.identity for name, setting in row.settings.items()}
        found.setdefault(repr([row.scorer, settings, row.metrics, row.n, row.missing, row.marks]), []).append(row)
    once = []
    for same in found.values():
        others = len({row.run for row in same}) - 1
        once.append(replace(same[0], run=f"{same[0].run} and {others} more" if others else same[0].run))
    return once


def _with_best(rows: Sequence[Row]) -> list[Row]:
    """The rows with the metrics in which they are the best of several of the same split and proposals."""
    best: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            best.setdefault((_rivals(row), name), []).append(value)

    def leads(row: Row, name: str) -> bool:
        values = best[_rivals(row), name]
        return len(values) > 1 and row.metrics[name] == max(values)

    return [replace(row, best=frozenset(name for name in row.metrics if leads(row, name))) for row in rows]


def _rivals(row: Row) -> str:
    """What rows must share to be compared: the split and the proposals."""
    return repr([row.settings[name].identity for name in ("split", "proposals") if name in row.settings])


def rows_of(run: SavedRun, name: str) -> list[Row]:
    """The rows of one run."""
    results = run.finished()
    try:
        tables: Mapping[str, Mapping[str, Mapping[str, float]]] = results["metrics"]
        settings = {key: setting for key, make in SETTINGS.items() if (setting := make(results)) is not None}
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
                    settings={key: setting for key, setting in settings.items() if not (no_bank and key == "bank")},
                    metrics={
                        metric_column(task, metric): 100 * value
                        for task, row in values.items()
                        for metric, value in row.items()
                        if metric not in COUNTS
                    },
                    n={TASKS[task]: int(row["n"]) for task, row in values.items()},
                    missing={TASKS[task]: int(row["missing"]) for task, row in values.items()},
                    marks=_marks(results, scorer),
                    folder=str(run.folder),
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


def metric_name(column: str) -> str:
    """The name ``task/metric`` of a column.

    Example:
        >>> metric_name("REC acc@0.5")
        'rec/acc@0.5'
    """
    task, _, metric = column.partition(" ")
    return f"{task.lower()}/{metric}"


def counts(by_task: Mapping[str, int]) -> str:
    """Counts of the tasks in one cell: one number where they are equal.

    Example:
        >>> counts({"REC": 121, "RIS": 121}), counts({"REC": 121, "RIS": 30}), counts({})
        ('121', '121 / 30', '')
    """
    differ = len(set(by_task.values())) > 1
    return " / ".join(map(str, by_task.values() if differ else list(by_task.values())[:1]))


def _marks(results: Mapping[str, Any], scorer: str) -> tuple[str, ...]:
    banks = [results["protocol"].get(name) or {} for name in ("bank", "region_bank")]
    found = {
        "partial": results["partial"],
        "incomplete": not results["complete"] and not results["partial"],
        "transductive": any(bank.get("transductive") and scorer in bank["used_by"] for bank in banks),
        "unchecked": "numbers_sha256" not in results,
        "ground_truth": (results["protocol"]["proposals"] or {}).get("source") == "ground_truth",
    }
    return tuple(mark for mark in MARKS if found[mark])


def run_names(runs: Sequence[SavedRun]) -> list[str]:
    """Folder names, or whole paths where two folders have the same name."""
    names = [run.folder.resolve().name for run in runs]
    return [str(run.folder) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _distinguished(row: Row, rows: Sequence[Row]) -> Row:
    """The row with details where another row's different setting has the same text."""
    settings = dict(row.settings)
    for name, setting in row.settings.items():
        others = [other.settings[name] for other in rows if name in other.settings]
        alike = any(f.text == setting.text and repr(f.identity) != repr(setting.identity) for f in others)
        if alike and setting.detail:
            settings[name] = Setting(setting.identity, f"{setting.text} ({setting.detail})")
    return replace(row, settings=settings)


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


def plain(value: Any, none: str = "none") -> Setting:
    """A setting whose text says all of it; ``none`` stands for None and for nothing at all."""
    return Setting(value, short(value) if value or value == 0 else none)


def _protocol(key: str) -> Callable[[Mapping[str, Any]], Setting]:
    return lambda results: plain(results["protocol"][key], none="")


def _split(results: Mapping[str, Any]) -> Setting | None:
    names = [results["protocol"][key] for key in ("dataset", "split_by", "split")]
    return None if None in names else Setting("/".join(names), " ".join(names))


def _proposals(results: Mapping[str, Any]) -> Setting | None:
    given = results["protocol"]["proposals"]
    if not given:
        return None
    changed = {key: value for key, value in given.items() if key not in FILE and value not in USUAL}
    source = str(given.get("source"))
    file = f" {PurePath(given['path']).name}" if given.get("path") and source != "ground_truth" else ""
    digest = str(given.get("sha256"))
    text = source.replace("_", " ") + file + (f", {short(changed)}" if changed else "")
    return Setting([source, digest if file else None, changed], text, digest[:8])


def _model(results: Mapping[str, Any]) -> Setting:
    models = [(model["label"], model["weights_sha256"]) for model in results["models"]]
    return Setting(models, short([label for label, _ in models]), " + ".join(str(sha)[:8] for _, sha in models))


def _bank(results: Mapping[str, Any]) -> Setting | None:
    bank = results["protocol"]["bank"]
    if bank is None:
        return None
    seed = results["protocol"]["bank_seed"] if bank["transductive"] else 0
    digest = str(bank.get("prompts_digest"))
    return Setting([bank["name"], digest, seed], bank["name"] + (f", seed {seed}" if seed else ""), digest[:8])


def _relations(results: Mapping[str, Any]) -> Setting:
    value = results["protocol"].get("relations") or "no"  # runs of earlier versions do not say
    return Setting(value, "yes" if value is True else short(value))


def _answer(results: Mapping[str, Any]) -> Setting:
    rule = results["protocol"].get("answer") or {"rule": "top"}  # earlier versions knew no other
    if rule["rule"] == "top":
        return Setting("top", "the best region")
    return Setting(rule, f"{rule['over']} at least {rule['value']:g}, NMS {short(rule['nms'])}")


def _wording(results: Mapping[str, Any]) -> Setting | None:
    data = results["settings"]["data"]
    if "text" not in data:
        return None
    return Setting([data["text"], data["lowercase"]], data["text"] + (", lower case" if data["lowercase"] else ""))


SETTINGS: dict[str, Callable[[Mapping[str, Any]], Setting | None]] = {
    "split": _split,
    "selection": lambda results: plain(results["selection"], none="all"),
    "wording": _wording,
    "proposals": _proposals,
    "model": _model,
    "views": _protocol("views"),
    "resize": _protocol("resize"),
    "templates": _protocol("templates"),
    "phrases": _protocol("phrases"),
    "relations": _relations,
    "transform": lambda results: plain(results["protocol"].get("transform")),
    "region bank": lambda results: Setting(*region_bank_name(results["protocol"].get("region_bank"))),
    "bank": _bank,
    "aggregate": _protocol("aggregate"),
    "answer": _answer,
    "hit": lambda results: plain(results["protocol"]["hit"]) if "rec" in results["metrics"] else None,
    "missing mask": _protocol("missing_mask"),
    "precision": lambda results: plain(results["precision"]["effective"]),
}
"""Column -> how to read it off ``results.json``; None where it has no meaning there."""
