"""``bsap list banks|views|scorers|transforms|models``: the names that a configuration may use."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bsap.cli.arguments import Arguments
from bsap.errors import ConfigError, unknown, visible
from bsap.registry import first_line
from bsap.reports.text import cell

if TYPE_CHECKING:
    from bsap.features.transforms import Transform
    from bsap.models.transformers_families import Family
    from bsap.views import View

KINDS = ("banks", "views", "scorers", "transforms", "models")


def _rows(kind: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    if kind == "banks":
        from bsap.prompts.banks import list_banks

        return ("bank", "prompts", "source"), [
            (bank.name, str(len(bank.prompts)) if bank.prompts else "computed", bank.source) for bank in list_banks()
        ]
    if kind == "views":
        from bsap.views import VIEWS

        return ("view", "needs", "class and parameters", "what it shows", "source"), [
            (name, "masks" if view.needs_masks else "boxes", _parameters(view), view.summary, view.source)
            for name, view in VIEWS.items()
        ]
    if kind == "scorers":
        from bsap.scoring import NAMED_SCORERS

        return ("scorer", "what it is", "source"), [(s.name, s.description, s.source) for s in NAMED_SCORERS]
    if kind == "transforms":
        from bsap.features.transforms import TRANSFORMS

        return ("transform", "needs", "class and parameters", "what it does", "source"), [
            (
                name,
                ", ".join(["bank"] * t.needs_bank + ["region bank"] * t.needs_region_bank),
                _parameters(t),
                first_line(t),
                t.source,
            )
            for name, t in TRANSFORMS.items()
        ]
    import open_clip

    from bsap.models.transformers_families import FAMILIES, OTHER

    return ("model", "what it is"), [
        ("demo", "the model of `bsap demo`, for drawn pictures only"),
        *((f.example, f"{f.name} in the format of transformers: {_settings_of(f)}") for f in FAMILIES),
        ("hf:ORGANISATION/NAME", f"{OTHER.name}, in the format of transformers"),
        ("hf:/FOLDER", "a folder in the format of transformers"),
        ("hf-hub:ORGANISATION/NAME", "a repository in the format of open_clip"),
        ("local-dir:/FOLDER", "a folder in the format of open_clip"),
        *((f"{name}:{tag}", "open_clip") for name, tag in open_clip.list_pretrained()),
    ]


def _settings_of(family: Family) -> str:
    """What a model of a family needs besides its name."""
    return f"state `mode: {' or '.join(family.modes)}`" if family.modes else "its name is enough"


def _parameters(part: View | Transform) -> str:
    """A view or a transform as ``class_path`` and ``init_args`` would make it, for changing them."""
    values = [(f.name, getattr(part, f.name)) for f in dataclasses.fields(part)]
    texts = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in values]
    return f"{type(part).__name__}({', '.join(texts)})"


def run(argv: list[str]) -> int:
    """Print a table of names."""
    parser = Arguments(
        "bsap list",
        "List the names that a configuration may use: on a terminal as a table, in a pipe one a line with tabs between "
        "its cells.",
    )
    parser.add("KIND", f"what to list: {', '.join(KINDS)}")
    parser.add("[PATTERN]", "only rows that contain this text, in any case; by default all rows", "")
    parser.add("--format", "form of the output", "table", choices=["table", "json"])
    options = parser.parse_args(argv[1:])
    kind, wanted = options.kind, options.pattern.lower()
    if kind not in KINDS:
        raise unknown("list", kind, KINDS)
    columns, rows = _rows(kind)
    rows = [row for row in rows if any(wanted in text.lower() for text in row)]
    if not rows:
        raise ConfigError(
            f"No row of `bsap list {kind}` contains {options.pattern!r}. Leave the pattern out to see all."
        )
    if options.format == "json":
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
        return 0
    console = Console()
    if not console.is_terminal:  # for grep and cut
        for row in rows:
            print("\t".join(map(visible, row)))
        return 0
    table = Table(*columns)
    table.columns[0].no_wrap, table.columns[0].overflow = True, "fold"  # names are there to be copied
    for row in rows:
        table.add_row(*map(cell, row))
    console.print(table)
    return 0
