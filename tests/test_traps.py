"""Data, labels and preprocessing that fit no network: through the command line, nothing broken passes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image
from template_network import CLASSES, colours, onnx_file, tensors

from edgeres.cli import main
from edgeres.data.class_map import ClassMap
from edgeres.data.dataset import open_dataset
from edgeres.model.probe import NORMALISATIONS
from edgeres.pipeline.request import PreprocessFlags, Request

NAMES = ("zebra", "yak", "wolf", "vole", "toad", "swan")
"""Folder names that sort into the reverse of the network's order."""


def images(root, names=CLASSES, train=60, val=20, orientation=None):
    """``train`` and ``val`` of plain colours, one folder a class."""
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        values, labels = colours(count * len(names), seed)
        for index, (value, label) in enumerate(zip(values, labels, strict=True)):
            place = root / split / names[label]
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(255 * value).astype(np.uint8) + np.random.default_rng(index).integers(0, 2, (12, 12, 3))
            exif = Image.Exif()
            if orientation and split == "val":
                exif[0x0112] = orientation
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png", exif=exif)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return images(tmp_path_factory.mktemp("traps") / "data")


@pytest.fixture(scope="module")
def reversed_names(tmp_path_factory):
    return images(tmp_path_factory.mktemp("traps") / "named", NAMES)


@pytest.fixture
def compiled(tmp_path, capsys):
    """Runs ``edgeres compile`` to the end of loading; returns code, what it said, and the report."""

    def run(model, folder, *arguments, until="load_onnx"):
        out = tmp_path / "run"
        where = ["--target", "cpu", "--out", str(out), "--cache", str(tmp_path / "cache"), "--until", until]
        code = main(["compile", str(model), "--data", str(folder), *where, *arguments])
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said
        report = out / "report.json"
        return code, said, json.loads(report.read_text()) if report.exists() else None

    return run


def theirs(folder, one=NORMALISATIONS[0], **metadata):
    path = onnx_file(folder / "theirs.onnx", one, tuple(range(6)))
    if metadata:
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, str(path))
    return path


def test_preprocessing_found_by_search_is_shown_and_reported(compiled, data, tmp_path):
    code, said, report = compiled(theirs(tmp_path, NORMALISATIONS[4]), data)
    assert code == 0
    assert "note  preprocessing found by trying" in said
    (row,) = report["stages"]
    assert row["top1"] == 100
    assert any(note in said for note in row["notes"])


def test_wrong_input_scale_is_an_error_without_a_model(compiled, data, tmp_path):
    slip = ["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"]
    code, said, report = compiled(theirs(tmp_path), data, *slip)
    assert code == 2
    assert "the float network answers at chance: preprocessing, class order or labels" in said
    assert "pass --resize 32 --crop 32 --mean 0.485,0.456,0.406" in said
    assert report["error"]["kind"] == "ChanceError"
    assert not list((tmp_path / "run").glob("**/*.onnx"))


def test_folders_in_another_order_need_a_class_list(compiled, reversed_names, tmp_path):
    model = theirs(tmp_path)
    code, said, report = compiled(model, reversed_names)
    assert code == 2
    assert f"outputs in order: {', '.join(NAMES)}" in said
    assert not list((tmp_path / "run").glob("**/*.onnx"))
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join(NAMES), encoding="utf-8")
    code, said, report = compiled(model, reversed_names, "--classes", str(listed))
    assert code == 0
    assert "numbered in the order of the network's outputs, as --classes" in said
    assert report["stages"][0]["top1"] == 100
    made = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "run" / "model.onnx")).metadata_props}
    assert json.loads(made["edgeres.classes"]) == list(NAMES)


def test_names_inside_the_graph_put_the_folders_in_order(compiled, reversed_names, tmp_path):
    named = theirs(tmp_path, names=str(dict(enumerate(NAMES))))
    code, said, report = compiled(named, reversed_names)
    assert code == 0
    assert "by the class names that travel with it (theirs.onnx)" in said
    assert report["stages"][0]["top1"] == 100


