"""Downloading a known dataset through torchvision; all or nothing."""

from __future__ import annotations

import contextlib
import http.client
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from cafe.compat import import_torchvision
from cafe.datasets.catalog import KnownDataset
from cafe.datasets.known import how_to_get
from cafe.datasets.text_files import quote
from cafe.datasets.unpack import unpacked_by_cafe
from cafe.errors import DatasetError

_ARCHIVES = (".zip", ".gz", ".tgz", ".tar")
_FAILURES = (
    OSError,  # urllib's errors and a full disk among them
    RuntimeError,  # a wrong checksum
    ValueError,
    EOFError,
    ImportError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def download_known(row: KnownDataset, data_root: Path) -> None:
    """Download and unpack a dataset below the data root.

    Everything is fetched into a folder beside the target and moved at the end, so an interrupted
    download leaves nothing behind. Files that are there already stay as they are.

    Parameters
    ----------
    row : KnownDataset
        The dataset.
    data_root : Path
        Made where it does not exist.

    Raises
    ------
    DatasetError
        If torchvision does not offer it, or the download fails.
    """
    if row.torchvision is None:
        raise DatasetError(
            f"{row.name} cannot be downloaded by cafe; {how_to_get(row, data_root)}."
        )
    datasets = import_torchvision().datasets
    try:
        data_root.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=data_root) as folder,
            contextlib.redirect_stdout(sys.stderr),  # stdout is for results
            unpacked_by_cafe(datasets),
        ):
            getattr(datasets, row.torchvision)(folder, download=True)
            _drop_archives(Path(folder))
            _merge(Path(folder), data_root)
    except _FAILURES as error:
        reason = quote(str(error) or type(error).__name__)
        raise DatasetError(
            f"downloading {row.name} failed ({reason}); {how_to_get(row, data_root)}."
        ) from error


def _drop_archives(folder: Path) -> None:
    """Delete what torchvision has unpacked and left beside it."""
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            if path.suffix in _ARCHIVES and path.is_file():
                path.unlink()


def _merge(source: Path, target: Path) -> None:
    """Move what is not there yet."""
    for child in sorted(source.iterdir()):
        place = target / child.name
        if not place.exists():
            child.replace(place)
        elif child.is_dir() and place.is_dir():
            _merge(child, place)
