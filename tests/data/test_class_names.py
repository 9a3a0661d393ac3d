"""Class names that travel with a network say which output each folder is, or are refused."""

import pytest

from edgeres.data.class_file import read_classes
from edgeres.data.class_map import ClassMap, imagenet, imagenet_map, matched_map, numbered_map
from edgeres.errors import DataError
from edgeres.model.zoo import import_torchvision

HEAD = ("tench, Tinca tinca", "English springer", "cassette player", "chain saw")


def in_order(found: ClassMap, folders) -> tuple[str, ...]:
    """The folders in the order of the outputs."""
    return tuple(folders[index] for index in sorted(range(len(folders)), key=found.outputs.__getitem__))


@pytest.mark.parametrize(
    "folders",
    [
        ("English springer", "cassette player", "chain saw", "tench"),
        ("cassette_player", "Chain-Saw", "english_springer", "Tinca tinca"),
        ("n02102040_English_springer", "n01440764_tench", "n03000684 chain saw", "n02979186-cassette player"),
    ],
)
def test_folders_are_matched_however_they_spell_the_names(folders):
    found = matched_map(HEAD, folders, "theirs")
    assert not found.partial
    assert found.names == in_order(found, folders)
    for name, word in zip(found.names, ("t", "spring", "cassette", "saw"), strict=True):
        assert word in name.lower()


def test_wordnet_ids_match_words_that_carry_them():
    head = ("n01440764, tench, Tinca tinca", "n02102040, English springer")
    assert matched_map(head, ("n02102040", "n01440764"), "timm").outputs == (1, 0)


@pytest.mark.parametrize("folders", [("n01440764", "n02102040", "n02979186", "n03000684"), ("0", "1", "2", "3")])
def test_ids_and_numbers_keep_their_order_beside_words(folders):
    assert matched_map(HEAD, folders, "torchvision") == ClassMap((0, 1, 2, 3), folders)


def test_names_that_are_nobodys_are_refused_with_both_lists():
    with pytest.raises(DataError) as caught:
        matched_map(("n01", "n02"), ("cat", "dog"), "theirs")
    assert "folders cat, dog; network n01, n02" in caught.value.what
    assert "--classes MAP" in caught.value.hint


def test_some_names_in_other_places_are_refused():
    with pytest.raises(DataError, match="folders chain saw, kite, tench, zebra"):
        matched_map(HEAD, ("chain saw", "kite", "tench", "zebra"), "theirs")


def test_some_names_in_their_places_are_taken():
    folders = ("tench", "English springer", "player", "saw")
    assert matched_map(HEAD, folders, "theirs") == ClassMap((0, 1, 2, 3), folders)


def test_a_name_that_stands_twice_decides_nothing():
    folders = ("crane", "b", "other")
    assert matched_map(("crane", "b", "crane"), folders, "theirs") == ClassMap((0, 1, 2), folders)


# Some of the network's classes.


def test_folders_of_some_classes_are_matched_by_name():
    found = matched_map(HEAD, ("Chain saw", "tench"), "theirs")
    assert (found.outputs, found.partial) == ((3, 0), True)
    assert found.names == ("tench", "English springer", "cassette player", "Chain saw")


def test_some_folders_that_are_no_class_are_refused():
    with pytest.raises(DataError) as caught:
        matched_map(HEAD, ("chain saw", "kite"), "theirs")
    assert "2 folders, 4 outputs; folders chain saw, kite; network tench, Tinca tinca, " in caught.value.what
    assert "no output is named like kite" in caught.value.what


def test_more_folders_than_outputs_are_refused():
    with pytest.raises(DataError, match="3 folders, 2 outputs"):
        matched_map(("a", "b"), ("a", "b", "c"), "theirs")


def test_an_output_that_shares_the_name_of_a_folder_gets_its_number():
    found = ClassMap.of((2,), ("crane",), ("crane", "b", "crane, machine"))
    assert found.names == ("crane (output 0)", "b", "crane")


def test_folders_that_are_numbers_are_indices_of_the_outputs():
    assert matched_map(HEAD, ("0", "3"), "theirs").outputs == (0, 3)
    assert numbered_map(("1", "02"), HEAD).outputs == (1, 2)
    assert numbered_map(("1", "4"), HEAD) is None
    assert numbered_map(("1", "01"), HEAD) is None
    assert numbered_map(("1", "x"), HEAD) is None


