"""``bsap explain RUN``: what a bank's auxiliary prompts mean, on the features that a run has stored."""

from __future__ import annotations

from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from bsap.cli.arguments import Arguments, writing
from bsap.reports.formats import json_text
from bsap.reports.text import cell, say


def run(argv: list[str]) -> int:
    """Print a table of the prompts and write it as JSON."""
    parser = Arguments(
        "bsap explain",
        "For each auxiliary prompt, show vocabulary words near its learned context, expressions near its feature, and "
        "the share of expressions for which the scorer (BSAP, or the scorer that a learned bank was learned with) "
        "leaves CLIP's choice because of it.",
    )
    parser.add("RUN", "a finished run folder; its data, model and views are used")
    parser.add("--bank BANK", "the bank to explain, for example learned:runs/x/bank; by default that of the run")
    parser.add("--nearest N", "number of nearest words and expressions for each prompt", 3)
    parser.add("--rows N", "number of prompts to print", 30)
    parser.add("--output FILE", "the JSON file to write (default: RUN/explain.json)")
    options = parser.parse_args(argv[1:])

    from bsap.analysis.explain import bank_and_scorer, explain, stored_features
    from bsap.learning.context import FrozenTower
    from bsap.learning.words import learned_file, nearest_words
    from bsap.models.encoder import Encoder, EncoderConfig
    from bsap.prompts.learned import warn_of_other_use
    from bsap.runs.saved import read_run
    from bsap.scoring import make_scorer, scorer_name

    saved = read_run(options.run)
    sweep = stored_features(saved)
    model = saved.settings["model"]
    spec = options.bank or model["bank"]
    bank, scorer = bank_and_scorer(sweep, spec)
    warn_of_other_use(bank, model | {"scorers": [scorer]})
    file = learned_file(spec)
    tower = None if file is None else FrozenTower(Encoder(EncoderConfig.of(model["encoders"][0])))
    words = nearest_words(file, tower, options.nearest)
    meanings = explain(sweep.split, bank, scorer=make_scorer(scorer), words=words, nearest=options.nearest)
    title = f"{bank.name} on {sweep.data.split}, by {scorer_name(scorer)}: {len(meanings)} prompts"
    table = Table(title=cell(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("prompt")
    if file is not None:
        table.add_column("words near it", min_width=13, max_width=20)
    table.add_column("expressions near it", overflow="ellipsis", no_wrap=True, max_width=22)
    for name in ("explains", "fixed", "broken"):
        table.add_column(name, justify="right", no_wrap=True)
    for meaning in meanings[: options.rows]:
        near = " ".join(words[0] for words in meaning.words if words)
        expressions = "\n".join(f"{value:.2f} {text}" for text, value in meaning.expressions[:2])
        texts = (meaning.prompt, expressions) if file is None else (meaning.prompt, near, expressions)
        shares = (meaning.explains, meaning.fixed, meaning.broken)
        table.add_row(*map(cell, texts), *(f"{100 * share:.2f}" for share in shares))
    Console().print(table)
    output = options.output or options.run / "explain.json"
    prompts = [asdict(meaning) for meaning in meanings]
    with writing(output):
        document = {"run": str(options.run), "bank": spec, "scorer": scorer, "prompts": prompts}
        output.write_text(json_text(document), encoding="utf-8")
    say(f"Shares are in per cent of the expressions. Written to {output}")
    return 0
