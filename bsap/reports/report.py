"""One self-contained page about one or several runs: what ran, tables, curves, bias, and a gallery of expressions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bsap.analysis.bias import Bias, measure_bias
from bsap.analysis.comparison import FIELDS, Side
from bsap.analysis.explain import bank_and_scorer, explain, stored_features
from bsap.errors import BSAPError
from bsap.reports.bias_table import SCORER_COLUMNS, bias_tables
from bsap.reports.curves import figures
from bsap.reports.formats import Bold, TextTable
from bsap.reports.gallery import gallery
from bsap.reports.page_tables import breakdowns, prompt_table
from bsap.reports.plots import bar_plot
from bsap.reports.published import published_rows
from bsap.reports.run_formats import text_table
from bsap.reports.run_table import make_table, run_names
from bsap.reports.shown_run import ShownRun, by_label
from bsap.reports.table_gains import with_gains
from bsap.runs.saved import SavedRun, read_run
from bsap.scoring import make_scorer, scorer_name


def write_report(
    folders: Sequence[Path],
    *,
    pictures: int = 60,
    megabytes: float = 15.0,
    by: Sequence[str] = tuple(FIELDS),
    root: str | None = None,
    images: str | None = None,
) -> str:
    """The page as HTML.

    Args:
        folders: finished runs; the first one decides which expressions the gallery shows.
        pictures: expressions in the gallery.
        megabytes: the most that its pictures take.
        by: fields by whose groups the scorers of each run are compared.
        root: the data's root, if it has moved since the runs.
        images: the folder of pictures, if it has moved.

    Raises:
        DataError: if a run is not finished.
    """
    runs = [read_run(folder) for folder in folders]
    names = run_names(runs)
    opened = {name: ShownRun(run.folder, root=root, images=images) for name, run in zip(names, runs, strict=True)}
    labels = by_label({name: run.scorers for name, run in opened.items()})
    scorers = {label: (opened[name], scorer) for label, (name, scorer) in labels.items()}
    bias, prompts, without = _measured(runs, opened)
    groups = []
    for name, run in zip(names, runs, strict=True):
        sides = {scorer: Side(run, scorer, opened[name].records) for scorer in opened[name].scorers}
        if len(sides) > 1:
            groups += breakdowns(name, sides, by)
    items = gallery(opened, pictures, int(megabytes * 1e6))
    environment = Environment(
        loader=PackageLoader("bsap.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.tests["bold"] = lambda cell: isinstance(cell, Bold)
    return environment.get_template("report.html.j2").render(
        title=", ".join(names),
        version=version("bsap"),
        runs=[_about(name, run) for name, run in zip(names, runs, strict=True)],
        results=_results(runs, opened),
        figures=[(title, Markup(svg), text) for title, svg, text in figures(scorers)],
        bias=bias_tables(bias) if bias else [],
        bias_figures=_bias_figures(bias) if bias else (),
        without_bias=[f"No bias measures for {name}: {error}" for name, error in without.items() if name not in bias],
        without_prompts=[f"No prompts for {name}: {error}" for name, error in without.items()],
        prompts=prompts,
        breakdowns=groups,
        gallery=items,
        recorded=any(choice["scores"] for item in items["items"] for choice in item["choices"]),
        categories=sorted({item["category"] for item in items["items"]}),
        reasons=sorted({item["reason"] for item in items["items"]}),
        script=Markup(_for_script(items)),
    )


def _results(runs: Sequence[SavedRun], opened: Mapping[str, ShownRun]) -> TextTable:
    """All metrics, with gains over the first scorer."""
    table = make_table(runs, published_rows(runs))
    try:
        known = {str(shown.folder): shown.records for shown in opened.values()}
        table = with_gains(table, table.rows[0].scorer, known=known)
    except BSAPError as error:
        table = replace(table, notes=(*table.notes, f"Gains are not shown: {error}"))
    return text_table(table, "Results")


def _measured(
    runs: Sequence[SavedRun], opened: Mapping[str, ShownRun]
) -> tuple[dict[str, Bias], list[TextTable], dict[str, BSAPError]]:
    """The bias and the prompts of the runs whose features are stored, and why others lack one or both."""
    bias, prompts, without = {}, [], {}
    for run, (name, shown) in zip(runs, opened.items(), strict=True):
        try:
            sweep = stored_features(run)
            bias[name] = measure_bias(run, sweep=sweep, records=shown.records)
            bank, scorer = bank_and_scorer(sweep, run.settings["model"]["bank"])
            meanings = explain(sweep.split, bank, scorer=make_scorer(scorer))
            prompts.append(prompt_table(name, bank.name, scorer_name(scorer), meanings))
        except BSAPError as error:
            without[name] = error
    return bias, prompts, without


def _bias_figures(bias: Mapping[str, Bias]) -> Iterator[tuple[str, Markup, str]]:
    """Title, SVG and description of some measures, before (clip) and after every scorer."""
    for key, text in {
        "popularity_share": "How much of the differences between regions is the same for every text.",
        "hub_skewness": "The skewness of how often a region is the best of its picture: high where few win most.",
        "wrong_on_popular": "The share of wrong choices that fall on the region that every text likes most.",
        "correction": "The rank correlation of a region's popularity and of what the scorer adds to it.",
    }.items():
        labels = by_label({name: of_run.scorers for name, of_run in bias.items()})
        bars = {label: float(getattr(bias[name].scorers[scorer], key)) for label, (name, scorer) in labels.items()}
        title = SCORER_COLUMNS[key].capitalize()
        yield title, Markup(bar_plot(bars, x=title.lower())), f"{text} The numbers stand in the table."


def _for_script(document: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _about(name: str, run: SavedRun) -> dict[str, Any]:
    """What ran: settings, marks, counts and versions, as texts."""
    results: Mapping[str, Any] = run.finished()
    protocol, counts = results["protocol"], results["counts"]
    bank = protocol["bank"]
    marks = [mark for mark in ("partial", "transductive") if results[mark]]
    marks += [] if results["complete"] or results["partial"] else ["incomplete"]
    facts = {
        "split": f"{protocol['dataset']} {protocol['split_by']} {protocol['split']}",
        "expressions": f"{counts['seen']} of {counts['selected']} selected",
        "pictures and regions": f"{counts['scenes']}, {counts['regions']}",
        "proposals": json.dumps(protocol["proposals"]),
        "models": ", ".join(model["label"] for model in results["models"]),
        "weights": ", ".join(str(model["weights_sha256"])[:12] for model in results["models"]),
        "views": json.dumps(protocol["views"]),
        "bank": "none" if bank is None else f"{bank['name']} ({bank['prompts'] or 'computed'}), {bank['source']}",
        "hit": protocol["hit"],
        "precision": results["precision"]["effective"],
        "marks": ", ".join(marks) or "none",
        "versions": ", ".join(f"{key} {value}" for key, value in results["versions"].items()),
    }
    return {"name": name, "folder": str(run.folder), "facts": facts, "settings": json.dumps(run.settings, indent=2)}
