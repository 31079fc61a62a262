"""The table of commands; each is imported only when it runs."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("bsap.cli.demo", "evaluate a tiny model on drawn pictures; needs no data and no network"),
    "test": ("bsap.cli.evaluate", "evaluate scorers on a split: bsap test -c config.yaml"),
    "predict": ("bsap.cli.evaluate", "choose regions in your own picture"),
    "fit": ("bsap.cli.fit", "learn auxiliary prompts and write them as a bank"),
    "score": ("bsap.cli.score", "compute the metrics of a saved run again, without a model"),
    "table": ("bsap.cli.table", "put many runs into one table: md, csv, json or latex"),
    "compare": ("bsap.cli.compare", "compare scorers with intervals and p-values: bsap compare RUN:clip RUN:bsap"),
    "bias": ("bsap.cli.bias", "measure which regions are preferred for every sentence, before and after scorers"),
    "report": ("bsap.cli.report", "write one HTML page about runs: tables, curves, bias and a gallery"),
    "export": ("bsap.cli.export", "write what a run chose for other tools: COCO results, csv or parquet"),
    "sweep": ("bsap.cli.sweep", "try many scorers, banks and temperatures on a run's stored features"),
    "propose": ("bsap.cli.propose", "find regions in pictures with an object detector"),
    "show": ("bsap.cli.show", "draw what a run chose: single expressions, or a contact sheet"),
    "data": ("bsap.cli.data", "download datasets, or check a folder: bsap data get refcoco --root ROOT"),
    "reproduce": ("bsap.cli.reproduce", "run a recipe and compare with the numbers that a paper printed"),
    "explain": ("bsap.cli.explain", "show what the auxiliary prompts of a bank mean"),
    "docs": ("bsap.cli.docs", "read the documentation, without a network"),
    "list": ("bsap.cli.list", "list the names of banks, views, scorers or models"),
}
"""Command: module with ``run(argv) -> int``, and one line of help."""
