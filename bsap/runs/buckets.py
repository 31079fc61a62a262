"""The fields that results are broken down by, and the buckets of their values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bsap.errors import ConfigError, unknown

BUCKETS: dict[str, tuple[int, ...]] = {
    "words": (1, 2, 3, 4, 5, 6, 9, 13),
    "distractors": (0, 1, 2, 3, 4, 5, 10),
}
"""The least value of each bucket; the last one is open. ``category`` is not put into buckets."""

FIELDS = ("category", *BUCKETS)
"""What results can be broken down by."""


def check_fields(fields: Sequence[str], referents: Iterable[tuple[str | None, int | None]] = ()) -> None:
    """Raise a ConfigError for a field that results cannot be broken down by.

    Referents are given as category and number of distractors. One with a category whose distractors are not known has a
    picture of which only the objects that expressions refer to are annotated.
    """
    for name in fields:
        if name not in FIELDS:
            raise unknown("field to break down by", name, FIELDS)
    if "distractors" in fields and any(known is not None and count is None for known, count in referents):
        raise ConfigError(
            "These data hold only the objects that expressions refer to, so that distractors cannot be counted. Leave "
            "`distractors` out of the fields to break down by."
        )


def bucket(field: str, value: str | int | None) -> str:
    """The name of the bucket that a record's value falls into.

    The buckets do not depend on the data, so those of two runs can be compared.

    Example:
        >>> [bucket("words", n) for n in (1, 5, 6, 8, 9, 40)]
        ['1', '5', '6-8', '6-8', '9-12', '13+']
        >>> bucket("category", "dog"), bucket("distractors", None)
        ('dog', 'unknown')
    """
    if value is None:
        return "unknown"
    if field not in BUCKETS:
        return str(value)
    return range_name(int(value), BUCKETS[field])


def range_name(value: int, starts: Sequence[int]) -> str:
    """The name of the range that a number falls into; ``starts`` are the least values, the last range is open.

    Example:
        >>> [range_name(n, (0, 1, 5)) for n in (0, 3, 9)]
        ['0', '1-4', '5+']
    """
    index = max((i for i, start in enumerate(starts) if start <= value), default=0)
    if index == len(starts) - 1:
        return f"{starts[index]}+"
    last = starts[index + 1] - 1
    return str(last) if last == starts[index] else f"{starts[index]}-{last}"
