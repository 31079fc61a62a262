"""``bsap show``: draw what a run chose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

SHEET = 12
"""Expressions on a contact sheet when nobody says how many."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bsap show",
        description="Draw expressions of a finished run: the scene with its proposals, the referent, every scorer's "
        "choice with its score, and the views that the model saw. Needs the data, not the model.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("ids", nargs="*", metavar="ID", help="expressions, whole ids or what follows the last /")
    parser.add_argument("--sheet", type=int, metavar="N", help=f"contact sheet spread over the run (default: {SHEET})")
    parser.add_argument("--disagree", action="store_true", help="for the sheet: only where scorers differ")
    parser.add_argument("--wrong", metavar="SCORER", help="for the sheet: only where this scorer is wrong")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/pictures")
    parser.add_argument("--root", metavar="FOLDER", help="the data's root, where it is not that of the run")
    parser.add_argument("--images", metavar="FOLDER", help="the pictures, where they are not those of the run")
    return parser


def run(argv: list[str]) -> int:
    """Parse the options, draw, say what was written."""
    parser = _parser()
    options = parser.parse_intermixed_args(argv[1:])
    filtered = options.disagree or options.wrong is not None
    if options.ids and (filtered or options.sheet is not None):
        parser.error("name expressions, or ask for a sheet of some (--sheet, --disagree, --wrong), not both")
    if options.sheet is not None and options.sheet < 1:
        parser.error("--sheet must be at least 1")

    from bsap.reports.draw import draw_expression, draw_sheet
    from bsap.reports.shown_run import ShownRun, file_name, spread

    shown = ShownRun(options.run, root=options.root, images=options.images)
    folder = options.output or options.run / "pictures"
    if options.ids:
        for record in shown.find(options.ids):
            _save(draw_expression(shown, record), folder / file_name(record["id"]))
        return 0
    chosen = shown.select(disagree=options.disagree, wrong=options.wrong)
    what = " and ".join(
        ["scorers differ"] * options.disagree + [f"{options.wrong} is wrong"] * (options.wrong is not None)
    )
    if not chosen:
        print(f"{options.run} has no expression{' where ' + what if what else ''}.")
        return 0
    some = spread(chosen, options.sheet or SHEET)
    name = "-".join(["sheet", *["disagree"] * options.disagree, *([f"wrong-{options.wrong}"] if options.wrong else [])])
    _save(
        draw_sheet(shown, some),
        folder / f"{name}.png",
        f"{len(some)} of {len(chosen)} expressions{' where ' + what if what else ''}",
    )
    return 0


def _save(image: Image.Image, path: Path, what: str = "") -> None:
    from bsap.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error}. Choose another place with `--output FOLDER`.") from error
    print(f"{path}: {what}" if what else path)
