import json
from dataclasses import replace

import onnx
import pytest
from random_weights import random_weights

from edgeres.cli import main
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.onnx_graph.write import write_model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.onnx"
    onnx.save(
        write_model(graph(preset("resnet20")), random_weights(preset("resnet20")), (32, 32), opset=17, ir_version=9),
        path,
    )
    return path


def document(capsys, *words):
    assert main(["macs", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_preset_and_its_onnx_file_say_the_same(saved, capsys):
    ours, theirs = document(capsys, "resnet20"), document(capsys, saved)
    assert ours["macs"] == theirs["macs"] == macs(graph(preset("resnet20")), 32, 32)
    assert ours["parameters"] == theirs["parameters"] == parameters(graph(preset("resnet20")))
    assert ours["peak_activation"]["elements"] == theirs["peak_activation"]["elements"]
    assert ours["counters"] == theirs["counters"]
    assert sum(row["macs"] for row in ours["layers"]) == ours["macs"]
    for counter in ours["counters"]:
        assert sum(term["operations"] for term in counter["terms"]) == counter["operations"]


def test_size_and_classes_change_the_network(saved, capsys):
    assert document(capsys, "resnet20", "--size", 64)["macs"] == macs(graph(preset("resnet20")), 64, 64)
    assert document(capsys, saved, "--size", 64)["macs"] == macs(graph(preset("resnet20")), 64, 64)
    small = document(capsys, "resnet18", "--classes", 10)
    assert small["layers"][-1] == {"name": "fc", "operator": "linear", "output": [10], "macs": 5120, "parameters": 5130}
    assert small["peak_activation"]["float32_bytes"] == 4 * small["peak_activation"]["int8_bytes"] == 4 * 1_003_520


def test_the_table_has_every_layer_and_the_sums(capsys):
    assert main(["macs", "resnet18"]) == 0
    said = capsys.readouterr().out
    assert "layer4.1.conv2" in said
    assert "resnet18 at 3x224x224: 1,814,073,344 MACs (1.81 G), 11,689,512 parameters (11.7 M)" in said
    assert "3.83 MiB in float32, 980 KiB in int8, at maxpool" in said


def test_explain_shows_what_each_counter_prints_and_every_term(capsys):
    assert main(["macs", "resnet50", "--explain"]) == 0
    said = capsys.readouterr().out
    for printed in ("4.089 GFLOPS", "4.112G flops", "4.134G MACs", "4.13 GMac", "8178.369M FLOP"):
        assert printed in said
    for term in ("22,227,968", "44,455,936", "19,217,408", "+43,252,712"):
        assert term in said
    assert "3.81 G for these MACs and 24.37 M for these parameters" in said


def test_a_folded_graph_says_that_a_module_would_have_norms(saved, tmp_path, capsys):
    assert document(capsys, saved)["notes"] == []
    spec = replace(preset("resnet20"), norm=False)
    path = tmp_path / "folded.onnx"
    onnx.save(write_model(graph(spec), random_weights(spec), (32, 32), opset=17, ir_version=9), path)
    assert main(["macs", str(path), "--explain"]) == 0
    assert "no batch norm is left in this graph" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet81"], "did you mean"),
        (["nowhere.onnx"], "nowhere.onnx"),
        (["resnet18", "--size", "0"], "no size in pixels"),
    ],
)
def test_bad_arguments_are_refused(words, message, capsys):
    try:
        code = main(["macs", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_an_onnx_file_keeps_its_classes(saved, capsys):
    assert main(["macs", str(saved), "--classes", "3"]) == 2
    assert "export it with others" in capsys.readouterr().err
