"""``bsap data get`` without its terminal: annotations from the first source that works, then the pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bsap.datamodules.records import PictureRecord
from bsap.datamodules.refer import read_instances, read_refer, refs_files
from bsap.datamodules.sources.catalogue import Catalogue, Dataset
from bsap.datamodules.sources.download import Downloader, full_disk
from bsap.datamodules.sources.forms import FORMS, Job
from bsap.datamodules.sources.pictures import Fetched, fetch_pictures
from bsap.errors import DataError, check_names

Pictures = Literal["needed", "all", "none"]
PICTURE_FOLDER = "images/train2014"
_PICTURE_MB = 0.17  # of a COCO picture, on average


@dataclass(frozen=True)
class Got:
    """What was done for one dataset.

    Attributes:
        source: the name of the source that worked; None where the annotations were there already.
        refused: for each source that did not work, why.
        pictures: what became of the pictures; None where none were fetched one by one.
    """

    source: str | None
    refused: tuple[str, ...]
    pictures: Fetched | None


def get_dataset(
    dataset: Dataset,
    catalogue: Catalogue,
    root: Path,
    downloader: Downloader,
    *,
    splits: Sequence[str] = (),
    pictures: Pictures = "needed",
    source: str | None = None,
    progress: Callable[[str], Callable[[int], object]] = lambda what: lambda count: None,
    say: Callable[[str], object] = lambda text: None,
) -> Got:
    """Get a dataset's annotations and pictures; what is there and complete is not fetched again.

    Args:
        dataset: the dataset.
        catalogue: where shared files are.
        root: the data's root.
        downloader: downloads.
        splits: the splits that are wanted; none means all.
        pictures: ``needed``: those of the wanted splits; ``all``: of all splits; ``none``.
        source: the only source to try.
        progress: called with what comes next, gives a function to call with the amount that has arrived.
        say: called with what the user should know.

    Raises:
        ConfigError: for an unknown split or source.
        DataError: if no source works, or the disk is too full.
    """
    check_names(f"split of {dataset.name}", splits, dataset.splits)
    wanted = tuple(splits) or dataset.splits
    used, refused = None, []
    if not _is_there(dataset, root, wanted):
        candidates = dataset.chosen(source)
        # Twice as large when it is unpacked; how many pictures there are is known only afterwards.
        _check_space(dataset, root, 3 * min(each.about_mb for each in candidates))
        for candidate in candidates:
            say(f"{dataset.name}: annotations from {candidate.name} ({candidate.address})")
            job = Job(dataset, candidate, catalogue, root, wanted, downloader, progress(f"{dataset.name} annotations"))
            try:
                with full_disk(root):
                    FORMS[candidate.form](job)
                used = candidate.name
                break
            except DataError as error:
                refused.append(f"{candidate.name}: {error}")
                say(f"{dataset.name}: {refused[-1]}")
        if used is None:
            raise DataError(f"{dataset.name}: no source works.\n  " + "\n  ".join(refused))
    if dataset.pictures is None or pictures == "none":
        return Got(used, tuple(refused), None)
    needed = _pictures(dataset, root, wanted if pictures == "needed" else dataset.splits)
    shared = catalogue.files[dataset.pictures]
    folder = root / PICTURE_FOLDER
    say(f"{dataset.name}: {len(needed)} pictures into {folder}")
    _check_space(dataset, root, _PICTURE_MB * sum(not (folder / picture.file_name).exists() for picture in needed))
    step = progress(f"{dataset.name} pictures ({len(needed)})")
    return Got(used, tuple(refused), fetch_pictures(needed, folder, shared.address, downloader, progress=step))


def _is_there(dataset: Dataset, root: Path, splits: Sequence[str]) -> bool:
    folder = root / dataset.name
    if dataset.pictures is not None:
        return (dataset.name, dataset.split_by) in refs_files(root) and (folder / "instances.json").exists()
    if splits:
        return all((folder / f"{split}.jsonl").exists() for split in splits)
    unfinished = any((root / ".downloads").glob(f"{dataset.name}-*"))  # an archive stays until all of it is unpacked
    return any(folder.glob("*.json*")) and not unfinished


def _pictures(dataset: Dataset, root: Path, splits: Sequence[str]) -> list[PictureRecord]:
    if set(splits) == set(dataset.splits):
        return list(read_instances(root / dataset.name / "instances.json").pictures.values())
    found: dict[str, PictureRecord] = {}
    for split in splits:
        found |= read_refer(root, dataset.name, dataset.split_by, split).pictures
    return list(found.values())


def _check_space(dataset: Dataset, root: Path, needed: float) -> None:
    """Raise before a download starts if the disk cannot hold so many megabytes."""
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free / 2**20
    if needed > free:
        raise DataError(
            f"{dataset.name} needs about {needed:.0f} MB, but {root} has {free:.0f} MB free. Free some space."
        )
