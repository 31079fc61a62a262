"""The bias of runs as tables in Markdown, or as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from typing import TYPE_CHECKING

from bsap.reports.formats import TextTable, csv_text, json_text, markdown

if TYPE_CHECKING:
    from bsap.analysis.bias import Bias

SCORER_COLUMNS = {
    "popularity_share": "popularity share",
    "range_variation": "range variation",
    "hub_skewness": "hub skewness",
    "split_skewness": "split skewness",
    "hub_share": "to top tenth",
    "chosen_share": "chosen, to top tenth",
    "referent_share": "referents, to top tenth",
    "wrong": "wrong",
    "wrong_on_popular": "wrong on most popular",
    "wrong_by_chance": "by chance",
    "correction": "correction",
}
NUMBERS = ("hub_skewness", "split_skewness", "correction")
"""Columns that are no shares."""
MEASURES = ("mean", "spread", "range")

NOTES = (
    "Shares are in per cent. The row clip is before any correction, every other row after one.",
    "Popularity share: how much of the differences between the regions of a picture is the same for every text; 0 is "
    "balanced.",
    "Range variation: how unequal the ranges of the regions' scores over all texts are, their standard deviation over "
    "their mean; 0 is balanced.",
    "Hub skewness: of how often a region is the best of its picture; split skewness: among the ten best of the split.",
    "To top tenth: texts that choose the most popular tenth of the regions of their picture; then the same for the "
    "run's own choices and for the referents.",
    "Wrong on most popular: wrong choices that fall on the region that every sentence likes most; by chance: if wrong "
    "choices fell evenly.",
    "Correction: rank correlation of a region's popularity and of what the scorer adds to it; negative takes from the "
    "popular.",
)


def bias_tables(found: Mapping[str, Bias]) -> list[TextTable]:
    """Tables for people: scorers, what popularity depends on, similarities, and categories."""
    scorers = [
        [run, name, *(shown(getattr(values, key), share=key not in NUMBERS) for key in SCORER_COLUMNS)]
        for run, bias in found.items()
        for name, values in bias.scorers.items()
    ]
    changes = [
        [
            run,
            name,
            *(str(number) for part in (scorer.popular_changed, scorer.others_changed) for number in astuple(part)),
        ]
        for run, bias in found.items()
        for name, scorer in bias.scorers.items()
        if scorer.popular_changed.choices + scorer.others_changed.choices
    ]
    kinds = [f"{of}: {what}" for of in ("popular", "others") for what in ("CLIP's choices", "right", "wins", "losses")]
    names = list(dict.fromkeys(name for bias in found.values() for name in bias.depends))
    depends = [
        [run, shown(bias.background), *(shown(bias.depends.get(name, math.nan)) for name in names)]
        for run, bias in found.items()
    ]
    similar = [
        [
            run,
            *map(str, (bias.pictures, bias.regions, bias.texts)),
            *(shown(bias.similarity[of][what]) for of in ("split", "bank") for what in MEASURES),
            ", ".join(f"{model} {shown(gap)}" if len(bias.gap) > 1 else shown(gap) for model, gap in bias.gap.items()),
        ]
        for run, bias in found.items()
    ]
    measures = [f"{of} {what}" for of in ("texts", "bank") for what in MEASURES]
    categories = sorted({name for bias in found.values() for name in bias.categories})
    by_category = [
        [name, *(shown(bias.categories.get(name, math.nan)) for bias in found.values())] for name in categories
    ]
    columns = ["run", "scorer", *SCORER_COLUMNS.values()]
    return [
        TextTable("Scorers", columns, scorers, len(SCORER_COLUMNS), NOTES),
        TextTable(
            "Gains on popular regions and elsewhere",
            ["run", "scorer", *kinds],
            changes,
            len(kinds),
            [
                "CLIP's choices of the most popular region of their picture, and its others: how many, how many are "
                "right, and for how many the scorer is right instead (wins) or wrong instead (losses).",
            ],
        ),
        TextTable(
            "What popularity depends on",
            ["run", "background", *names],
            depends,
            1 + len(names),
            [
                "Background: how much more popular regions are that meet no referent (IoU below 0.5), in standard "
                "deviations.",
                "Others: rank correlations of popularity before correction with a property of the region.",
            ],
        ),
        TextTable(
            "Similarities",
            ["run", "pictures", "regions", "texts", *measures, "modality gap"],
            similar,
            4 + len(measures),
            ["Mean, spread and range of a region's cosines over the texts of the split and the bank: mean of regions."],
        ),
        TextTable(
            "Popularity by category",
            ["category", *found],
            by_category,
            len(found),
            ["Mean popularity before correction of the referents' best regions, in standard deviations."],
        ),
    ]


def bias_markdown(found: Mapping[str, Bias]) -> str:
    """The tables in Markdown."""
    return "\n".join(map(markdown, bias_tables(found)))


def shown(value: float, *, share: bool = False) -> str:
    """A number of a table; a share in per cent; empty where there is none."""
    if math.isnan(value):
        return ""
    return f"{100 * value:.1f}" if share else f"{value:.2f}"


def bias_json(found: Mapping[str, Bias]) -> str:
    """Everything that was measured but single regions."""
    return json_text({name: asdict(replace(bias, by_region=[])) for name, bias in found.items()})


def bias_regions(found: Mapping[str, Bias]) -> str:
    """Comma-separated values: a row for each region."""
    return csv_text([{"run": name, **row} for name, bias in found.items() for row in bias.by_region])
