from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.content import FilePart, WholeFile
from edgeres.data.dataset import open_dataset
from edgeres.data.images import EncodedImage
from edgeres.data.sources.cifar import CIFAR, CIFAR100, CIFAR_CLASSES
from edgeres.data.sources.registry import read_source
from edgeres.data.sources.web_dataset import expand
from edgeres.errors import DataError
from edgeres.progress import Silent


def encoded(number: int, kind: str = "PNG") -> bytes:
    """A small image whose content is the number."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), number % 251, np.uint8) + np.eye(4, dtype=np.uint8) * (number // 251)).save(
        stream, kind
    )
    return stream.getvalue()


def read(path):
    return read_source(Path(path), Silent())


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.hint
    return str(caught.value)


# Class folders.


def folder(root: Path, count=4, classes=("ant", "bee")) -> Path:
    for index, name in enumerate(classes):
        for number in range(count):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(100 * index + number))
    return root


def test_linked_trees_are_followed(tmp_path):
    folder(tmp_path / "store")
    for part in ("train", "val"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for name in ("ant", "bee"):
            (tmp_path / "data" / part / name).symlink_to(tmp_path / "store" / name)
    nested = folder(tmp_path / "elsewhere", classes=("deep",))
    (tmp_path / "store" / "ant" / "more").symlink_to(nested / "deep")
    raw = read(tmp_path / "data")
    assert (raw.kind, raw.classes, len(raw.train), len(raw.validation)) == ("class folders", ("ant", "bee"), 12, 12)


def test_a_loop_of_links_is_read_once(tmp_path):
    root = folder(tmp_path)
    (root / "ant" / "loop").symlink_to(root / "ant")
    (root / "ant" / "twice").mkdir()
    (root / "ant" / "twice" / "up").symlink_to(root / "ant")
    assert Counter(read(root).train.labels) == {0: 4, 1: 4}
    (root / "all").symlink_to(root)
    assert "is a link to a folder that contains it" in refused(root)


def test_a_folder_above_the_splits_says_which_to_pass(tmp_path):
    folder(tmp_path / "imagenette" / "train")
    assert f"pass --data {tmp_path / 'imagenette'}" in refused(tmp_path)


def test_links_to_nothing_and_to_other_classes_are_refused(tmp_path):
    root = folder(tmp_path / "data" / "train")
    for link, target, words in (
        ("ant/gone.png", "nowhere.png", "ant/gone.png is a link to nothing"),
        ("gone", "nowhere", "gone is a link to nothing"),
        ("ant/up", "..", "ant/up is a link to a folder that contains it"),
        ("ant/root", "../..", "ant/root is a link to a folder that contains it"),
    ):
        (root / link).symlink_to(target)
        assert words in refused(tmp_path / "data"), link
        (root / link).unlink()
    (root / ".hidden").symlink_to("nowhere")
    assert len(read(tmp_path / "data").train) == 8


def test_a_linked_class_reads_no_class_beside_its_target(tmp_path):
    store = folder(tmp_path / "store")
    (store / "ant" / "up").symlink_to(store)
    (tmp_path / "train").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).symlink_to(store / name)
    assert "ant/up is a link to a folder that contains it" in refused(tmp_path / "train")


def test_folders_of_splits_are_named_in_any_case(tmp_path):
    folder(tmp_path / "Train")
    folder(tmp_path / "VAL", 3)
    folder(tmp_path / "test", 2)
    raw = read(tmp_path)
    assert (raw.classes, len(raw.train), len(raw.validation)) == (("ant", "bee"), 8, 6)
    assert raw.notes == ("the test images are not used: VAL has the validation images",)


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    assert read(folder(tmp_path / "a", classes=("bus", "train"))).classes == ("bus", "train")
    folder(tmp_path / "b", classes=("train", "val"))
    raw = read(tmp_path / "b")
    assert (raw.classes, len(raw.train)) == ((), 0)


def test_the_same_classes_under_a_misspelt_split_are_refused(tmp_path):
    folder(tmp_path / "trian")
    folder(tmp_path / "val")
    (tmp_path / "logs").mkdir()
    assert "trian has folders like the classes in val" in refused(tmp_path)
    (tmp_path / "trian").rename(tmp_path / "train")
    assert len(read(tmp_path).train) == 8


def test_one_split_alone_is_a_source(tmp_path):
    assert len(read(folder(tmp_path) / ".").train) == 8


def test_cifar_as_images_has_cifars_preprocessing(tmp_path):
    for name in CIFAR_CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "train" / name / "0001.png")
    assert read(tmp_path).suggested == CIFAR
    Image.new("RGB", (33, 32)).save(tmp_path / "train" / "cat" / "wide.jpg")
    assert read(tmp_path).suggested is None


# CIFAR-100.


def test_cifar100_takes_the_fine_labels_by_name(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"class {index}" for index in range(100)]
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    for name in ("train", "test"):
        records = rng.integers(0, 256, (200, 3074), dtype=np.uint8)
        records[:, 0], records[:, 1] = 7, np.arange(200) % 100
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    raw = read(tmp_path)
    assert (raw.name, raw.classes, raw.suggested) == ("cifar100", tuple(names), CIFAR100)
    assert raw.validation.labels == tuple(index % 100 for index in range(200))
    planes = records[3, 2:].reshape(3, 32, 32)
    np.testing.assert_array_equal(np.asarray(raw.validation.image(3)).transpose(2, 0, 1), planes)
    (tmp_path / "fine_label_names.txt").unlink()
    assert "fine_label_names.txt" in refused(tmp_path)


def test_cifar100_as_a_pickle_is_never_opened(tmp_path):
    for name in ("train", "meta", "test"):
        (tmp_path / name).write_bytes(pickle.dumps({}))
    assert "cifar-100-binary.tar.gz" in refused(tmp_path)


# Tables.


def table(root: Path, text: str, images: int = 12, name: str = "data.csv") -> Path:
    (root / "pix").mkdir(exist_ok=True)
    for number in range(images):
        (root / "pix" / f"{number}.png").write_bytes(encoded(number))
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def lines(delimiter=",", header=("path", "label"), count=12):
    rows = [header, *((f"pix/{n}.png", "ab"[n % 2]) for n in range(count))]
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [("path", "label"), (" Image ", "CLASS"), ("filename", "target")])
def test_table_of_paths_with_any_usual_header_and_delimiter(tmp_path, delimiter, header):
    raw = read(table(tmp_path, "\ufeff" + lines(delimiter, header)))
    assert (raw.kind, raw.name, raw.classes) == ("table of paths", "data", ("a", "b"))
    assert raw.train.labels == (0, 1) * 6
    assert raw.validation is None


def test_stated_delimiter_of_a_spreadsheet(tmp_path):
    assert len(read(table(tmp_path, "sep=:\n" + lines(":"))).train) == 12


def test_splits_of_a_table(tmp_path):
    rows = "".join(
        f"pix/{n}.png,{'ab'[n % 2]},{'train' if n < 6 else 'val' if n < 10 else 'Test'}\n" for n in range(12)
    )
    raw = read(table(tmp_path, "file,label,split\n" + rows))
    assert (len(raw.train), len(raw.validation)) == (6, 4)
    assert raw.notes == ("the Test images are not used: val has the validation images",)


def test_numeric_labels_are_in_numerical_order(tmp_path):
    rows = "".join(f"pix/{n}.png,{n}\n" for n in range(12))
    raw = read(table(tmp_path, "path,label\n" + rows))
    assert raw.classes == tuple(str(n) for n in range(12))
    assert raw.train.labels == tuple(range(12))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("pix/0.png,a\n../x.png,b\n", "line 3: '../x.png' is outside of"),
        ("pix/0.png,a\n/etc/passwd,b\n", "line 3: '/etc/passwd' is outside of"),
        ("pix/0.png,a\npix/0.png,b\n", "line 3 names pix/0.png again, after"),
        ("pix/0.png,a\npix/./0.png,a\n", "line 3 names pix/./0.png again"),
        ("pix/0.png,a\npix/1.png,\n", "line 3 has no label"),
        ("pix/0.png,a\n,b\n", "line 3 has no path"),
        ("pix/0.png,a\n\npix/1.png\n", "line 4 has 1 columns"),
        ("pix/0.png,a\npix/none.png,b\n", "line 3 names"),
        ('pix/0.png,a\n"pix/1.png,b\n', "cannot be read"),
        ("", "has no rows"),
    ],
)
def test_bad_rows_are_named_by_their_line(tmp_path, rows, message):
    assert message in refused(table(tmp_path, "path,label\n" + rows))


@pytest.mark.parametrize(
    ("labels", "words"),
    [(("-1", "0"), r"1.png: the label -1 is below 0"), (("10.0", "2.0"), r"the label 10.0 is no wh")],
)
def test_numbers_that_are_no_class_numbers_are_refused(tmp_path, labels, words):
    folder(tmp_path / "images")
    rows = [f"images/{name}/1.png,{label}" for name, label in zip(("ant", "bee"), labels, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(("path,label", *rows)))
    assert words in refused(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("\n".join(("path,label", rows[0], "images/bee/1.png,big-1")))
    assert read(tmp_path / "list.csv").classes == tuple(sorted((labels[0], "big-1")))


def test_a_folder_in_place_of_an_image_is_named(tmp_path):
    folder(tmp_path / "images")
    (tmp_path / "list.csv").write_text("path,label\nimages/ant,ant\n")
    assert "line 2 names" in (message := refused(tmp_path / "list.csv"))
    assert "is a folder" in message


def test_a_quoted_line_break_is_counted(tmp_path):
    text = 'path,label,note\npix/0.png,a,"two\nlines"\npix/1.png,,x\n'
    assert "line 4 has no label" in refused(table(tmp_path, text))


def test_unknown_columns_and_splits(tmp_path):
    assert "no column of the label: its first line names path, colour" in refused(table(tmp_path, "path,colour\nx,y\n"))
    text = "path,label,split\npix/0.png,a,dev\n"
    assert "line 2: the split 'dev' is unknown" in refused(table(tmp_path, text))
    (tmp_path / "data.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    assert "cannot be read" in refused(tmp_path / "data.csv")


def test_an_absolute_path_below_the_table_is_taken(tmp_path):
    text = "path,label\n" + "".join(f"{tmp_path}/pix/{n}.png,{'ab'[n % 2]}\n" for n in range(4))
    assert len(read(table(tmp_path, text)).train) == 4


def test_image_folder_with_metadata(tmp_path):
    for part, first in (("train", 0), ("validation", 50)):
        (tmp_path / part).mkdir()
        rows = ["file_name,label"]
        for number in range(first, first + 6):
            (tmp_path / part / f"{number}.png").write_bytes(encoded(number))
            rows.append(f"{number}.png,{'ab'[number % 2]}")
        (tmp_path / part / "metadata.csv").write_text("\n".join(rows))
    raw = read(tmp_path)
    assert (raw.kind, len(raw.train), len(raw.validation)) == ("table of paths", 6, 6)
    for part in ("train", "validation"):
        with (tmp_path / part / "metadata.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        (tmp_path / part / "metadata.csv").unlink()
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path).validation.labels == raw.validation.labels


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_as_a_table_are_read_or_refused(tmp_path, content):
    (tmp_path / "any.csv").write_bytes(b"path,label\n" + content)
    with pytest.raises(DataError):
        read(tmp_path / "any.csv")


# WebDataset.


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(number: int, label: str = "", kind: str = "cls") -> list[tuple[str, bytes]]:
    text = label or str(number % 2)
    content = text if kind == "cls" else json.dumps({"label": int(text) if text.isdecimal() else text})
    return [(f"{number:06}.jpg", encoded(number)), (f"{number:06}.{kind}", content.encode())]


def shards(root: Path, kind: str = "cls") -> Path:
    for part, first in (("train", 0), ("val", 500)):
        for shard in range(2):
            members = [m for n in range(8) for m in sample(first + 8 * shard + n, kind=kind)]
            tar(root / f"{part}-{shard:04}.tar", members)
    return root


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_are_indexed_and_their_images_read_in_place(tmp_path, kind):
    raw = read(shards(tmp_path, kind))
    assert (raw.kind, raw.classes) == ("WebDataset shards", ("0", "1"))
    assert (raw.train.labels, len(raw.validation)) == ((0, 1) * 8, 16)
    image = raw.train.images[9]
    assert isinstance(image.content, FilePart)
    assert image.where == f"{tmp_path / 'train-0001.tar'}: 000009.jpg"
    with Image.open(io.BytesIO(encoded(9))) as expected:
        np.testing.assert_array_equal(np.asarray(image.decode()), np.asarray(expected.convert("RGB")))
    file = tmp_path / "same.png"
    file.write_bytes(encoded(9))
    assert image.sha256 == EncodedImage.probe(WholeFile(file)).sha256


def test_a_pattern_names_the_shards(tmp_path):
    shards(tmp_path)
    raw = read(tmp_path / "{train,val}-{0000..0001}.tar")
    assert (len(raw.train), len(raw.validation)) == (16, 16)
    assert "val-0002.tar is not there" in refused(tmp_path / "val-{0000..0002}.tar")
    assert expand("a{08..11}{x,y}.tar")[:3] == ("a08x.tar", "a08y.tar", "a09x.tar")
    assert "stands for more than" in refused(tmp_path / "x-{0..99999999}.tar")


def test_class_names_beside_shards(tmp_path):
    shards(tmp_path)
    (tmp_path / "classes.txt").write_text("wasp\nant\n")
    assert read(tmp_path).classes == ("wasp", "ant")
    (tmp_path / "classes.txt").write_text("wasp\n")
    assert "is none of 1 classes" in refused(tmp_path)


def test_imagenets_tars_are_one_class_each(tmp_path):
    for index, name in enumerate(("n01440764", "n02102040")):
        tar(tmp_path / "train" / f"{name}.tar", [(f"{name}_{n}.JPEG", encoded(100 * index + n)) for n in range(5)])
    raw = read(tmp_path)
    assert (raw.classes, raw.train.labels) == (("n01440764", "n02102040"), (0,) * 5 + (1,) * 5)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "holds no images"),
        ([("a.txt", b"x")], "holds no images"),
        ([*sample(1), *sample(1)], "has two images"),
        ([("1.jpg", encoded(1)), ("1.cls", b"0"), ("1.cls", b"0")], "is there twice"),
        ([*sample(1), ("2.jpg", encoded(2))], "the key '2' has no label"),
        ([*sample(1), ("2.cls", b"1")], "a label and no image"),
        ([("1.jpg", encoded(1)), ("1.cls", b"1"), ("1.json", b'{"label": 0}')], "labels that differ"),
        ([("../1.jpg", encoded(1)), ("../1.cls", b"1")], "a path outside of the archive"),
        ([("/etc/1.jpg", encoded(1)), ("/etc/1.cls", b"1")], "a path outside of the archive"),
        ([("1.jpg", encoded(1)), ("1.json", b"{")], "is no label"),
        ([("1.jpg", encoded(1)), ("1.json", b'{"caption": "x"}')], "names no class"),
        ([("1.jpg", b"no image"), ("1.cls", b"1")], "1.jpg is not an image"),
    ],
)
def test_bad_shards_are_refused(tmp_path, members, message):
    assert message in refused(tar(tmp_path / "a.tar", members))


def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path):
    whole = tar(tmp_path / "whole.tar", [m for n in range(6) for m in sample(n)]).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in [0, 100, 512, 700, 1024, 3 * 512, end - 512, end - 100, end]:
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        assert "cut.tar" in refused(tmp_path / "cut.tar"), length
    (tmp_path / "cut.tar").write_bytes(whole[: end + 512])
    assert len(read(tmp_path / "cut.tar").train) == 6


def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    assert "gunzip it" in refused(tmp_path / "x.tar")
    shutil.move(tmp_path / "x.tar", tmp_path / "x.tar.gz")
    assert "gunzip it" in refused(tmp_path / "x.tar.gz")
    assert "gunzip it" in refused(tmp_path)


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    assert "unpack it" in refused(tmp_path / "images.zip")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.integers(0, 255))
def test_a_damaged_tar_is_read_or_refused(tmp_path, place, byte):
    whole = tmp_path / "whole.tar"
    if not whole.exists():
        tar(whole, [m for n in range(3) for m in sample(n)])
    content = bytearray(whole.read_bytes())
    content[place % len(content)] = byte
    (tmp_path / "damaged.tar").write_bytes(content)
    try:
        raw = read(tmp_path / "damaged.tar")
        raw.train.image(0)
    except DataError:
        return
    assert len(raw.train) <= 3


def test_a_part_of_a_file_is_a_stream(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with FilePart(tmp_path / "x", "part", 10, 20).open() as stream:
        assert stream.read(3) == bytes([10, 11, 12])
        assert stream.seek(-2, io.SEEK_END) == 18
        assert stream.read() == bytes([28, 29])
        assert stream.seek(5) == stream.tell() == 5
        assert stream.read(1) == bytes([15])


# The same images as any source are one data set.


def test_every_source_of_the_same_images_gives_the_same_splits(tmp_path):
    numbers = range(100)
    for number in numbers:
        file = tmp_path / "folders" / "train" / str(number % 2) / f"{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number))
    files = sorted((tmp_path / "folders" / "train").glob("*/*.png"))
    rows = [f"train/{file.parent.name}/{file.name},{file.parent.name}" for file in files]
    (tmp_path / "folders" / "list.csv").write_text("\n".join(["path,label", *rows]))
    members = [
        member
        for file in files
        for member in ((file.name, file.read_bytes()), (f"{file.stem}.cls", file.parent.name.encode()))
    ]
    tar(tmp_path / "shards" / "train-0.tar", members)
    sources = [tmp_path / "folders", tmp_path / "folders" / "list.csv", tmp_path / "shards"]
    opened = [open_dataset(path, seed=0, calibration=32, allow=frozenset()) for path in sources]
    for name in ("train", "calibration", "tuning", "validation"):
        assert len({getattr(dataset, name).digest for dataset in opened}) == 1
    assert [dataset.kind for dataset in opened] == ["class folders", "table of paths", "WebDataset shards"]
