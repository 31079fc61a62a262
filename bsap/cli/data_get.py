"""``bsap data get``: annotations and pictures of published datasets, ready for ``bsap test``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from bsap.errors import visible

if TYPE_CHECKING:
    from bsap.datamodules.sources.catalogue import Catalogue, Dataset
    from bsap.datamodules.sources.get import Got

_LISTED = 20


def add_get(commands: Any) -> None:
    """Add the command and its options."""
    get = commands.add_parser(
        "get",
        help="download datasets",
        description="Download annotations and pictures of datasets into a root for bsap test. The same command "
        "continues a download that was cut off, and fetches nothing twice. The addresses stand in bsap's sources.yaml.",
    )
    get.add("[DATASET...]", "for example refcoco; --list prints all names")
    get.add("--root FOLDER", "the folder to download into")
    get.add("--splits SPLIT...", "the splits that you need (default: all)", [])
    get.add(
        "--pictures",
        "which pictures to fetch one by one: those of the chosen splits, those of all splits, or none",
        "needed",
        choices=["needed", "all", "none"],
    )
    get.add("--source NAME", "the only source to try; by default all, in their order")
    get.add("--sources FILE", "a YAML file with more datasets and sources", [], action="append")
    get.add("--list", "print the datasets, their sources and licences")


def run_get(options: argparse.Namespace) -> int:
    """Download what was asked for, then check it; the exit status is 1 where something is missing."""
    from bsap.datamodules.sources.catalogue import read_catalogue

    catalogue = read_catalogue(options.sources)
    if options.list:
        print("\n\n".join(_described(dataset, catalogue) for dataset in catalogue.datasets.values()))
        return 0
    if not options.dataset or options.root is None:
        from bsap.errors import ConfigError

        raise ConfigError("Name datasets and a folder: bsap data get refcoco --root refer. `--list` prints all names.")
    datasets = [catalogue.dataset(name) for name in options.dataset]

    from bsap.datamodules.sources.download import Downloader
    from bsap.datamodules.sources.get import get_dataset

    sound = True
    with closing(Downloader()) as downloader:
        for dataset in datasets:
            _say(_described(dataset, catalogue))
            with _progress() as progress:
                got = get_dataset(
                    dataset,
                    catalogue,
                    options.root,
                    downloader,
                    splits=options.splits,
                    pictures=options.pictures,
                    source=options.source,
                    progress=progress,
                    say=_say,
                )
            sound &= _finish(dataset, got, options)
    return 0 if sound else 1


def _described(dataset: Dataset, catalogue: Catalogue) -> str:
    """Name, licences and sources of a dataset."""
    lines = [f"{dataset.name}: {dataset.about}", f"  annotations: {dataset.licence}"]
    if dataset.pictures is not None:
        lines.append(f"  pictures: {catalogue.files[dataset.pictures].licence}")
    lines += [f"  source {source.name}: {source.address}" for source in dataset.sources]
    return visible("\n".join(lines), lines=True)


def _finish(dataset: Dataset, got: Got, options: argparse.Namespace) -> bool:
    """Print what became of a dataset and check it; returns whether all is there."""
    from bsap.cli.data_report import print_report
    from bsap.datamodules.check import check_root

    pictures = got.pictures
    if pictures is not None:
        _say(f"{dataset.name}: {pictures.loaded} pictures downloaded, {pictures.there} were there")
        for line in pictures.failed[:_LISTED]:
            _say(f"  {line}")
        if pictures.failed:
            _say(f"{dataset.name}: {len(pictures.failed)} pictures are missing. Run the same command again.")
    if dataset.pictures is None:
        _say(f"{dataset.name}: complete in {options.root / dataset.name}. `bsap docs data` says how to use it.")
        return True
    if options.pictures == "none":
        return True
    splits = options.splits if options.pictures == "needed" else ()
    report = check_root(options.root, dataset=dataset.name, splits=splits)
    print_report(report)
    return report.ok


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[int], object]]]:
    """Counts that move on a terminal; in a log file nothing."""
    if not sys.stderr.isatty():
        yield lambda what: lambda count: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def start(what: str) -> Callable[[int], object]:
            task = bar.add_task(escape(visible(what)), total=None)
            return lambda count: bar.advance(task, count)

        yield start
