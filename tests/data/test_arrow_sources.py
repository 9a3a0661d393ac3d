"""Arrow and Parquet files; those of Hugging Face's ``datasets`` are written by that package where it is installed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.data.sources.registry import read_source
from edgeres.errors import DataError
from edgeres.progress import Silent

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["wasp", "ant"]  # not in sorted order: the labels index them


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def images(count: int, first: int = 0) -> pa.Table:
    """A table as ``datasets`` writes it, with its features in the schema's metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(first, first + count)]
    schema = pa.schema(
        [("image", kind), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pa.table({"image": cells, "label": [n % 2 for n in range(count)]}, schema=schema)


def stream(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def saved(root: Path) -> Path:
    """Two splits as ``DatasetDict.save_to_disk`` lays them out."""
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    for name, first in (("train", 0), ("validation", 100)):
        shards = [f"data-0000{index}-of-00002.arrow" for index in range(2)]
        for index, shard in enumerate(shards):
            stream(images(12, first + 12 * index), root / name / shard)
        state = {"_data_files": [{"filename": shard} for shard in shards], "_split": name}
        (root / name / "state.json").write_text(json.dumps(state))
    return root


def read(path):
    return read_source(Path(path), Silent())


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.hint
    return str(caught.value)


def pixel(split, index) -> int:
    return int(np.asarray(split.image(index))[0, 0, 0])


def test_saved_dataset_with_its_class_names_and_splits(tmp_path):
    raw = read(saved(tmp_path))
    assert (raw.kind, raw.classes) == ("Hugging Face dataset", ("wasp", "ant"))
    assert (len(raw.train), len(raw.validation)) == (24, 24)
    assert [pixel(raw.validation, index) for index in (0, 11, 12, 23)] == [100, 111, 112, 123]
    assert raw.train.labels == (0, 1) * 12
    assert raw.train.images[13].where == f"{tmp_path / 'train' / 'data-00001-of-00002.arrow'} row 1"
    assert len(read(tmp_path / "train").train) == 24


def test_parquet_shards_of_the_hub(tmp_path):
    (tmp_path / "data").mkdir()
    for name, first in (("train", 0), ("test", 100)):
        for index in range(2):
            file = tmp_path / "data" / f"{name}-0000{index}-of-00002.parquet"
            pq.write_table(images(20, first + 20 * index), file, row_group_size=3)
    raw = read(tmp_path)
    assert (raw.kind, raw.classes) == ("Hugging Face dataset", ("wasp", "ant"))
    assert (len(raw.train), len(raw.validation)) == (40, 40)
    order = np.random.default_rng(0).permutation(40)
    assert [pixel(raw.validation, index) for index in order] == [100 + index for index in order]
    assert len(read(tmp_path / "data" / "train-00000-of-00002.parquet").train) == 20


def test_cache_of_arrow_files(tmp_path):
    stream(images(10), tmp_path / "cifar10-train.arrow")
    stream(images(10, 50), tmp_path / "cifar10-test.arrow")
    stream(images(10, 90), tmp_path / "cache-0123456789abcdef.arrow")
    raw = read(tmp_path)
    assert (len(raw.train), len(raw.validation), pixel(raw.validation, 0)) == (10, 10, 50)


def test_hidden_labels_are_not_used(tmp_path):
    table = images(10)
    stream(table, tmp_path / "x-train.arrow")
    stream(table.set_column(1, "label", pa.array([-1] * 10)), tmp_path / "x-test.arrow")
    raw = read(tmp_path)
    assert raw.validation is None
    assert raw.notes == ("the 10 validation images have no labels and are not used",)


def test_parquet_of_paths(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    labels = pa.array(["a", "b"] * 4).dictionary_encode()
    paths = [f"{number}.png" for number in range(8)]
    pq.write_table(pa.table({"label": labels, "path": paths}), tmp_path / "list.parquet")
    raw = read(tmp_path / "list.parquet")
    assert (raw.kind, raw.classes, raw.train.labels) == ("table of paths", ("a", "b"), (0, 1) * 4)
    pq.write_table(pa.table({"label": labels, "path": [*paths[:7], "../7.png"]}), tmp_path / "list.parquet")
    assert "row 7: '../7.png' is outside of" in refused(tmp_path / "list.parquet")
    pq.write_table(pa.table({"label": [[0]] * 8, "path": paths}), tmp_path / "list.parquet")
    assert "column 'label' is of type list" in refused(tmp_path / "list.parquet")


def test_damage_is_refused(tmp_path):
    saved(tmp_path)
    file = tmp_path / "train" / "data-00000-of-00002.arrow"
    whole = file.read_bytes()
    for content in (b"", b"no arrow", whole[: len(whole) // 2], whole[:40]):
        file.write_bytes(content)
        assert "data-00000-of-00002.arrow" in refused(tmp_path)
    file.unlink()
    assert "is missing" in refused(tmp_path)
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    assert "is outside of" in refused(tmp_path)
    (tmp_path / "train" / "state.json").write_text("{")
    assert "state.json cannot be read" in refused(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more PAR1")
    assert "x.parquet cannot be read" in refused(tmp_path / "x.parquet")


def test_rows_without_an_image_or_a_label(tmp_path):
    table = images(4)
    stream(table.set_column(1, "label", pa.array([0, 1, None, 1])), tmp_path / "a-train.arrow")
    assert "row 2 has the label None" in refused(tmp_path)
    stream(table.set_column(1, "label", pa.array([0, 1, 2, 1])), tmp_path / "a-train.arrow")
    assert "the label 2 is none of 2 classes" in refused(tmp_path)
    cells = [*table.column("image").to_pylist()[:3], {"bytes": None, "path": "/etc/passwd"}]
    stream(table.set_column(0, "image", pa.array(cells)), tmp_path / "a-train.arrow")
    message = refused(tmp_path)
    assert "row 3 has no image" in message


def test_images_that_the_rows_name_are_read_from_the_folder(tmp_path):
    cells = []
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
        cells.append({"bytes": None, "path": f"{number}.png"})
    table = images(4)
    kind = table.schema.field("image").type
    stream(table.set_column(0, "image", pa.array(cells, kind)), tmp_path / "a-train.arrow")
    assert pixel(read(tmp_path).train, 3) == 3


def test_equal_to_what_datasets_itself_reads(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [{"bytes": encoded(n), "path": None} for n in range(10)], "label": [n % 2 for n in range(10)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([3, 1])}).save_to_disk(str(tmp_path / "saved"))
    whole.to_parquet(str(tmp_path / "train.parquet"))
    for raw in (read(tmp_path / "saved"), read(tmp_path / "train.parquet")):
        assert raw.classes == tuple(NAMES)
        assert raw.train.labels == tuple(whole["label"])
        for index, row in enumerate(whole):
            np.testing.assert_array_equal(np.asarray(raw.train.image(index)), np.asarray(row["image"].convert("RGB")))
    assert [pixel(read(tmp_path / "saved").validation, index) for index in (0, 1)] == [3, 1]
