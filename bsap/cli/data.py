"""``bsap data check``: is a folder of annotations and pictures complete and sound?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bsap.cli.arguments import Arguments
from bsap.errors import printable

if TYPE_CHECKING:
    from bsap.datamodules.check import RootReport, SplitReport

UNSOUND = 1
"""Exit status when something is missing or wrong."""


def run(argv: list[str]) -> int:
    """Print what is found against what is published."""
    parser = Arguments(prog="bsap data", description="Work with folders of annotations and pictures.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="compare a folder with what is published",
        description="Read all REFER annotations under a root. Compare the counts of every split with the published "
        "ones and the sizes of all pictures with the annotated ones; list missing pictures, invalid boxes and invalid "
        f"masks. The exit status is {UNSOUND} if there is any fault.",
    )
    check.add_argument("folder", nargs="?", type=Path, metavar="ROOT", help="the folder with refcoco/, images/ ...")
    check.add_argument("--root", type=Path, help="the same folder, under the name that bsap test uses")
    check.add_argument(
        "--images", help="the folder of pictures; by default the usual places under ROOT, such as images/train2014"
    )
    check.add_argument(
        "--size-tolerance",
        type=int,
        default=0,
        metavar="PIXELS",
        help="how much the width and height of a picture may differ from the annotated ones (default: 0)",
    )
    check.add_argument(
        "--format", choices=["table", "json"], default="table", help="print a table or JSON (default: table)"
    )
    options = parser.parse_args(argv[1:])
    root = options.root or options.folder
    if root is None:
        check.error("name the folder: bsap data check ROOT")

    from bsap.datamodules.check import check_root

    errors = Console(stderr=True)
    with errors.status("reading") as status:
        report = check_root(
            root,
            images=options.images,
            size_tolerance=options.size_tolerance,
            progress=lambda name: status.update(f"reading {escape(printable(name))}"),
        )
    if options.format == "json":
        splits = [
            {**asdict(split), "found": split.found._asdict(), "known": split.known and split.known._asdict()}
            for split in report.splits
        ]
        print(json.dumps({**asdict(report), "splits": splits, "ok": report.ok}, indent=2))
    else:
        _print(report)
    return 0 if report.ok else UNSOUND


def _print(report: RootReport) -> None:
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for name in ("split", "expressions", "referents", "pictures", "no mask", ""):
        table.add_column(name, justify="left" if name in ("split", "") else "right", no_wrap=True)
    for split in report.splits:
        known = split.known
        table.add_row(
            escape(printable(f"{split.dataset} {split.split_by} {split.split}")),
            _of(split.found.expressions, None if known is None else known.expressions),
            _of(split.found.referents, None if known is None else known.referents),
            _of(split.pictures - len(split.missing_pictures), split.pictures),
            str(split.without_mask),
            "ok" if split.ok else "[red]faulty[/red]",
        )
    if report.splits:
        console.print(table)
    for split in report.splits:
        for line in _complaints(split):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for error in report.errors:
        console.print(printable(error), highlight=False, markup=False, soft_wrap=True)
    console.print(
        "Complete and sound."
        if report.ok
        else "Not complete or faulty: see above. docs/data.md says where to get the files."
    )


def _of(found: int, known: int | None) -> str:
    return str(found) if known in (None, found) else f"{found}/{known}"


def _complaints(split: SplitReport) -> list[str]:
    name = f"{split.dataset} {split.split_by} {split.split}"
    lines = []
    for what, places in (
        ("pictures are missing", split.missing_pictures),
        ("pictures are not what the annotations say", split.other_sizes),
        ("boxes are invalid or reach beyond their picture", split.bad_boxes),
        ("masks are invalid", split.bad_masks),
    ):
        if places:
            lines.append(f"{name}: {len(places)} {what}:")
            lines += [f"  {printable(place)}" for place in places]
    return lines
