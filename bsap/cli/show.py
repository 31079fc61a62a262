"""``bsap show``: draw what a run chose."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bsap.cli.arguments import Arguments, path_text, writing
from bsap.errors import visible

if TYPE_CHECKING:
    from PIL import Image

SHEET = 12
"""Expressions on a contact sheet by default."""


def run(argv: list[str]) -> int:
    """Draw and print what was written."""
    parser = Arguments(
        "bsap show",
        "Draw expressions of a finished run: the scene with its proposals, the referent, every scorer's choice with "
        "its score, and the views that the model saw. Needs the data, not the model.",
    )
    parser.add("RUN", "the run folder")
    parser.add(
        "[ID...]", "expressions to draw: whole ids, or the part after the last /; by default a contact sheet is drawn"
    )
    parser.add("--sheet N", f"number of expressions on the sheet, spread evenly over the run (default: {SHEET})")
    parser.add("--disagree", "sheet: only expressions where scorers choose differently")
    parser.add("--wrong SCORER", "sheet: only expressions where this scorer is wrong")
    parser.add("--output FOLDER", "where pictures are written (default: RUN/pictures)")
    parser.add("--root FOLDER", "the root of the data, if it has moved since the run", type=path_text)
    parser.add("--images FOLDER", "the folder of pictures, if it has moved since the run", type=path_text)
    options = parser.parse_intermixed_args(argv[1:])
    filtered = options.disagree or options.wrong is not None
    if options.id and (filtered or options.sheet is not None):
        parser.error("Name expressions, or draw a sheet with --sheet, --disagree and --wrong, but not both.")

    from bsap.reports.draw_choices import draw_sheet
    from bsap.reports.shown_run import ShownRun, file_name, spread

    shown = ShownRun(options.run, root=options.root, images=options.images)
    folder = options.output or options.run / "pictures"
    if options.id:
        from bsap.reports.draw import draw_expression  # what the model saw is drawn as for the model, by torch

        for record in shown.find(options.id):
            _warn_of_missing_letters([record["text"]])
            _save(draw_expression(shown, record), folder / file_name(record["id"]))
        return 0
    chosen = shown.select(disagree=options.disagree, wrong=options.wrong)
    what = " and ".join(
        ["scorers differ"] * options.disagree + [f"{options.wrong} is wrong"] * (options.wrong is not None)
    )
    if not chosen:
        print(f"{options.run} has no expression{' where ' + what if what else ''}.")
        return 0
    records = spread(chosen, options.sheet or SHEET)
    _warn_of_missing_letters([record["text"] for record in records])
    # A scorer's name comes from a file and may look like a path.
    wrong = re.sub(r"[^A-Za-z0-9_.=,()-]", "_", options.wrong or "")
    name = "-".join(["sheet", *["disagree"] * options.disagree, *([f"wrong-{wrong}"] if wrong else [])])
    _save(
        draw_sheet(shown, records),
        folder / f"{name}.png",
        f"{len(records)} of {len(chosen)} expressions{' where ' + what if what else ''}",
    )
    return 0


def _warn_of_missing_letters(texts: list[str]) -> None:
    from bsap.reports.lettering import missing_scripts

    if scripts := missing_scripts(texts):
        print(f"bsap: the font has no letters of {', '.join(scripts)}; they are drawn as `?`.", file=sys.stderr)


def _save(image: Image.Image, file: Path, what: str = "") -> None:
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    print(visible(f"{file}: {what}" if what else file))
