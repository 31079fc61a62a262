"""Files of a dataset on the Hugging Face hub, and the rows of its parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bsap.datamodules.sources.download import MANUAL
from bsap.errors import DataError

INSTALL = 'Install what reads the hub\'s files: pip install "bsap[data]".'


def hub_files(repository: str, suffixes: Sequence[str]) -> list[Path]:
    """Download the files of a dataset repository that have one of the suffixes; complete ones are not loaded again."""
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise DataError(f"{repository}: huggingface_hub is not installed. {INSTALL}") from error
    try:
        names = sorted(
            n for n in HfApi().list_repo_files(repository, repo_type="dataset") if n.endswith(tuple(suffixes))
        )
        files = [Path(hf_hub_download(repository, name, repo_type="dataset")) for name in names]
    except Exception as error:  # the hub's library raises its own errors, those of its HTTP client, and OSError
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"Cannot download {repository} from the hub: {reason or type(error).__name__}. {MANUAL}"
        ) from error
    if not files:
        raise DataError(f"The hub's repository {repository} has no file that ends with {' or '.join(suffixes)}.")
    return files


def parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, reduced to some columns, all of which must be there."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{file}: pyarrow is not installed. {INSTALL}") from error
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            lost = [name for name in columns if name not in table.schema_arrow.names]
            if lost:
                raise DataError(
                    f"{file}: the column {lost[0]!r} is missing; it has {', '.join(table.schema_arrow.names)}."
                )
            for batch in table.iter_batches(batch_size=256, columns=list(columns)):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable parquet file: {error}. Delete it and download it again.") from error
