"""Which expressions of a split are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bsap.datamodules.files import expanded, read_bytes, text_lines
from bsap.datamodules.records import ExpressionRecord
from bsap.datamodules.reviewed import Reviewed, label_errors
from bsap.errors import ConfigError, DataError, check_number, unknown


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Filters over expressions, as :class:`~bsap.datamodules.split_reader.SplitReader` takes them; all must hold.

    Words are counted at white space. Nothing in the picture is a set of 0 targets.

    Example:
        >>> Selection(limit=100, category="dog").given()
        {'limit': 100, 'category': ['dog']}
    """

    ids: tuple[str, ...] | str | None = None
    limit: int | None = None
    category: tuple[str, ...] | str | None = None
    min_words: int | None = None
    max_words: int | None = None
    min_distractors: int | None = None
    max_distractors: int | None = None
    min_targets: int | None = None
    max_targets: int | None = None
    review: str | None = None

    def __post_init__(self) -> None:
        ranges = [(f"min_{what}", f"max_{what}") for what in ("words", "distractors", "targets")]
        for name in ("limit", *chain(*ranges)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), least=int(name == "limit"), whole=True)
        for low, high in ranges:
            a, b = getattr(self, low), getattr(self, high)
            if a is not None and b is not None and a > b:
                raise ConfigError(f"`{low}` = {a} and `{high}` = {b} leave no expression.")

    def given(self) -> dict[str, Any]:
        """The filters that are set, as plain data: empty when none is."""
        plain: dict[str, Any] = {name: value for name, value in asdict(self).items() if value is not None}
        if isinstance(self.ids, tuple):
            plain["ids"] = list(self.ids)
        if self.category is not None:
            plain["category"] = [self.category] if isinstance(self.category, str) else list(self.category)
        return plain

    def apply(self, expressions: Sequence[ExpressionRecord]) -> list[ExpressionRecord]:
        """The expressions that pass, in annotation order.

        Raises:
            ConfigError: for an id or category that the split does not have, or when nothing passes.
            DataError: for a filter by category where the annotations know none.
        """
        keep: list[Callable[[ExpressionRecord], bool]] = []
        if self.ids is not None:
            ids = self._known_ids(expressions)
            keep.append(lambda e: e.id in ids)
        if self.category is not None:
            names = self._known_categories(expressions)
            keep.append(lambda e: e.referent.category in names)
        if (self.min_distractors, self.max_distractors) != (None, None):
            _need_distractors(expressions)
            keep.append(lambda e: _within(e.referent.distractors, self.min_distractors, self.max_distractors))
        keep.append(lambda e: _within(len(e.text.split()), self.min_words, self.max_words))
        keep.append(lambda e: _within(len(e.referent.ann_ids), self.min_targets, self.max_targets))
        if self.review is not None:
            named = [Reviewed(e.id, e.referent.image_id, e.text, e.referent.corner) for e in expressions]
            errors = label_errors(expanded(self.review), named)
            keep.append(lambda e: e.id not in errors)
        chosen = [e for e in expressions if all(test(e) for test in keep)]
        if not chosen:
            raise ConfigError(f"No expression passes the filters {self.given()}.")
        return chosen[: self.limit]

    def _known_ids(self, expressions: Sequence[ExpressionRecord]) -> set[str]:
        by_name = {e.id: e.id for e in expressions} | {e.id.rsplit("/", 1)[1]: e.id for e in expressions}
        wanted = self.ids if isinstance(self.ids, tuple) else (self.ids,)
        if isinstance(self.ids, str) and self.ids not in by_name:
            wanted = _read_ids(Path(self.ids))
        if not wanted:
            given = f"the file {self.ids} holds none" if isinstance(self.ids, str) else "the list is empty"
            raise ConfigError(f"`ids` names no expression, {given}. Name some, or leave `ids` out to take all.")
        lost = [name for name in wanted if name not in by_name]
        if lost:
            example = expressions[0].id if expressions else "none"
            raise ConfigError(
                f"{len(lost)} of {len(wanted)} ids are not in this split, first {', '.join(map(str, lost[:5]))}. "
                f"Its ids look like {example}."
            )
        return {by_name[name] for name in wanted if name is not None}

    def _known_categories(self, expressions: Sequence[ExpressionRecord]) -> set[str]:
        _need_categories(expressions, "category")
        known = {e.referent.category for e in expressions if e.referent.category is not None}
        wanted = {self.category} if isinstance(self.category, str) else set(self.category or ())
        for name in sorted(wanted - known):
            raise unknown("category", name, known)
        return wanted


def _read_ids(file: Path) -> tuple[str, ...]:
    fix = "Give ids of this split, or a text file with one per line."
    return tuple(text_lines(read_bytes(file, what="file of ids", fix=fix), str(file)))


def _within(value: int | None, low: int | None, high: int | None) -> bool:
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _need_distractors(expressions: Sequence[ExpressionRecord]) -> None:
    what = "min_distractors / max_distractors"
    _need_categories(expressions, what)
    # A set of several categories, or of nothing, has neither a category nor distractors: such a filter leaves it out.
    lacking = next((e for e in expressions if e.referent.distractors is None and e.referent.match == "any"), None)
    if lacking is not None:
        raise DataError(
            f"{lacking.referent.where}: this file holds only the objects that expressions refer to, so `{what}` cannot "
            "count the others. Leave the filter out."
        )


def _need_categories(expressions: Sequence[ExpressionRecord], what: str) -> None:
    lacking = next((e for e in expressions if e.referent.category is None and e.referent.match == "any"), None)
    if lacking is not None:
        raise DataError(
            f"{lacking.referent.where}: this annotation has no category, so `{what}` cannot select by it. "
            "REFER's instances.json knows categories; in JSONL files give each object a 'category'."
        )