def test_names_that_match_no_folder_are_refused_before_any_work(compiled, reversed_names, tmp_path):
    code, said, report = compiled(theirs(tmp_path, names=str(dict(enumerate(CLASSES)))), reversed_names)
    assert code == 2
    assert "folders swan, toad, vole, wolf, yak, zebra; network ant, bee, cow, dog, elk, fox" in said
    assert "--classes MAP" in said
    assert report is None


def test_a_list_of_classes_that_names_no_folder_is_refused(compiled, data, tmp_path):
    listed = tmp_path / "classes.txt"
    listed.write_text("ant\nbee\n", encoding="utf-8")
    code, said, _ = compiled(theirs(tmp_path), data, "--classes", str(listed))
    assert code == 2
    assert "lacks cow, dog, elk, fox" in said
    assert main(["compile", "resnet18", "--target", "cpu", "--classes", str(listed), "--quiet"]) == 2


def test_exif_rotated_images_are_reported_at_loading(compiled, tmp_path):
    turned = images(tmp_path / "turned", orientation=6)
    model = theirs(tmp_path)
    told = "120 of 120 validation images carry an orientation tag"
    for options, fate in (
        ((), "--exif apply turns"),
        (("--exif", "apply"), "applied, as asked"),
        (("--exif", "ignore"), "ignored, as asked"),
    ):
        code, said, report = compiled(model, turned, *options)
        assert code == 0
        assert told in said
        assert fate in said
        assert any(told in note for note in report["notes"])
    graph = onnx.load(str(tmp_path / "run" / "model.onnx"))
    own = next(entry.value for entry in graph.metadata_props if entry.key == "edgeres.preprocess")
    assert json.loads(own)["exif"] == "ignore"


def test_foreign_weights_use_the_same_search(compiled, data, tmp_path):
    """The slip and the search, for tensors without a word about themselves."""
    from safetensors.numpy import save_file

    path = tmp_path / "theirs.safetensors"
    save_file({"x": tensors(NORMALISATIONS[0], tuple(range(6)))["fc.weight"]}, str(path))
    code, said, _ = compiled("resnet20", data, "--weights", str(path), until="load")
    assert code == 2
    assert "is missing" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--crop", "300", "--resize", "200"], "--crop 300 is larger than --resize 200"),
        (["--resize", "20", "--crop", "32"], "--crop 32 is larger than --resize 20"),
        (["--resize", "20"], "--resize 20 is smaller than the 32 px the graph takes"),
        (["--exif", "sideways"], "invalid choice"),
    ],
)
def test_senseless_sizes_are_refused(compiled, data, tmp_path, arguments, words):
    try:
        code, said, _ = compiled(theirs(tmp_path), data, *arguments)
    except SystemExit as left:  # argparse
        code, said = left.code, words
    assert code == 2
    assert words in said


def test_one_stated_value_leaves_the_others_open():
    flags = PreprocessFlags(resize=192)
    assert "crop" in flags.left_open
    assert "resize" not in flags.left_open
    assert flags.over(None).crop.height <= 192
    assert PreprocessFlags(resize=0, crop=300).over(None).crop == (300, 300)
    assert PreprocessFlags().over(None) is None


def test_stated_values_go_over_those_of_the_weights(data, tmp_path):
    request = Request(model=str(theirs(tmp_path)), target="cpu", data=str(data), preprocess=PreprocessFlags(crop=64))
    source = request.source()
    own = PreprocessFlags(resize=80, crop=64, mean=(0.1, 0.1, 0.1)).over(None)
    found = source.stated_over(own)
    assert (found.resize, found.crop, found.mean) == ((80, 80), (64, 64), own.mean)
    other = Request(
        model=str(theirs(tmp_path)), target="cpu", data=str(data), preprocess=PreprocessFlags(resize=73, crop=64)
    )
    assert source.preprocess == other.source().preprocess
    assert source.digest != other.source().digest


def test_renumbered_data_has_the_same_images_under_other_numbers(data):
    found = open_dataset(data, seed=0, calibration=64, allow=frozenset())
    other = found.mapped(ClassMap((5, 4, 3, 2, 1, 0), tuple(reversed(CLASSES))))
    assert other.validation.hashes == found.validation.hashes
    assert other.validation.labels == tuple(5 - label for label in found.validation.labels)
    assert other.classes[0] == "fox"
    assert other.tuning.digest != found.tuning.digest
