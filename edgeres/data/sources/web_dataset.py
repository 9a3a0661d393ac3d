"""WebDataset shards: tars of ``KEY.jpg`` with ``KEY.cls`` or ``KEY.json``, and ImageNet's own tars, one per class.

Shards are read once from beginning to end for an index of where each image is in them; nothing is unpacked. A sample is
the members of one key: the path up to the first dot of the file's name (webdataset's ``base_plus_ext``).
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgeres.data.content import FilePart
from edgeres.data.images import EXTENSIONS
from edgeres.data.sources.source import (
    RawDataset,
    Samples,
    SourceKind,
    assembled,
    chosen_splits,
    split_name,
    split_word,
)
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.progress import Advance, Progress

LABELS = ("label", "cls", "class", "target", "class_name")
NAMES = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
"""Files beside the shards with the class names that integer labels index, one a line."""

_BRACES = re.compile(r"\{([^{}]+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WORDNET = re.compile(r"n\d{8}")
_LABEL_BYTES = 1 << 20  # longest label
_IMAGE_BYTES = 1 << 30  # largest encoded image
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_MOST_SHARDS = 100_000
_GUNZIP = "gunzip it, since a compressed tar has no random access; unpack it if it has folders or CIFAR's files"
_AGAIN = "fetch or write the shard again"


def _claims(path: Path) -> bool:
    if path.is_dir():
        return bool(_tars(path))
    return path.name.endswith(_SUFFIXES) or _BRACES.search(str(path)) is not None


def _tars(folder: Path) -> list[Path]:
    """Shards in a folder, or in the folders in it, which are named like splits; compressed ones where all are."""
    for suffix in _SUFFIXES:
        parts = (part for part in folder.glob(f"*/*{suffix}") if split_name(part.parent.name))
        if found := sorted(folder.glob(f"*{suffix}")) or sorted(parts):
            return found
    return []


def expand(pattern: str) -> tuple[str, ...]:
    """The names that a pattern with braces stands for: ``{000..012}`` counts, ``{a,b}`` lists."""
    pieces = _BRACES.split(pattern)
    choices = [[piece] if index % 2 == 0 else _choices(piece) for index, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_SHARDS:
        raise DataError(f"{pattern} stands for {count:,} shards, more than {_MOST_SHARDS:,}", "name fewer")
    return tuple("".join(parts) for parts in product(*choices))


def _choices(text: str) -> list[str]:
    if (match := _RANGE.fullmatch(text)) is None:
        return text.split(",")
    low, high, width = int(match[1]), int(match[2]), len(match[1])
    if high - low >= _MOST_SHARDS:
        raise DataError(f"{{{text}}} stands for more than {_MOST_SHARDS:,} shards", "name fewer")
    return [f"{number:0{width}}" for number in range(low, high + 1)]


def read_web_dataset(path: Path, progress: Progress) -> RawDataset:
    """Indexes every shard, and reads the label and the header of every image.

    Raises:
        DataError: A missing, empty, compressed or truncated shard; a key with two images or two labels, or without one.
    """
    shards = _shards(path)
    words = {shard: split_word(shard) for shard in shards}
    splits, notes = chosen_splits(word for word in words.values() if word)
    samples = {name: Samples.empty() for name in ("train", "validation", "calibration")}
    used = [shard for shard in shards if not words[shard] or words[shard] in splits]
    with progress.task("index the shards", sum(shard.stat().st_size for shard in used)) as advance:
        for shard in used:
            into = samples[splits.get(words[shard], "train")]
            for part, label in _samples(shard, advance):
                into.add(part, label)
    present = {name: split for name, split in samples.items() if split.labels}
    names = _names(shards[0].parent) or _names(path if path.is_dir() else path.parent)
    numeric = all(isinstance(label, int) for split in present.values() for label in split.labels)
    names = names if numeric else ()
    return assembled(KIND.name, path, present, progress, names=names, notes=notes)


def _shards(path: Path) -> list[Path]:
    """The tars of a folder, a pattern or one file; ``DataError`` for missing and compressed ones."""
    if path.is_dir():
        return _tars(path)
    shards = [path] if path.is_file() else [Path(name) for name in expand(str(path))]
    if missing := [shard for shard in shards if not shard.is_file()]:
        more = f" and {len(missing) - 1} more shards are" if len(missing) > 1 else " is"
        raise DataError(f"{missing[0]}{more} not there", "correct the pattern, as in 'train-{0000..0012}.tar'")
    return shards


def _names(folder: Path) -> tuple[str, ...]:
    """Class names in a text file of a folder."""
    for file in (folder / name for name in NAMES):
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as failure:
                raise DataError(f"{file} cannot be read: {failure}", "write one name a line in UTF-8") from failure
            return tuple(line.strip() for line in lines if line.strip())
    return ()


@dataclass(slots=True)
class _Sample:
    """The image and the labels of one key."""

    image: FilePart | None = None
    labels: dict[str, str | int] = field(default_factory=dict)


def _samples(shard: Path, advance: Advance) -> Iterator[tuple[FilePart, str | int]]:
    """Images of a shard with their labels: class names or numbers."""
    samples: dict[str, _Sample] = {}
    for member, label in _members(shard, advance):
        key, extension = _key(shard, member.name)
        where = f"{shard}: {member.name}"
        sample = samples.setdefault(key, _Sample())
        if f".{extension}" in EXTENSIONS:
            if sample.image is not None:
                raise DataError(f"{where}: the key {key!r} has two images", "write each key once")
            if member.size > _IMAGE_BYTES:
                raise DataError(f"{where} has {member.size:,} bytes, more than {_IMAGE_BYTES:,}", "shrink or remove it")
            sample.image = FilePart(shard, member.name, member.offset_data, member.size)
        elif label is not None:
            if extension in sample.labels:
                raise DataError(f"{where}: the key {key!r} is there twice", "write each key once")
            sample.labels[extension] = _label(where, extension, label)
    if not any(sample.image for sample in samples.values()):
        raise DataError(f"{shard} holds no images", f"remove it, or {_AGAIN}")
    whole_class = shard.stem if _WORDNET.fullmatch(shard.stem) and not any(s.labels for s in samples.values()) else None
    for key, sample in samples.items():
        if sample.image is None:
            if sample.labels:
                raise DataError(f"{shard}: the key {key!r} has a label and no image", _AGAIN)
            continue
        labels = set(sample.labels.values()) or ({whole_class} if whole_class else set())
        if len(labels) != 1:
            what = f"{shard}: the key {key!r} has {'labels that differ' if labels else 'no label'}"
            raise DataError(what, f"write {key}.cls with its class, or {key}.json with a label")
        yield sample.image, labels.pop()


def _key(shard: Path, name: str) -> tuple[str, str]:
    """Key and extension of a member; absolute names and those that leave the archive are a ``DataError``."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{shard}: the member {name!r} has a path outside of the archive", _AGAIN)
    base, _, extension = path.name.partition(".")
    return str(path.with_name(base)) if base else name, extension.lower()


