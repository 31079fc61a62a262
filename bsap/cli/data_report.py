"""What ``bsap data check`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bsap.errors import visible

if TYPE_CHECKING:
    from bsap.datamodules.check import RootReport, SplitReport


def print_report(report: RootReport) -> None:
    """Print what is there of each split, and every fault."""
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for name in ("split", "expressions", "referents", "pictures", "no mask", ""):
        table.add_column(name, justify="left" if name in ("split", "") else "right", no_wrap=True)
    for split in report.splits:
        known = split.known
        table.add_row(
            escape(visible(f"{split.dataset} {split.split_by} {split.split}")),
            _of(split.found.expressions, None if known is None else known.expressions),
            _of(split.found.referents, None if known is None else known.referents),
            _of(split.pictures - len(split.missing_pictures), split.pictures),
            str(split.without_mask),
            _state(split),
        )
    if report.splits:
        console.print(table)
    for split in report.splits:
        for line in _complaints(split):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for error in report.errors:
        console.print(visible(error), highlight=False, markup=False, soft_wrap=True)
    console.print(
        "Complete and sound."
        if report.ok
        else "Not complete, faulty, or not the published data: see above. `bsap docs data` says where to get the files."
    )


def _state(split: SplitReport) -> str:
    if split.ok:
        return "ok"
    other = "differs" if split.found.expressions else "absent"
    return "[red]faulty[/red]" if split.faults else f"[yellow]{other}[/yellow]"


def _of(found: int, known: int | None) -> str:
    return str(found) if known in (None, found) else f"{found}/{known}"


def _complaints(split: SplitReport) -> list[str]:
    name = f"{split.dataset} {split.split_by} {split.split}"
    lines = []
    if not split.found.expressions:
        lines.append(f"{name}: not there; the published split has {split.known}.")
    elif split.known not in (None, split.found):
        lines.append(
            f"{name}: it has {split.found}, but the published split has {split.known}. It can be evaluated, but its "
            "numbers are not those of papers."
        )
    for what, places in (
        ("pictures are missing", split.missing_pictures),
        ("pictures are not what the annotations say", split.other_sizes),
        ("boxes are invalid or reach beyond their picture", split.bad_boxes),
        ("masks are invalid", split.bad_masks),
    ):
        if places:
            lines.append(f"{name}: {len(places)} {what}:")
            lines += [f"  {visible(place)}" for place in places]
    return lines
