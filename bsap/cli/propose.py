"""``bsap propose``: a file of proposals for pictures or for a dataset's splits, by an object detector."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bsap.cli.arguments import Arguments, path, path_text
from bsap.reports.text import say

if TYPE_CHECKING:
    from bsap.propose.picture_list import Picture


def run(argv: list[str]) -> int:
    """Find objects and print what was written."""
    parser = Arguments(
        "bsap propose",
        "Find objects with a detector of torchvision and write them as COCO results. `bsap test` reads them with "
        "--data.proposals.source detections (or masks) and --data.proposals.path OUTPUT. The same command continues "
        "after an interruption.",
        usage="%(prog)s OUTPUT (--pictures FOLDER | --root FOLDER) [options]",
        epilog="example: %(prog)s dets.jsonl --root refer --split val testA testB",
    )
    parser.add(
        "[OUTPUT]",  # --split, which takes several, may have taken it
        "the file to write; a file that ends with .jsonl also lists pictures in which nothing was found",
        type=path,
    )
    parser.add("--overwrite", "start from the beginning; by default an interrupted file is continued")
    parser.section("pictures")
    parser.add("--pictures FOLDER", "process all pictures in a folder")
    parser.add("--root FOLDER", "process a data set under this root, as for `bsap test`", type=path_text)
    parser.add("--dataset NAME", "name of the data set", "refcoco")
    parser.add("--split-by NAME", "partition: unc, umd or google; by default the one that papers report")
    parser.add("--split SPLIT...", "one or more splits", ["val"])
    parser.add("--annotations FILE", "JSONL annotations; by default REFER files are read", type=path_text)
    parser.add("--images FOLDER", "folder of the pictures (default: ROOT/images/train2014)", type=path_text)
    parser.section("detector")
    parser.add(
        "--detector NAME",
        "name of a detector in torchvision.models.detection (default: maskrcnn_resnet50_fpn_v2, the best of them on "
        "COCO)",
        "maskrcnn_resnet50_fpn_v2",
    )
    parser.add(
        "--weights FILE",
        "weight file of the detector; by default torchvision's published weights, which are downloaded once",
        "default",
        type=str,
    )
    parser.add(
        "--class-agnostic",
        "take the regions of the detector's first stage, which looks for objects of any class; boxes only, and many: "
        "set --score and --max-per-picture (fasterrcnn and maskrcnn detectors)",
    )
    parser.add("--random-init", "use random weights; for tests and benchmarks only")
    parser.add("--min-size N", "pixels of the shorter side that the detector sees; by default the detector's own")
    parser.add(
        "--score SCORE", "keep detections of at least this score, 0 to 1; a run can raise it later", 0.5, type=float
    )
    parser.add("--max-per-picture N", "keep at most so many detections of a picture, the best first", 100)
    parser.add("--device DEVICE", "cpu, cuda or cuda:1; auto takes a GPU if there is one", "auto")
    parser.add("--batch-size N", "pictures in one batch", 4)
    parser.add("--workers N", "processes that decode pictures; by default as many as cores allow", least=0)
    options = parser.parse_intermixed_args(argv[1:])
    if options.output is None and len(options.split) > 1 and options.split[-1].endswith((".json", ".jsonl")):
        options.output = path(options.split.pop())
    if options.output is None:
        parser.error("Name the file to write: bsap propose OUTPUT ...")
    if (options.pictures is None) == (options.root is None):
        parser.error("Name the pictures: either --pictures FOLDER or --root FOLDER.")
    if not 0 <= options.score <= 1:
        parser.error(f"--score must lie between 0 and 1, but got {options.score:g}.")

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
        class_agnostic=options.class_agnostic,
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
    say(
        f"{options.output}: {record['regions']} regions in {record['pictures']['count']} pictures, "
        f"{record['pictures_without']} of them without any. Made by {record['settings']['detector']}"
        f"{' WITH RANDOM WEIGHTS' if record['settings']['random_init'] else ''}; "
        f"See {options.output}.origin.json for all settings."
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
    """A bar on a terminal, occasional lines in a log file; yields a function that takes the number of new pictures."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("looking for objects", BarColumn(), MofNCompleteColumn(), "pictures", TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
        return
    from bsap.cli.progress import LogLines

    lines, done, before = LogLines("pictures"), 0, -1

    def advance(count: int) -> None:
        nonlocal done, before
        done += count
        if before < 0:  # the first number is what an earlier attempt has done
            before = done
        else:
            lines.show(done, total, before=before)

    yield advance
