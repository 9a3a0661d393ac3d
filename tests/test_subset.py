"""A network of more classes than the data: scored among all outputs, or among those of the subset, on both roads."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file
from template_network import CLASSES, colours, onnx_file, spec, tensors
from test_traps import images

from edgeres.cli import main
from edgeres.model.presets import PRESETS
from edgeres.model.probe import NORMALISATIONS

SUBSET = ("bee", "dog", "fox")
OUTPUTS = (1, 3, 5)
TRANSFORM = ["--resize", "0", "--crop", "12", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


def chosen(root, names=CLASSES):
    """The images of three of the six classes; folders in the order of ``CLASSES`` are named ``names``."""
    images(root, names)
    for part in ("train", "val"):
        for old, name in zip(CLASSES, names, strict=True):
            if old not in SUBSET:
                shutil.rmtree(root / part / name)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return chosen(tmp_path_factory.mktemp("subset") / "data")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def compiled(tmp_path, capsys, cache):
    def run(model, folder, *arguments, until="verify", target="cpu"):
        out = tmp_path / "run"
        where = ["--target", target, "--out", str(out), "--cache", str(cache), "--until", until]
        # The networks tell colours apart by less than an INT8 step: what counts here is which outputs are compared.
        plain = ["--variant", "float", "--budget", "latency_p50_ms=none"]
        code = main(["compile", str(model), "--data", str(folder), *where, *plain, *arguments])
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said
        report = out / "report.json"
        return code, " ".join(said.split()), json.loads(report.read_text()) if report.exists() else None

    return run


def theirs(folder, order=tuple(range(6)), **metadata):
    path = onnx_file(folder / "theirs.onnx", NORMALISATIONS[0], order)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def answers(tmp_path):
    content = json.loads((tmp_path / "run" / "predictions.json").read_text())
    return set(content["labels"]), set(content["deployed_predictions"])


def test_onnx_classifier_is_scored_among_all_outputs(compiled, data, tmp_path):
    code, said, report = compiled(theirs(tmp_path, names=str(dict(enumerate(CLASSES)))), data)
    assert code == 0
    assert "3 of the network's 6 classes have images" in said
    assert "a prediction is the largest of all 6 outputs, as on the device" in said
    assert report["accuracy"]["float_score"] == report["accuracy"]["deployed_score"] == 100
    assert report["confusion"]["classes"] == list(CLASSES)
    assert {row[0] for row in report["confusion"]["cells"]} == set(OUTPUTS)
    assert "largest of all 6 outputs, on images of 3 classes" in report["accuracy"]["method"]
    assert answers(tmp_path)[0] == set(OUTPUTS)
    assert main(["gate", str(tmp_path / "run"), "--margin", "5"]) == 0


@pytest.mark.parametrize("rule", ["all", "subset"])
def test_the_subsets_rule_leaves_other_outputs_out(compiled, data, tmp_path, rule):
    confused = tmp_path / "data"
    shutil.copytree(data, confused)
    # The images of dog are near elk's colour in one half: an answer outside of the subset.
    elk = CLASSES.index("elk")
    values, labels = colours(600)
    drawn = iter(values[labels == elk])
    from PIL import Image

    for part in ("train", "val"):
        for number, file in enumerate(sorted((confused / part / "dog").iterdir())):
            if number % 2:
                value = np.rint(255 * next(drawn)).astype(np.uint8) + np.zeros((12, 12, 3), np.uint8)
                Image.fromarray(value).save(file)
    model = theirs(tmp_path, names=str(dict(enumerate(CLASSES))))
    code, said, report = compiled(model, confused, "--answers", rule)
    assert code == 0
    predicted = answers(tmp_path)[1]
    if rule == "all":
        assert elk in predicted
    else:
        assert predicted <= set(OUTPUTS)
        assert "largest of those 3 outputs, as asked, which is easier" in said
        assert "largest of the 3 outputs of the data's classes" in report["accuracy"]["method"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["all", "subset"])
@pytest.mark.parametrize("target", ["cpu", "jetson"])
def test_weights_are_scored_on_a_subset(compiled, data, tmp_path, monkeypatch, rule, target):
    monkeypatch.setitem(PRESETS, "resnet20", spec(6))
    path = tmp_path / "w.safetensors"
    save_file(tensors(NORMALISATIONS[0], tuple(range(6))), str(path), metadata={"names": json.dumps(CLASSES)})
    arguments = ["--weights", str(path), "--answers", rule, *TRANSFORM]
    code, said, report = compiled("resnet20", data, *arguments, target=target)
    assert code == 0, said
    assert report["accuracy"]["float_score"] == 100
    assert answers(tmp_path)[0] == set(OUTPUTS)
    if target == "jetson":
        content = json.loads((tmp_path / "run" / "bundle" / "preprocess.json").read_text())
        assert content["scored"] == (list(OUTPUTS) if rule == "subset" else [])
        assert content["classes"] == list(CLASSES)


def test_a_map_by_number_for_a_network_without_names(compiled, tmp_path):
    folder = chosen(tmp_path / "data", ("q", "r", "s", "t", "u", "v"))
    listed = tmp_path / "map.csv"
    listed.write_text("folder,output\nr,1\nt,3\nv,5\n")
    model = theirs(tmp_path)
    code, said, report = compiled(model, folder, until="load_onnx")
    assert code == 2
    assert "the data has 3 classes, the network's head has 6: say which outputs they are, with --classes MAP" in said
    code, said, report = compiled(model, folder, "--classes", str(listed), until="load_onnx")
    assert (code, report["stages"][0]["top1"]) == (0, 100)
    listed.write_text("folder,output\nr,1\nt,3\nv,6\n")
    code, said, report = compiled(model, folder, "--classes", str(listed), until="load_onnx")
    assert code == 2
    assert "'6' of the folder 'v' is no output of the network's 6" in said


def test_folders_that_are_numbers_are_outputs(compiled, tmp_path):
    folder = chosen(tmp_path / "data", tuple("012345"))
    code, said, report = compiled(theirs(tmp_path), folder, until="load_onnx")
    assert (code, report["stages"][0]["top1"]) == (0, 100)
    assert "as the folders are numbers" in said


def test_names_in_another_order_than_the_outputs_are_refused(compiled, data, tmp_path):
    model = theirs(tmp_path, names=str(dict(enumerate(reversed(CLASSES)))))
    for rule in ("all", "subset"):
        code, said, report = compiled(model, data, "--answers", rule, until="load_onnx")
        assert code == 2
        assert report["error"]["kind"] in ("DataError", "ChanceError")
        assert "another order" in said or "at chance" in said


def test_swapped_channels_and_a_wrong_range_are_refused_on_a_subset(compiled, data, tmp_path):
    model = theirs(tmp_path, names=str(dict(enumerate(CLASSES))))
    slip = ["--resize", "12", "--crop", "12", "--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"]
    for rule in ("all", "subset"):
        code, said, _ = compiled(model, data, *slip, "--answers", rule, until="load_onnx")
        assert code == 2
        assert "at chance" in said
        assert "fits better" in said


def test_a_list_beside_the_weights_names_the_outputs(compiled, data, tmp_path):
    model = theirs(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    code, said, report = compiled(model, data, until="load_onnx")
    assert (code, report["stages"][0]["top1"]) == (0, 100)
    assert "(labels.txt beside it)" in said
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES[:5]))
    assert "the data has 3 classes" in compiled(model, data, until="load_onnx")[1], "a list of another network"
