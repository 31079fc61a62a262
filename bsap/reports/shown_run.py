"""A finished run to look into: its expressions by id or by outcome, with their scenes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from bsap.analysis.comparison import read_records
from bsap.datamodules.scene import Expression, Scene
from bsap.datamodules.split_reader import SplitReader
from bsap.errors import ConfigError, DataError, check_names
from bsap.runs.records import target_count
from bsap.runs.saved import read_run
from bsap.runs.schema import Choice, Record


class ShownRun:
    """A finished run with its data, but without its model.

    Args:
        folder: the run.
        root: the data's root, where it is not that of the run.
        images: the folder of pictures, where it is not that of the run.

    Attributes:
        records: the run's predictions, in annotation order.
        tasks: what it measured.
        model: the settings of its model.
        results: its ``results.json``.

    Raises:
        DataError: if the run is not finished.
    """

    def __init__(self, folder: Path, *, root: str | None = None, images: str | None = None) -> None:
        run = read_run(folder)
        self.folder, self.results = folder, run.finished()
        self.records = read_records(run)
        self.model: Mapping[str, Any] = run.settings["model"]
        self.tasks: list[str] = list(self.model["tasks"])
        moved = {"root": root, "images": images}
        self._data = {**run.settings["data"], **{key: value for key, value in moved.items() if value is not None}}
        self._scenes: dict[str, tuple[Scene, Expression]] | None = None

    @property
    def scorers(self) -> list[str]:
        """The names of the run's scorers."""
        return list(self.records[0]["scorers"])

    def find(self, names: Sequence[str]) -> list[Record]:
        """Records by whole ids, or by their keys.

        Raises:
            DataError: for an id that the run does not have, or a key that several expressions share.
        """
        known: dict[str, list[Record]] = {}
        for record in self.records:
            for name in {record["id"], key_of(record["id"])}:
                known.setdefault(name, []).append(record)
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3)
                hint = f"Did you mean {' or '.join(near)}? " if near else ""
                raise DataError(
                    f"{self.folder} has no expression {name!r}. {hint}Its {len(self.records)} ids look like "
                    f"{self.records[0]['id']}."
                )
            if len(known[name]) > 1:
                ids = ", ".join(record["id"] for record in known[name][:5])
                raise DataError(f"{self.folder} has {len(known[name])} expressions {name!r}: give the whole id, {ids}.")
        return [known[name][0] for name in names]

    def select(self, *, disagree: bool = False, wrong: str | None = None) -> list[Record]:
        """Records where scorers differ, or where one was wrong, or both; all without either.

        Raises:
            ConfigError: for a scorer that the run does not have.
        """
        chosen = self.records
        if disagree:
            chosen = [r for r in chosen if len({tuple(sorted(answer_of(row))) for row in r["scorers"].values()}) > 1]
        if wrong is not None:
            check_names("scorer", [wrong], self.scorers)
            chosen = [r for r in chosen if self.hit(r, wrong) is False]
        return chosen

    def hit(self, record: Record, scorer: str) -> bool | None:
        """Whether a scorer chose right: by the run's own rule for boxes, else by masks with I/U of at least 0.5.

        Where answers are sets, all of their boxes match all targets, or nothing is answered and nothing is meant. None
        where the referent, or for masks its mask, is not known.
        """
        row = record["scorers"][scorer]
        if "matched" in row:
            return row["matched"] == len(row["regions"]) == target_count(record)
        if "box_iou" in row:
            return bool(row["box_iou"] > 0.5 if self.model["strict"] else row["box_iou"] >= 0.5)
        return bool(2 * row["intersection"] >= row["union"]) if "union" in row else None

    def scene(self, record: Record) -> tuple[Scene, Expression]:
        """The scene that a record is about, and its expression.

        Raises:
            DataError: if the data are not there, or not those of the run any more.
        """
        if self._scenes is None:
            self._scenes = {e.id: (scene, e) for scene in self._load() for e in scene.expressions}
        scene, expression = self._scenes.get(record["id"], (None, None))
        if scene is None or expression is None:
            raise self._changed(record, "the expression is not there")
        boxes = scene.proposals.boxes
        same = len(boxes) == record["n_regions"] and all(
            row["region"] is None or row["box"] == boxes[row["region"]].tolist() for row in record["scorers"].values()
        )
        if not same:
            raise self._changed(record, "the picture has other proposals")
        return scene, expression

    def _changed(self, record: Record, what: str) -> DataError:
        return DataError(
            f"{self.folder}, {record['id']}: the data have changed since the run: {what}. Restore the "
            "annotations and the file of proposals, or run `bsap test` again."
        )

    def _load(self) -> list[Scene]:
        root = self._data.get("root")
        if not Path(str(root)).is_dir():
            raise DataError(
                f"{self.folder} was evaluated on data in {root}, which is not a folder here. "
                "Set the place of the data with `--root FOLDER`."
            )
        try:
            data = SplitReader(**self._data)
        except TypeError as error:
            raise ConfigError(f"{self.folder} was not evaluated on a RefCOCODataModule: {error}.") from error
        return data.load_split(data.split)


def overlap_of(row: Choice) -> float | None:
    """IoU of a choice with the referent, of boxes if they were measured; None where the referent is not known."""
    if "union" not in row or "box_iou" in row:
        return row.get("box_iou")
    return row["intersection"] / row["union"] if row["union"] else 1.0  # nothing is answered, and nothing is meant


def answer_of(row: Choice) -> list[int]:
    """The regions of an answer: the chosen one, or all where answers are sets."""
    return row["regions"] if "regions" in row else [] if row["region"] is None else [row["region"]]


def boxes_of(row: Choice) -> list[list[float]]:
    """The boxes of :func:`answer_of`."""
    return row["boxes"] if "boxes" in row else [] if row["box"] is None else [row["box"]]


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """At most ``count`` records at even distances.

    Example:
        >>> [record["n"] for record in spread([{"n": n} for n in range(10)], 4)]
        [0, 2, 5, 7]
    """
    count = min(count, len(records))
    return [records[n * len(records) // count] for n in range(count)]


def by_label(scorers: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, str]]:
    """Run and scorer by a label, which names the run where there are several."""
    pairs = [(run, scorer) for run, names in scorers.items() for scorer in names]
    return {scorer if len(scorers) == 1 else f"{run}: {scorer}": (run, scorer) for run, scorer in pairs}


def key_of(id: str) -> str:
    """What follows the last ``/`` of an expression's id."""
    return id.rsplit("/", 1)[-1]


def file_name(id: str) -> str:
    """A file's name for an expression: its key; where that is not of plain small characters, with a digest of the id.

    Capitals need one, too: there are file systems for which ``A.png`` is ``a.png``.

    Example:
        >>> file_name("refcoco/unc/val/12")
        '12.png'
    """
    key = key_of(id)
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", key)[:80].lstrip(".")
    return f"{plain}.png" if plain == key.lower() else f"{plain}-{sha256(id.encode()).hexdigest()[:8]}.png"