def _members(shard: Path, advance: Advance) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Files of a tar, in order, with the content of labels; a truncated tar is a ``DataError``.

    A tar ends with a block of zeros (POSIX.1-1988), which one that is cut between two members lacks.
    """
    size, done = shard.stat().st_size, 0
    try:
        with tarfile.open(shard, "r:") as archive, shard.open("rb") as stream:
            archive.offset = 0  # the header that opening it read is read again
            while (member := _next(archive, size)) is not None:
                advance(min(archive.offset, size) - done)
                done = min(archive.offset, size)
                if not member.isfile() or member.issparse():
                    continue
                label = None
                if member.name.endswith((".cls", ".json")):
                    if member.size > _LABEL_BYTES:
                        raise DataError(f"{shard}: {member.name} is too long for a label", _AGAIN)
                    stream.seek(member.offset_data)
                    label = stream.read(member.size)
                yield member, label
    except (tarfile.TarError, OSError, EOFError) as failure:
        hint = _GUNZIP if _compressed(shard) else _AGAIN
        raise DataError(f"{shard} cannot be read as a tar: {failure}", hint) from failure
    advance(size - done)


def _next(archive: tarfile.TarFile, size: int) -> tarfile.TarInfo | None:
    """The member at the archive's offset, None at its end; ``TarFile.next`` would store every member."""
    cut = tarfile.ReadError(f"it is cut short after {size:,} bytes, its end is missing")
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise cut
    if not any(block):
        return None
    archive.fileobj.seek(archive.offset)
    member = tarfile.TarInfo.fromtarfile(archive)
    if archive.offset > size:
        raise cut
    return member


def _compressed(shard: Path) -> bool:
    with shard.open("rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"))


def _label(where: str, extension: str, content: bytes) -> str | int:
    """The class in a ``.cls`` file, a number or a name, or in a ``.json`` file, alone or under one of ``LABELS``."""
    try:
        text = content.decode("utf-8").strip()
        value = json.loads(text) if extension == "json" else text
    except (ValueError, RecursionError) as failure:
        raise DataError(f"{where} is no label: {failure}", "write a class as UTF-8 text") from failure
    if isinstance(value, dict):
        value = next((value[name] for name in LABELS if name in value), None)
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        value = int(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise DataError(f"{where} names no class", f"write a class, or an object with {', '.join(LABELS)}")
    return value


KIND = SourceKind(
    "WebDataset shards", "WebDataset tars, or a pattern such as 'train-{000..012}.tar'", _claims, read_web_dataset
)