# ImageNet.


def test_imagenettes_ids_match_torchvisions_words():
    names = import_torchvision().models.ResNet18_Weights.DEFAULT.meta["categories"]
    folders = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079")
    found = matched_map(names, folders, "torchvision")
    assert found.outputs == (0, 217, 482, 491, 497)
    assert found.names[218] == names[218]
    whole = tuple(synset for synset, _ in imagenet())
    assert matched_map(names, whole, "torchvision").outputs == tuple(range(1000))


def test_ids_are_not_matched_by_imagenets_list_where_the_network_is_another():
    with pytest.raises(DataError, match="2 folders, 1000 outputs"):
        matched_map([f"kind {index}" for index in range(1000)], ("n01440764", "n02102040"), "theirs")


def test_a_network_without_names_has_imagenets_order():
    assert imagenet_map(("n02102040", "tench")).outputs == (217, 0)
    assert imagenet_map(("n02102040", "no such thing")) is None
    assert imagenet_map(("crane", "tench")) is None, "ImageNet has two cranes"


def test_without_timm_wordnet_ids_say_what_to_install(monkeypatch):
    monkeypatch.setattr("edgeres.data.class_map.find_spec", lambda name: None)
    assert imagenet() == ()
    assert imagenet_map(("n02102040",)) is None
    with pytest.raises(DataError, match="pip install timm"):
        matched_map(HEAD, ("n02102040", "n01440764"), "theirs")


# A file that states the classes.


def stated(tmp_path, text, name="classes.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_classes(path)


def test_a_text_has_the_names_of_the_outputs_in_order(tmp_path):
    found = stated(tmp_path, "\ufeffchain saw\n\n  tench \r\nfox\n")
    assert found.order == ("chain saw", "tench", "fox")
    assert found.mapped(("fox", "chain saw"), ()).outputs == (2, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.csv", "folder,output\nbird,1\nfish,tench\n"),
        ("map.csv", "class;folder\nEnglish_Springer;bird\nTINCA TINCA;fish\n"),
        ("map.txt", "bird\t1\nfish\t0\n"),
        ("map.json", '{"bird": "English springer", "fish": 0}'),
    ],
)
def test_a_map_has_the_output_of_each_folder_by_name_or_number(tmp_path, name, text):
    assert stated(tmp_path, text, name).mapped(("bird", "fish"), HEAD).outputs == (1, 0)


def test_names_that_are_numbers_are_names(tmp_path):
    assert stated(tmp_path, "a,7\nb,1\n", "map.csv").mapped(("a", "b"), ("1", "7")).outputs == (1, 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "is empty"),
        ("a.csv", "a,1\na,2\n", "has 'a' more than once"),
        ("a.csv", "a,1,2\n", "row 1 has not two columns"),
        ("a.csv", "folder,output\n", "has no rows"),
        ("a.csv", 'a,"1\n', "is no table"),
        ("a.json", "[", "is no JSON"),
        ("a.json", '{"a": [1]}', "neither a list of names nor an object"),
    ],
)
def test_files_that_state_nothing_are_refused(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        stated(tmp_path, text, name)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    path = tmp_path / "classes.txt"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_classes(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8"):
        read_classes(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bird,1\n", "lacks fish"),
        ("bird,1\nfish,0\nkite,2\n", "has kite, which are no folders"),
        ("bird,1\nfish,1\n", "'bird' and 'fish' are both output 1"),
        ("bird,1\nfish,4\n", "'4' of the folder 'fish' is no output"),
        ("bird,1\nfish,whale\n", "'whale' of the folder 'fish' is no output of the network's 4"),
    ],
)
def test_a_map_has_one_output_for_each_folder(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        stated(tmp_path, text, "map.csv").mapped(("bird", "fish"), HEAD)


def test_a_stated_order_names_each_folder_once(tmp_path):
    assert stated(tmp_path, "b\na\n").mapped(("a", "b"), ()) == ClassMap((1, 0), ("b", "a"))
    with pytest.raises(DataError, match="has b more than once"):
        stated(tmp_path, "b\nb\n").mapped(("a", "b"), ())
    with pytest.raises(DataError, match="lacks b and has c, which are no folders: the class folders are a, b"):
        stated(tmp_path, "c\na\n").mapped(("a", "b"), ())
