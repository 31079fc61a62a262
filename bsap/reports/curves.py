"""The curves of a report: how often scorers are right, by threshold, size, length, confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bsap.analysis.comparison import FIELDS, group_order
from bsap.reports.plots import Points, line_plot
from bsap.reports.shown_run import ShownRun, overlap_of
from bsap.runs.buckets import range_name
from bsap.runs.schema import Record

BINS = 10
"""Bins of the calibration curve."""

Scorers = Mapping[str, tuple[ShownRun, str]]
"""Run and scorer by label."""


def figures(scorers: Scorers) -> list[tuple[str, str, str]]:
    """Title, SVG and description of every curve."""
    hits = {label: hit_table(run, scorer) for label, (run, scorer) in scorers.items()}
    confidence = {label: _confidence(scorer, *hits[label]) for label, (_, scorer) in scorers.items()}
    shares = {n: pair for n, pair in confidence.items() if len(pair[0]) and pair[0].min() >= 0 and pair[0].max() <= 1}
    errors = ", ".join(f"{name} {calibration_error(*pair):.3f}" for name, pair in shares.items())
    groups = []
    for title, key in (
        ("Accuracy over the number of words", FIELDS["words"]),
        ("Accuracy over the size of the referent", FIELDS["size"]),
        ("Accuracy over the number of proposals", _proposals),
    ):
        names = sorted({key(record) for known, _ in hits.values() for record in known}, key=group_order)
        lines = {label: _by_group(names, key, *hits[label]) for label in scorers}
        svg = line_plot(lines, x=title.partition(" over the ")[2], y="share right", ticks=names)
        groups.append((title, svg, f"The share of right choices for {', '.join(names)}."))
    return [
        (
            "Accuracy over the threshold",
            line_plot({label: _over_threshold(*one) for label, one in scorers.items()}, x="IoU at least", y="share"),
            "The share of expressions whose chosen region overlaps the referent at least so much.",
        ),
        *groups,
        (
            "Accuracy over coverage",
            line_plot(
                {n: coverage(*c) for n, c in confidence.items()},
                x="share answered, most confident first",
                y="share right",
            ),
            "The share of right choices if only the most confident expressions are answered.",
        ),
        (
            "Calibration",
            line_plot({n: calibration(*c) for n, c in shares.items()}, x="score", y="share right", diagonal=True),
            f"The share of right choices by score, in {BINS} bins; a calibrated scorer lies on the diagonal. "
            f"Expected calibration error: {errors or 'no scorer has scores between 0 and 1'}.",
        ),
    ]


def hit_table(run: ShownRun, scorer: str) -> tuple[Sequence[Record], np.ndarray]:
    """The records whose outcome is known, and whether the scorer is right: (N,) bool."""
    known = [record for record in run.records if run.hit(record, scorer) is not None]
    return known, np.array([bool(run.hit(record, scorer)) for record in known], bool)


def _over_threshold(run: ShownRun, scorer: str) -> Points:
    found = (overlap_of(record["scorers"][scorer]) for record in run.records)
    values = np.array([value for value in found if value is not None])
    return [(t / 20, float((values >= t / 20).mean())) for t in range(1, 20)] if len(values) else []


def _proposals(record: Record) -> str:
    return range_name(record["n_regions"], (0, 1, 2, 5, 10, 20, 50))


def _by_group(names: list[str], key: Callable[[Record], str], known: Sequence[Record], right: np.ndarray) -> Points:
    groups = np.array([names.index(key(record)) for record in known], int)
    return [(n, float(right[groups == n].mean())) for n in range(len(names)) if (groups == n).any()]


def _confidence(scorer: str, known: Sequence[Record], right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the choices, and whether these are right."""
    scores = [record["scorers"][scorer]["score"] for record in known]
    there = np.array([score is not None for score in scores], bool)
    return np.array([score for score in scores if score is not None], float), right[there]


def coverage(scores: np.ndarray, right: np.ndarray) -> Points:
    """The share of right choices among the most confident ones, for shares of 5 % and more.

    Example:
        >>> coverage(np.array([0.9, 0.1]), np.array([True, False]))[-1]
        (1.0, 0.5)
    """
    order = np.argsort(-scores, kind="stable")
    counts = sorted({max(1, round(len(scores) * share / 20)) for share in range(1, 21)}) if len(scores) else []
    return [(count / len(scores), float(right[order[:count]].mean())) for count in counts]


def _bins(scores: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum((scores * BINS).astype(int), BINS - 1))


def calibration(scores: np.ndarray, right: np.ndarray) -> Points:
    """Mean score and share of right choices in each bin that is not empty."""
    bins = _bins(scores)
    return [(float(scores[bins == b].mean()), float(right[bins == b].mean())) for b in range(BINS) if (bins == b).any()]


def calibration_error(scores: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: the mean distance of score and accuracy over bins, weighted by their size.

    See Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> calibration_error(np.array([0.75, 0.75, 0.25]), np.array([True, True, False]))
        0.25
    """
    bins = _bins(scores)
    gaps = [abs(scores[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))
