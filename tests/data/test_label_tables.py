"""Tables of images with any number of classes each."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.sources.multilabel import is_label_table, label_table
from edgeres.errors import DataError
from edgeres.progress import Silent

ROWS = (("train/0.png", (1, 0, 1)), ("train/1.png", (0, 0, 0)), ("val/0.png", (0, 1, 0)))


@pytest.fixture
def table(tmp_path):
    for number, (name, _) in enumerate(ROWS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / name)
    return tmp_path / "list.csv"


def read(table, text):
    table.write_bytes(text.encode())
    return label_table(table, Silent())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_column_for_each_class_with_any_delimiter(table, delimiter):
    lines = ["file,sky,cat,dog", *(f"{name},{','.join(map(str, row))}" for name, row in ROWS)]
    raw = read(table, "\r\n".join(lines).replace(",", delimiter))
    assert raw.classes == ("sky", "cat", "dog")
    assert raw.train.annotations == ((1, 0, 1), (0, 0, 0))
    assert raw.validation.annotations == ((0, 1, 0),)
    assert is_label_table(table)


def test_names_in_one_column_are_in_sorted_order(table):
    raw = read(table, "file,tags\ntrain/0.png,sky|dog\ntrain/1.png,\nval/0.png,cat;sky\n")
    assert raw.classes == ("cat", "dog", "sky")
    assert raw.train.annotations == ((0, 1, 1), (0, 0, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,c\n", "no column of the path: its first line names a, b, c"),
        ("file,a,b\n", "names 2 classes|has no rows"),
        ("file,a,b\ntrain/0.png,1\n", "line 2 has 2 columns, and the first line 3"),
        ("file,a,b\ntrain/0.png,1,yes\n", "line 2: class 'b' is 'yes', not 0 or 1"),
        ("file,a,b\n\ntrain/9.png,1,0\n", r"line 3 names train/9\.png, which is not there"),
        ("file,a,b\ntrain/0.png,1,0\n./train/0.png,0,1\n", r"line 3 names \./train/0\.png again, after .*line 2"),
        ("file,a,b\n../x.png,1,0\n", "is outside of"),
        ("file,a,a\ntrain/0.png,1,0\n", "names 2 classes: a, a"),
        ("file,split,a,b\ntrain/0.png,later,1,0\n", "line 2: the split 'later' is unknown"),
        ('file,a,b\n"train/0.png,1,0\n', "cannot be read"),
    ],
)
def test_bad_tables_are_refused_by_line(table, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read(table, text)
    assert caught.value.hint


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_any_bytes_behind_a_header_are_read_or_refused(table, content):
    table.write_bytes(b"file,a,b\n" + content)
    with pytest.raises(DataError):
        label_table(table, Silent())
