"""One self-contained page about one or several runs: what ran, tables, curves, bias, and a gallery of expressions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bsap.analysis.bias import Bias, measure_bias
from bsap.errors import BSAPError
from bsap.reports.bias_table import NOTES, NUMBERS, SCORER_COLUMNS, shown
from bsap.reports.curves import figures
from bsap.reports.gallery import gallery
from bsap.reports.plots import bar_plot
from bsap.reports.published import published_rows
from bsap.reports.run_formats import table_cells
from bsap.reports.run_table import make_table, run_names
from bsap.reports.shown_run import ShownRun
from bsap.reports.table_gains import with_gains
from bsap.runs.saved import SavedRun, read_run


def write_report(
    folders: Sequence[Path],
    *,
    pictures: int = 60,
    megabytes: float = 15.0,
    root: str | None = None,
    images: str | None = None,
) -> str:
    """The page as HTML.

    Args:
        folders: finished runs; the first one decides which expressions the gallery shows.
        pictures: expressions in the gallery.
        megabytes: the most that its pictures take.
        root: the data's root, if it has moved since the runs.
        images: the folder of pictures, if it has moved.

    Raises:
        DataError: if a run is not finished.
    """
    runs = [read_run(folder) for folder in folders]
    names = run_names(runs)
    opened = {name: ShownRun(run.folder, root=root, images=images) for name, run in zip(names, runs, strict=True)}
    table = make_table(runs, published_rows(runs))
    notes: list[str] = []
    first = runs[0].finished()["metrics"]
    scorers = list(dict.fromkeys(scorer for rows in first.values() for scorer in rows))
    try:
        table = with_gains(table, scorers[0])
    except BSAPError as error:
        notes.append(f"Gains are not shown: {error}")
    columns, rows, numbers, legend = table_cells(table)
    bias, without = _bias(names, runs)
    shown_scorers = {
        (scorer if len(runs) == 1 else f"{name}: {scorer}"): (run, scorer)
        for name, run in opened.items()
        for scorer in (run.records[0]["scorers"] if run.records else ())
    }
    shares = {
        (scorer if len(bias) == 1 else f"{name}: {scorer}"): values.popularity_share
        for name, of_run in bias.items()
        for scorer, values in of_run.scorers.items()
    }
    items = gallery(opened, pictures, int(megabytes * 1e6))
    environment = Environment(
        loader=PackageLoader("bsap.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        title=", ".join(names),
        version=version("bsap"),
        runs=[_about(name, run) for name, run in zip(names, runs, strict=True)],
        columns=columns,
        rows=rows,
        numbers=numbers,
        notes=[*legend, *notes],
        figures=[(title, Markup(svg), text) for title, svg, text in figures(shown_scorers)],
        bias_columns=["run", "scorer", *SCORER_COLUMNS.values()],
        bias_rows=[
            [name, scorer, *(shown(getattr(values, key), share=key not in NUMBERS) for key in SCORER_COLUMNS)]
            for name, of_run in bias.items()
            for scorer, values in of_run.scorers.items()
        ],
        bias_notes=[*(NOTES if bias else ()), *without],
        bias_figure=Markup(bar_plot(shares, x="popularity share")) if shares else "",
        items=items["items"],
        left_out=items["left_out"],
        problem=items["problem"],
        scorers=items["scorers"],
        categories=sorted({item["category"] for item in items["items"]}),
        reasons=sorted({item["reason"] for item in items["items"]}),
        gallery=Markup(_for_script(items)),
    )


def _for_script(document: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _bias(names: Sequence[str], runs: Sequence[SavedRun]) -> tuple[dict[str, Bias], list[str]]:
    """The bias of the runs whose features are stored, and why the others have none."""
    found, without = {}, []
    for name, run in zip(names, runs, strict=True):
        try:
            found[name] = measure_bias(run)
        except BSAPError as error:
            without.append(f"No bias measures for {name}: {error}")
    return found, without


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
