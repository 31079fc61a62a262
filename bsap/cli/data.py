"""``bsap data check``: is a folder of annotations and pictures complete and sound? And the way to ``bsap data get``."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape

from bsap.cli.arguments import Arguments, path_text
from bsap.cli.data_get import add_get, run_get
from bsap.cli.data_report import print_report
from bsap.errors import visible

UNSOUND = 1
"""Exit status when something is missing or wrong."""


def run(argv: list[str]) -> int:
    """Print what is found against what is published."""
    parser = Arguments("bsap data", "Work with folders of annotations and pictures.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="compare a folder with what is published",
        description="Read all REFER annotations under a root. Compare the counts of every split with the published "
        "ones and the sizes of all pictures with the annotated ones; list missing pictures, invalid boxes and invalid "
        f"masks. The exit status is {UNSOUND} if there is any fault.",
    )
    check.add("[FOLDER]", "the folder with refcoco/, images/ ...")
    check.add("--root FOLDER", "the same folder, under the name that bsap test uses")
    check.add(
        "--images FOLDER",
        "the folder of pictures; by default the usual places under ROOT, such as images/train2014",
        type=path_text,
    )
    check.add(
        "--size-tolerance N",
        "how many pixels the width and height of a picture may differ from the annotated ones",
        0,
        least=0,
    )
    check.add("--format", "form of the output", "table", choices=["table", "json"])
    add_get(commands)
    options = parser.parse_args(argv[1:])
    if options.command == "get":
        return run_get(options)
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
            progress=lambda name: status.update(f"reading {escape(visible(name))}"),
        )
    if options.format == "json":
        splits = [
            {**asdict(split), "found": split.found._asdict(), "known": split.known and split.known._asdict()}
            for split in report.splits
        ]
        print(json.dumps({**asdict(report), "splits": splits, "ok": report.ok}, indent=2))
    else:
        print_report(report)
    return 0 if report.ok else UNSOUND
