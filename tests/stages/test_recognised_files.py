"""A residual network in an ONNX file takes the road of weights: the same scales, the same bytes, every technique."""

import json

import numpy as np
import onnx
import pytest
import torch
from fitted_network import OPTIONS, SIDE, fitted, folders

from edgeres.cli import main
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.zoo import read_checkpoint
from edgeres.settings import sha256_file

SAME = ("model.onnx", "model.float.onnx", "calibration.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Class folders, weights whose head is fitted to them, and the same network in files with norms and without."""
    root = tmp_path_factory.mktemp("recognised")
    data = folders(root / "data")
    images = sorted((data / "train").rglob("*.png"))
    labels = np.eye(2)[[int(image.parent.name == "present") for image in images]]
    loaded = read_checkpoint(fitted(root / "given.safetensors", images, labels))
    network = Network(graph(loaded.spec), loaded.weights).eval()
    for name in ("PRESERVE", "EVAL"):
        (root / name).mkdir()
        torch.onnx.export(
            network, (torch.zeros(1, 3, SIDE, SIDE),), str(root / name / "resnet20_b.onnx"), opset_version=17,
            training=getattr(torch.onnx.TrainingMode, name), dynamo=False, input_names=["pixels"],
            output_names=["scores"], dynamic_axes={"pixels": {0: "N"}, "scores": {0: "N"}},
        )  # fmt: skip
    return root


def compiled(place, out, *words, target="cpu"):
    common = ["--data", str(place / "data"), "--cache", str(place / "cache"), "--quiet", "--effort", "quick", *OPTIONS]
    return main(
        ["compile", *words, "--target", target, "--out", str(place / out), "--budget", "peak_rss_mib=none", *common]
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["jetson", "x86"])
def test_weights_and_a_file_with_their_norms_give_the_same_bytes(place, target):
    assert (
        compiled(place, f"w-{target}", "resnet20_b", "--weights", str(place / "given.safetensors"), target=target) == 0
    )
    assert compiled(place, f"o-{target}", str(place / "PRESERVE" / "resnet20_b.onnx"), target=target) == 0
    for name in SAME:
        sums = {sha256_file(place / f"{road}-{target}" / name) for road in "wo"}
        assert len(sums) == 1, name
    notes = json.loads((place / f"o-{target}" / "report.json").read_text())["stages"][0]["notes"]
    assert any("those of resnet20_b" in note for note in notes)


def test_a_file_without_norms_gives_the_same_scales_but_for_the_last_bits(place, capsys):
    settings = ("technique=calibrate", "calibrator=minmax", "weights=max")
    plain = [word for setting in settings for word in ("--set", f"quantize.{setting}")]
    assert compiled(place, "w", "resnet20_b", "--weights", str(place / "given.safetensors"), *plain) == 0
    assert compiled(place, "folded", str(place / "EVAL" / "resnet20_b.onnx"), *plain) == 0
    tables = [json.loads((place / name / "calibration.json").read_text())["table"] for name in ("w", "folded")]
    for kind in ("activations", "weights"):
        first, second = (table[kind] for table in tables)
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_allclose(first[name]["scale"], second[name]["scale"], rtol=1e-3)
    capsys.readouterr()
    assert main(["quantize", str(place / "folded"), "--explain"]) == 0
    assert "calibrate" in capsys.readouterr().out


def test_its_graph_can_be_imported_all_the_same(place):
    file = str(place / "EVAL" / "resnet20_b.onnx")
    assert compiled(place, "imported", file, "--recipe", "onnx") == 0
    assert json.loads((place / "imported" / "report.json").read_text())["stages"][0]["stage"] == "load_onnx"


def test_pixels_as_input_are_for_networks_that_are_recognised(place, capsys):
    file = place / "EVAL" / "resnet20_b.onnx"
    assert compiled(place, "pixels", str(file), "--input", "uint8") == 0
    made = onnx.load(place / "pixels" / "model.onnx").graph.input[0].type.tensor_type.elem_type
    assert made == onnx.TensorProto.UINT8
    model = onnx.load(file)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"
    onnx.save(model, place / "tanh.onnx")
    assert compiled(place, "refused", str(place / "tanh.onnx"), "--input", "uint8") == 2
    assert "a Tanh" in " ".join(capsys.readouterr().err.split())
