"""Forms of labelled images, and classes of other names, orders and numbers."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from benchmarks.digit_data import (
    NAMES,
    NUMBERS,
    Digit,
    digits,
    folders,
    narrow,
    network,
)

if TYPE_CHECKING:
    from pathlib import Path


from benchmarks.input_rows.row import MODEL, SQUARE, STATED, Row, Words, body, png, weights

SECTION = "Data and classes"


def table(folder: Path, suffix: str) -> Words:
    """A table of path, label and split."""
    rows = [("path", "label", "split")]
    for digit in digits():
        (folder / "files").mkdir(exist_ok=True)
        png(digit, folder / "files" / f"{digit.number}")
        rows.append((f"files/{digit.number}.png", NAMES[digit.label], digit.split))
    file = folder / f"labels.{suffix}"
    if suffix == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({head: [row[i] for row in rows[1:]] for i, head in enumerate(rows[0])}), file)
    else:
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return [MODEL, "--weights", weights(folder, body(), classes=NAMES), "--data", str(file)]


def encoded(digit: Digit) -> bytes:
    """The picture as the bytes of a PNG."""
    stream = io.BytesIO()
    digit.image(SQUARE).save(stream, "PNG")
    return stream.getvalue()


def hugging_face(folder: Path) -> Words:
    """Two splits as ``DatasetDict.save_to_disk`` lays them out."""
    import pyarrow as pa

    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    root = folder / "data"
    for split, name in (("train", "train"), ("val", "validation")):
        chosen = [digit for digit in digits() if digit.split == split]
        cells = [{"bytes": encoded(digit), "path": f"{digit.number}.png"} for digit in chosen]
        part = pa.table({"image": cells, "label": [digit.label for digit in chosen]}, schema=schema)
        (root / name).mkdir(parents=True)
        file = root / name / "data-00000-of-00001.arrow"
        with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, schema) as writer:
            writer.write_table(part)
        state = {"_data_files": [{"filename": file.name}], "_split": name}
        (root / name / "state.json").write_text(json.dumps(state))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    return [MODEL, "--weights", weights(folder, body(), classes=NAMES), "--data", str(root)]


def shards(folder: Path) -> Words:
    """A tar for each split."""
    root = folder / "data"
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-000000.tar", "w") as tar:
            for digit in (one for one in digits() if one.split == split):
                for suffix, content in (("png", encoded(digit)), ("cls", str(digit.label).encode())):
                    entry = tarfile.TarInfo(f"{digit.number:06}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    (root / "classes.txt").write_text("\n".join(NAMES))
    return [MODEL, "--weights", weights(folder, body(), classes=NAMES), "--data", str(root)]


def cifar(folder: Path) -> Words:
    """The six binary files of CIFAR-10."""
    root = folder / "cifar-10-batches-bin"
    root.mkdir()
    names = [f"data_batch_{index}.bin" for index in range(1, 6)]
    parts = np.array_split(np.arange(600), 5)
    for name, numbers in (*zip(names, parts, strict=True), ("test_batch.bin", np.arange(600, 1000))):
        chosen = [digits()[number] for number in numbers]
        records = [bytes([one.label]) + one.pixels(SQUARE).transpose(2, 0, 1).tobytes() for one in chosen]
        (root / name).write_bytes(b"".join(records))
    (root / "batches.meta.txt").write_text("\n".join(NAMES))
    return [MODEL, "--weights", weights(folder, body()), "--data", str(root)]


def linked(folder: Path) -> Words:
    """Links to class folders with images in subfolders."""
    folders(folder / "store", lambda digit, path: png(digit, nested(path)))
    for split in ("train", "val"):
        (folder / "data" / split).mkdir(parents=True)
        for name in NUMBERS:
            (folder / "data" / split / name).symlink_to(folder / "store" / split / name)
    return [MODEL, "--weights", weights(folder, body()), "--data", str(folder / "data")]


def nested(path: Path) -> Path:
    """A path one folder deeper."""
    place = path.parent / f"part{int(path.name) % 3}"
    place.mkdir(exist_ok=True)
    return place / path.name


def by_name(folder: Path, *, also: str = "", renamed: bool = False) -> Words:
    """Outputs in the order of ``NAMES``, folders in alphabetical order; perhaps with other names of folders."""
    names = tuple(f"folder_{index}" for index in range(10)) if renamed else NAMES
    data = folders(folder / "data", png, names)
    words = [MODEL, "--weights", weights(folder, body(), classes=NAMES), "--data", str(data)]
    if also == "map":
        (folder / "map.csv").write_text("".join(f"folder_{index},{name}\n" for index, name in enumerate(NAMES)))
        words += ["--classes", str(folder / "map.csv")]
    return words


def some_classes(folder: Path, answers: str) -> Words:
    """Images of the first six classes of ten."""

    def save(digit: Digit, path: Path) -> None:
        png(digit, path)

    data = folders(folder / "data", save, NAMES)
    for split in ("train", "val"):
        for name in NAMES[6:]:
            place = data / split / name
            for file in place.iterdir():
                file.unlink()
            place.rmdir()
    (folder / "map.csv").write_text("".join(f"{name},{index}\n" for index, name in enumerate(NAMES[:6])))
    words = [MODEL, "--weights", weights(folder, body(), classes=NAMES), "--data", str(data)]
    return [*words, "--classes", str(folder / "map.csv"), "--answers", answers]


def at_chance(folder: Path) -> Words:
    """A network of drawn weights, its classifier too."""
    made = network(narrow())
    return [MODEL, "--weights", weights(folder, made), "--data", str(folders(folder / "data", png))]


def order_of_channels(folder: Path, stated: tuple[str, ...] = ()) -> Words:
    """Weights of OpenCV's BGR images; the order of channels is perhaps stated."""
    made = body(see=lambda digit: Image.fromarray(digit.pixels(SQUARE)[..., ::-1].copy()))
    torch.save(made.state_dict(), folder / "w.pth")
    return [MODEL, "--weights", str(folder / "w.pth"), "--data", str(folders(folder / "data", png)), *STATED, *stated]


ROWS = (
    Row(SECTION, "CSV of path,label,split", partial(table, suffix="csv")),
    Row(SECTION, "Parquet of path,label,split", partial(table, suffix="parquet")),
    Row(SECTION, "Hugging Face dataset on disk", hugging_face),
    Row(SECTION, "WebDataset shards", shards),
    Row(SECTION, "CIFAR binaries", cifar),
    Row(SECTION, "linked and nested folders", linked),
    Row(SECTION, "outputs in another order than folders, by name", by_name),
    Row(SECTION, "folders of other names", partial(by_name, renamed=True)),
    Row(SECTION, "folders of other names, `--classes MAP`", partial(by_name, renamed=True, also="map")),
    Row(SECTION, "6 of 10 classes, all outputs", partial(some_classes, answers="all")),
    Row(SECTION, "6 of 10 classes, `--answers subset`", partial(some_classes, answers="subset")),
    Row(SECTION, "a network at chance", at_chance),
    Row(SECTION, "a network of BGR images", order_of_channels),
    Row(SECTION, "a network of BGR images, `--channels rgb`", partial(order_of_channels, stated=("--channels", "rgb"))),
)
"""Rows of this section."""
