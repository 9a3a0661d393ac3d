"""The kinds of image sources that ``--data`` takes, the most specific first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.data.sources import cifar, class_folders, hugging_face, table, web_dataset
from edgeres.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.data.sources.source import RawDataset
    from edgeres.progress import Progress

KINDS = (cifar.KIND, hugging_face.KIND, table.KIND, web_dataset.KIND, class_folders.KIND)
_ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".xz", ".bz2", ".zst")


def read_source(path: Path, progress: Progress) -> RawDataset:
    """Reads a source by the first kind that claims its path.

    Raises:
        DataError: No kind does, or the source cannot be used.
    """
    for kind in KINDS:
        if kind.claims(path):
            return kind.read(path, progress)
    what = f"{path} is {'not a folder, and no list or shard' if path.exists() else 'not there'}"
    unpack = "unpack it and give the folder, or " if path.suffix.lower() in _ARCHIVES and path.exists() else ""
    raise DataError(what, f"{unpack}give one of: {forms()}")


def forms() -> str:
    """What ``--data`` takes, as text."""
    return "; ".join(kind.form for kind in reversed(KINDS))
