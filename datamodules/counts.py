"""How many expressions and referents each published split has.

The numbers of val and test splits were counted in public conversions and equal what the papers' code loads; those of
the train splits are as commonly reported.
"""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """The size of a split."""

    expressions: int
    referents: int

    def __str__(self) -> str:
        return f"{self.expressions} expressions of {self.referents} referents"


PUBLISHED: dict[tuple[str, str, str], Counts] = {
    ("refcoco", "unc", "train"): Counts(120_624, 42_404),
    ("refcoco", "unc", "val"): Counts(10_834, 3_811),
    ("refcoco", "unc", "testA"): Counts(5_657, 1_975),
    ("refcoco", "unc", "testB"): Counts(5_095, 1_810),
    ("refcoco+", "unc", "train"): Counts(120_191, 42_278),
    ("refcoco+", "unc", "val"): Counts(10_758, 3_805),
    ("refcoco+", "unc", "testA"): Counts(5_726, 1_975),
    ("refcoco+", "unc", "testB"): Counts(4_889, 1_798),
    ("refcocog", "umd", "train"): Counts(80_512, 42_226),
    ("refcocog", "umd", "val"): Counts(4_896, 2_573),
    ("refcocog", "umd", "test"): Counts(9_602, 5_023),
    ("refcocog", "google", "train"): Counts(85_474, 44_822),
    ("refcocog", "google", "val"): Counts(9_536, 5_000),
}
"""(dataset, split_by, split) -> its published size. Splits that are not listed have no published size."""

DEFAULT_SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}
"""The partition that papers report for each dataset."""


def published(dataset: str, split_by: str, split: str) -> Counts | None:
    """The published size of a split, or None where none is known.

    Example:
        >>> published("refcoco", "unc", "val")
        Counts(expressions=10834, referents=3811)
    """
    return PUBLISHED.get((dataset, split_by, split))
