"""Class names that travel with a network put the folders into the order of its outputs, or are refused."""

import pytest

from edgeres.data.class_order import matched_order, read_names, stated_order
from edgeres.errors import DataError

HEAD = ("tench, Tinca tinca", "English springer", "cassette player", "chain saw")


@pytest.mark.parametrize(
    "folders",
    [
        ("English springer", "cassette player", "chain saw", "tench"),
        ("cassette_player", "Chain-Saw", "english_springer", "Tinca tinca"),
        ("n02102040_English_springer", "n01440764_tench", "n03000684 chain saw", "n02979186-cassette player"),
    ],
)
def test_folders_are_matched_however_they_spell_the_names(folders):
    found = matched_order(HEAD, folders, "theirs")
    assert sorted(found) == sorted(folders)
    for name, word in zip(found, ("t", "spring", "cassette", "saw"), strict=True):
        assert word in name.lower()


def test_wordnet_ids_match_words_that_carry_them():
    head = ("n02 no id", "n01440764, tench, Tinca tinca", "n02102040, English springer")
    assert matched_order(head[1:], ("n02102040", "n01440764"), "timm") == ("n01440764", "n02102040")


@pytest.mark.parametrize("folders", [("n01440764", "n02102040", "n02979186", "n03000684"), ("0", "1", "2", "3")])
def test_ids_and_numbers_keep_their_order_beside_words(folders):
    assert matched_order(HEAD, folders, "torchvision") == folders


def test_names_that_are_nobodys_are_refused_with_both_lists():
    with pytest.raises(DataError) as caught:
        matched_order(("n01", "n02"), ("cat", "dog"), "theirs")
    assert "folders cat, dog; network n01, n02" in caught.value.what
    assert "--classes FILE" in caught.value.hint


def test_some_names_in_other_places_are_refused():
    with pytest.raises(DataError, match="folders chain saw, kite, tench, zebra"):
        matched_order(HEAD, ("chain saw", "kite", "tench", "zebra"), "theirs")


def test_some_names_in_their_places_are_taken():
    folders = ("tench", "English springer", "player", "saw")
    assert matched_order(HEAD, folders, "theirs") == folders


def test_a_name_that_stands_twice_decides_nothing():
    assert matched_order(("crane", "b", "crane"), ("crane", "b", "other"), "theirs") == ("crane", "b", "other")


def test_a_file_has_one_name_a_line(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffchain saw\n\n  tench \r\nfox\n", encoding="utf-8")
    assert read_names(path) == ("chain saw", "tench", "fox")


def test_files_that_name_nothing_are_refused(tmp_path):
    path = tmp_path / "classes.txt"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_names(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8"):
        read_names(path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="is empty"):
        read_names(path)


def test_a_stated_order_names_each_folder_once():
    assert stated_order(("b", "a"), ("a", "b"), "it") == ("b", "a")
    with pytest.raises(DataError, match="it has b more than once"):
        stated_order(("b", "b"), ("a", "b"), "it")
    with pytest.raises(DataError, match="it lacks b and has c, which are no folders: the class folders are a, b"):
        stated_order(("c", "a"), ("a", "b"), "it")
