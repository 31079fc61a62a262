"""``bsap explain RUN``: what a bank's auxiliary prompts mean, on the features that a run has stored."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bsap.errors import ConfigError


def run(argv: list[str]) -> int:
    """Print a table of the prompts and write it as JSON."""
    parser = argparse.ArgumentParser(
        prog="bsap explain",
        description="For each auxiliary prompt: vocabulary words near its learned context, expressions near its "
        "feature, and the share of the expressions for which the scorer (BSAP, or the one that a learned bank was "
        "learned with) leaves CLIP's choice because of it.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run folder: its data, model and views")
    parser.add_argument("--bank", metavar="BANK", help="for example learned:runs/x/bank; by default the run's bank")
    parser.add_argument(
        "--nearest", type=int, default=3, metavar="N", help="words and expressions; default: %(default)s"
    )
    parser.add_argument("--rows", type=int, default=30, metavar="N", help="prompts to print; default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: RUN/explain.json")
    options = parser.parse_args(argv[1:])

    from bsap.learning.context import FrozenTower
    from bsap.learning.explain import explain, learned_file, rows_of
    from bsap.models.encoder import Encoder, EncoderConfig
    from bsap.prompts.banks import check_learned_bank, load_bank
    from bsap.prompts.learned import learned_scorer, warn_of_other_use
    from bsap.runs.saved import read_run
    from bsap.scoring import make_scorer, scorer_name
    from bsap.sweep.sweep import Sweep

    saved = read_run(options.run)
    sweep = Sweep(saved)
    model = saved.settings["model"]
    spec = options.bank or model["bank"]
    bank = load_bank(spec, split_texts=sweep.data.texts, seed=model["bank_seed"])
    check_learned_bank(bank, sweep.models)
    scorer = learned_scorer(bank.meta) if bank.features is not None else "bsap"
    warn_of_other_use(bank, model | {"scorers": [scorer]})
    file = learned_file(spec)
    tower = None if file is None else FrozenTower(Encoder(EncoderConfig.of(model["encoders"][0])))
    meanings = explain(sweep.split, bank, scorer=make_scorer(scorer), file=file, tower=tower, nearest=options.nearest)
    title = f"{bank.name} on {sweep.data.split}, by {scorer_name(scorer)}: {len(meanings)} prompts"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("prompt")
    if file is not None:
        table.add_column("words near it", min_width=13, max_width=20)
    table.add_column("expressions near it", overflow="ellipsis", no_wrap=True, max_width=22)
    for name in ("explains", "mended", "broken"):
        table.add_column(name, justify="right", no_wrap=True)
    for prompt, words, expressions, *shares in rows_of(meanings)[: options.rows]:
        texts = (prompt, expressions) if file is None else (prompt, words, expressions)
        table.add_row(*map(escape, texts), *(f"{100 * share:.2f}" for share in shares))
    console = Console()
    console.print(table)
    output = options.output or options.run / "explain.json"
    document = {
        "run": str(options.run),
        "bank": spec,
        "scorer": scorer,
        "prompts": [asdict(meaning) for meaning in meanings],
    }
    try:
        output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {output}: {error}. Choose another --output.") from error
    console.print(f"Shares in per cent of the expressions. Written to {output}", highlight=False, soft_wrap=True)
    return 0
