"""``bsap propose``: a file of proposals for pictures or for a dataset's splits, by an object detector."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bsap.propose.picture_list import Picture

EVERY = 10.0
"""The fewest seconds between two lines of progress in a log file."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bsap propose",
        usage="%(prog)s OUTPUT (--pictures FOLDER | --root FOLDER) [options]",
        description="Find objects with a detector of torchvision and write them as COCO results, which `bsap test` "
        "reads by --data.proposals.source detections (or masks) and --data.proposals.path OUTPUT. Run again after an "
        "interruption, it goes on.",
        epilog="example: %(prog)s dets.jsonl --root refer --split val testA testB",
    )
    parser.add_argument(
        "output",
        nargs="?",  # --split, which takes several, may have taken it
        type=Path,
        metavar="OUTPUT",
        help="file to write; .jsonl also lists pictures where nothing was found",
    )
    where = parser.add_argument_group("pictures")
    where.add_argument("--pictures", type=Path, metavar="FOLDER", help="all pictures in a folder")
    where.add_argument("--root", metavar="FOLDER", help="a dataset's root; as `bsap test --data.root`")
    where.add_argument("--dataset", default="refcoco", help="default: %(default)s")
    where.add_argument("--split-by", metavar="NAME", help="default: what papers report")
    where.add_argument("--split", nargs="+", default=["val"], help="one or more; default: val")
    where.add_argument("--annotations", metavar="FILE", help="JSONL annotations instead of REFER files")
    where.add_argument("--images", metavar="FOLDER", help="the dataset's pictures, where not in the usual place")
    what = parser.add_argument_group("detector")
    what.add_argument("--detector", default="maskrcnn_resnet50_fpn_v2", help="default: %(default)s")
    what.add_argument("--weights", default="default", metavar="FILE", help="default: the published ones")
    what.add_argument("--random-init", action="store_true", help="random weights, for tests and benchmarks only")
    what.add_argument("--min-size", type=int, metavar="N", help="pixels of the shorter side that the detector sees")
    what.add_argument(
        "--score", type=float, default=0.5, help="lowest score to keep; a run can raise it later (default: %(default)s)"
    )
    what.add_argument("--max-per-picture", type=int, default=100, metavar="N", help="default: %(default)s")
    what.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    what.add_argument("--batch-size", type=int, default=4, metavar="N", help="default: %(default)s")
    what.add_argument("--workers", type=int, metavar="N", help="processes that decode pictures")
    parser.add_argument("--overwrite", action="store_true", help="start anew instead of going on")
    return parser


def run(argv: list[str]) -> int:
    """Parse the options, find objects, say what was written."""
    parser = _parser()
    options = parser.parse_intermixed_args(argv[1:])
    if options.output is None and len(options.split) > 1 and options.split[-1].endswith((".json", ".jsonl")):
        options.output = Path(options.split.pop())
    if options.output is None:
        parser.error("name the file to write: bsap propose OUTPUT ...")
    if (options.pictures is None) == (options.root is None):
        parser.error("name the pictures: either --pictures FOLDER or --root FOLDER")
    if min(options.max_per_picture, options.batch_size, options.min_size or 1) < 1:
        parser.error("--max-per-picture, --batch-size and --min-size must be at least 1")
    if not 0 <= options.score <= 1:
        parser.error("--score must lie between 0 and 1")
    if options.workers is not None and options.workers < 0:
        parser.error("--workers must be at least 0")

    import torch

    from bsap.cli.progress import quiet
    from bsap.propose.detectors import load_detector
    from bsap.propose.run import propose

    quiet()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = _pictures(options)
    detector = load_detector(
        options.detector,
        weights=options.weights,
        random_init=options.random_init,
        min_size=options.min_size,
        score=options.score,
        max_per_picture=options.max_per_picture,
        device=device,
    )
    with progress(len(pictures)) as advance:
        record = propose(
            pictures,
            options.output,
            detector,
            score=options.score,
            max_per_picture=options.max_per_picture,
            batch_size=options.batch_size,
            device=device,
            num_workers=options.workers,
            overwrite=options.overwrite,
            advance=advance,
        )
    print(
        f"{options.output}: {record['regions']} regions in {record['pictures']['count']} pictures, "
        f"{record['pictures_without']} of them without any. Made by {record['settings']['detector']}"
        f"{' WITH RANDOM WEIGHTS' if record['settings']['random_init'] else ''}; "
        f"{options.output}.origin.json says how."
    )
    return 0


def _pictures(options: argparse.Namespace) -> list[Picture]:
    from bsap.datamodules import ProposalConfig, RefCOCODataModule
    from bsap.datamodules.picture_files import PictureFolder
    from bsap.errors import DataError
    from bsap.propose.picture_list import pictures_in, pictures_of

    if options.pictures is not None:
        if not options.pictures.is_dir():
            raise DataError(f"There is no folder {options.pictures}. Set `--pictures` to a folder of pictures.")
        return pictures_in(options.pictures)
    data = RefCOCODataModule(
        options.root,
        ProposalConfig("ground_truth"),
        dataset=options.dataset,
        split_by=options.split_by,
        annotations=options.annotations,
        images=options.images,
    )
    return pictures_of(map(data.read, options.split), PictureFolder(Path(options.root), options.images))


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then in a log file; yields what to tell of pictures that are done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("looking for objects", BarColumn(), MofNCompleteColumn(), "pictures", TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
        return
    start = last = time.monotonic()
    done = earlier = -1

    def advance(count: int) -> None:
        nonlocal done, earlier, last
        if earlier < 0:  # the first news is what an earlier attempt has done, which says nothing of the speed
            done = earlier = count
            return
        done += count
        now = time.monotonic()
        if now - last >= EVERY and done < total:
            last = now
            left = (now - start) / (done - earlier) * (total - done)
            print(f"bsap: {done} of {total} pictures, about {left:.0f} s left", file=sys.stderr, flush=True)

    yield advance
