"""``bsap reproduce``: the numbers of a paper, by recipe, beside ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import yaml

from bsap.cli import report
from bsap.cli.arguments import Arguments, write_files
from bsap.cli.recipe import Cell, Recipe, Run, compare, plan_runs, read_recipe, shipped_recipes
from bsap.errors import BSAPError, ConfigError, DataError
from bsap.reports.formats import json_text
from bsap.runs.signals import SIGNALS, STOPPED, exit_on_signal

DIFFERENT = 1
"""Exit status where a number is not the published one."""


@exit_on_signal()
def run(argv: list[str]) -> int:
    """Run a recipe and print its table."""
    parser = Arguments(
        "bsap reproduce",
        "Run a recipe: evaluate what a paper evaluated and compare with the numbers that it printed. The same command "
        f"continues; finished runs are kept. The exit status is {DIFFERENT} if a number differs by more than the "
        "recipe's tolerance.",
    )
    parser.add("RECIPE", f"{', '.join(shipped_recipes())}, or a YAML file")
    parser.add("--root FOLDER", "the folder of the data, from `bsap data get`")
    parser.add("--output FOLDER", "where runs, features and the table are written (default: runs/RECIPE)")
    parser.add("--devices DEVICES", "devices of each run, as --trainer.devices", "auto")
    parser.add("--accelerator NAME", "cpu, gpu or auto, as --trainer.accelerator", "auto")
    parser.add("--only RUN...", "run and compare only the runs whose names begin so", type=str)
    parser.add(
        "--index N", "run only the run of this number, from 0, and write no table: for the jobs of an array", least=0
    )
    parser.add("--report", "also write report.html about the runs, as bsap report")
    parser.add("--list", "print the numbers and names of the runs, and run nothing")
    options = parser.parse_args(argv[1:])
    recipe = read_recipe(options.recipe)
    if options.list:
        print("\n".join(f"{n} {planned.name}" for n, planned in enumerate(plan_runs(recipe))))
        return 0
    output = options.output or Path("runs") / Path(options.recipe).stem
    root = _data(recipe, options.root)
    runs = _chosen(plan_runs(recipe), options.only, options.index)
    results = {}
    for n, planned in enumerate(runs, start=1):
        print(f"bsap: run {n} of {len(runs)}, {planned.name}", file=sys.stderr, flush=True)
        status = _finish(recipe, planned, root, output, [f"--trainer.devices={options.devices}",
                                                         f"--trainer.accelerator={options.accelerator}"])  # fmt: skip
        if status == STOPPED:
            return STOPPED
        results[planned.name] = json.loads((output / planned.name / "results.json").read_text(encoding="utf-8"))
    cells = compare(runs, results)
    _write(recipe, cells, None if options.index is not None else output)
    if options.report:
        report.run(["report", *(str(output / name) for name in results), "--output", str(output / "report.html")])
    return DIFFERENT if any(cell.verdict == "differs" for cell in cells) else 0


def _data(recipe: Recipe, root: Path | None) -> Path:
    """The data's root, with all that the recipe needs."""
    if recipe.drawn:
        from bsap.demo.dataset import make_demo_root

        return root or make_demo_root()
    if root is None:
        raise ConfigError("Name the folder of the data: bsap reproduce RECIPE --root refer.")
    missing = [todo for need in recipe.needs if (todo := need.missing(root)) is not None]
    if missing:
        raise DataError(f"Data are missing under {root}. Get them first:\n  " + "\n  ".join(missing))
    return root


def _chosen(runs: list[Run], only: Sequence[str] | None, index: int | None) -> list[Run]:
    chosen = [run for run in runs if only is None or run.name.startswith(tuple(only))]
    if index is not None:
        chosen = chosen[index : index + 1]
    if not chosen:
        raise ConfigError(f"No run is chosen. The recipe has {len(runs)}: {', '.join(run.name for run in runs)}.")
    return chosen


def _finish(recipe: Recipe, planned: Run, root: Path, output: Path, flags: Sequence[str]) -> int:
    """Run ``bsap test`` in a process group of its own, unless its results are there."""
    if (output / planned.name / "results.json").exists():
        return 0
    settings = output / "settings" / f"{planned.name}.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(yaml.safe_dump(planned.settings, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "bsap", "test"]
    for protocol in recipe.protocols:
        command += ["-c", f"bsap:protocols/{protocol}"]
    command += ["-c", str(settings), "--data.root", str(root), "--run.root", str(output), "--run.name", planned.name]
    process = subprocess.Popen([*command, "--model.store", str(output / "features"), *flags], start_new_session=True)
    with _forwarding(process):
        status = process.wait()
    if status not in (0, STOPPED):
        raise BSAPError(f"The run {planned.name} ended with status {status}; see above. Run the same command again.")
    return status


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass signals that ask this process to stop to the run's whole group."""

    def forward(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, *SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(recipe: Recipe, cells: Sequence[Cell], output: Path | None) -> None:
    """Print the table, and write it as Markdown and JSON; the jobs of an array, each with a part of it, only print."""
    header = ["run", "scorer", "metric", "published", "ours", "difference", "verdict"]
    rows = [
        [cell.run, cell.scorer, cell.metric, f"{cell.published:.2f}", _range(cell.ours), _points(cell.difference),
         cell.verdict]
        for cell in cells
    ]  # fmt: skip
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
             for row in [header, ["-" * width for width in widths], *rows]]  # fmt: skip
    table = "\n".join([f"{recipe.about}", f"Published: {recipe.source}", "", *lines])
    print(table)
    if output is None:
        return
    write_files(output, {"table.md": table + "\n", "table.json": json_text(list(map(asdict, cells)))})


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f} to {high:.2f}"


def _points(difference: float) -> str:
    """Two digits and a sign, which zero has none of."""
    text = f"{difference:+.2f}"
    return "0.00" if float(text) == 0 else text
