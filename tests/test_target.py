"""Every device with every version of its runtime: composed from data, and its graph taken by its rules and parsers."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from onnx import TensorProto

from benchmarks import command
from benchmarks.profiles import MARKERS, profiles
from benchmarks.subjects import THIN, images, ours
from benchmarks.table import with_block
from edgeres.cli import main
from edgeres.errors import TargetError
from edgeres.lint.linter import lint
from edgeres.lint.rule import tensorrt_version
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.targets.target import find_target, targets

NAMES = [
    f"{target.name}:{version}" if version else target.name
    for target in targets().values()
    if target.backend != "simulator"
    for version in target.versions or ("",)
]
INT8 = [name for name in NAMES if (scheme := find_target(name).scheme) is not None and scheme.weight_bits == 8]


@cache
def _graph(scheme, runtime):
    return ours(replace(find_target("jetson"), scheme=scheme, runtime=runtime))


def graph(name: str):
    target = find_target(name)
    return _graph(target.scheme, target.runtime)


def test_versions_compose_device_and_runtime() -> None:
    target = find_target("orin-nano:jp5.1")
    assert target.name == "jetson-orin-nano:jp5.1"
    assert target.title == "Jetson Orin Nano 8GB, JetPack 5.1, TensorRT 8.5"
    assert (target.runtime.name, target.runtime.jetpack) == ("TensorRT 8.5.2 (JetPack 5.1)", "5.1")
    assert target.device == find_target("jetson").device


def test_the_default_version_has_the_plain_name() -> None:
    assert find_target("jetson:jp6.2") == find_target("jetson")
    assert find_target("jetson").name == "jetson-orin-nano"


@pytest.mark.parametrize("name", ["jetson:jp4.6", "jetson:", "thor:jp6.2", "t4:jp6.2", "cpu:jp6.2", "jetsn:jp6.2"])
def test_unknown_versions_are_refused_with_those_there_are(name: str) -> None:
    if name.endswith(":"):
        assert find_target(name) == find_target("jetson")
        return
    with pytest.raises(TargetError, match=r"known: |its runtime is |did you mean"):
        find_target(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_its_source(name: str) -> None:
    target = find_target(name)
    assert target.runtime.source.strip()
    assert target.device.source.strip()
    figures = (target.device.int8_tops, target.device.fp16_tops, target.device.bandwidth_gbs, target.device.tdp_w)
    assert all(figure is None or figure > 0 for figure in figures)


@pytest.mark.parametrize("name", [name for name in NAMES if find_target(name).scheme is None])
def test_devices_without_integers_are_never_asked_for_them(name: str) -> None:
    target = find_target(name)
    assert "--int8" not in target.runtime.flags
    assert "--fp16" in target.runtime.flags
    assert target.device.int8_tops is None
    assert not GraphIndex.of(graph(name)).of_type("QuantizeLinear", "DequantizeLinear")


@pytest.mark.parametrize("name", [name for name in NAMES if find_target(name).runtime.tensorrt])
def test_flags_are_those_of_the_version(name: str) -> None:
    runtime = find_target(name).runtime
    version = tensorrt_version(runtime.tensorrt)
    if version >= (11, 0):
        assert not {"--int8", "--fp16", "--stronglyTyped"} & set(runtime.flags)
    elif runtime.tensorrt.startswith("rtx"):
        assert runtime.flags == ()
    else:
        assert ("--fp16" in runtime.flags) != runtime.strongly_typed
        assert ("--stronglyTyped" in runtime.flags) == runtime.strongly_typed
        assert ("--builderOptimizationLevel=5" in runtime.flags) == (version >= (8, 6))
        assert ("--skipInference" in runtime.flags) != ("--buildOnly" in runtime.flags)
    assert runtime.float_weights == (version < (8, 5))
    if not runtime.tensorrt.startswith("rtx"):
        assert {"--useCudaGraph", "--noDataTransfers", "--useSpinWait"} <= set(runtime.timing_flags)


@pytest.mark.parametrize("name", INT8)
def test_what_edgeres_writes_suits_every_device_and_version(name: str) -> None:
    target = find_target(name)
    known = {"T02"} if target.runtime.tensorrt == "10.16" else {"M01"}  # not about the graph; an open batch
    assert {finding.rule for finding in lint(graph(name), target)} <= known
    model = graph(name)
    assert (model.opset_import[0].version, model.ir_version) == (target.runtime.opset, target.runtime.ir_version)


def forms() -> list[str]:
    """One target for each form of graph that TensorRT gets."""
    found = {}
    for name in INT8:
        target = find_target(name)
        runtime = target.runtime
        if runtime.tensorrt:
            found[(runtime.opset, runtime.ir_version, runtime.float_weights, runtime.strongly_typed)] = name
    return sorted(found.values())


@pytest.mark.parametrize("name", forms())
def test_every_form_parses_and_computes_the_same(name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    model = graph(name)
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    pixels = images(4, seed=3)
    plain, formed = runner(graph("jetson"), optimise=False)(pixels), runner(model, optimise=False)(pixels)
    top = float(np.abs(plain).max())
    strong = find_target(name).runtime.strongly_typed
    assert np.abs(plain - formed).max() <= (2**-8 * top if strong else 1e-5 * top)


def test_forms_differ_as_they_should() -> None:
    assert len(forms()) == 5
    old, strong = GraphIndex.of(graph("xavier-nx:jp4.6")), GraphIndex.of(graph("agx-orin:trt11.4"))
    stored = {old.constants[node.input[0]].data_type for node in old.of_type("QuantizeLinear") if node.input[0] in
              old.constants}  # fmt: skip
    assert stored == {TensorProto.FLOAT}
    (classifier,) = strong.of_type("Gemm")
    assert strong.constants[classifier.input[1]].data_type == TensorProto.FLOAT16


@pytest.mark.parametrize(("name", "top"), [("x86-avx2", 63), ("x86-avx512", 63), ("x86-vnni", 127), ("x86-amx", 127)])
def test_instructions_decide_the_range_of_weights(name: str, top: int) -> None:
    view = GraphIndex.of(graph(name))
    codes = [view.value(node.input[0]) for node in view.of_type("DequantizeLinear") if node.input[0] in view.constants]
    assert max(int(np.abs(value.astype(int)).max()) for value in codes) == top


def test_targets_lists_versions(capsys) -> None:
    assert main(["targets"]) == 0
    said = capsys.readouterr().out
    assert "jp5.0.2 jp5.1 jp6.0 jp6.1 jp6.2* jp7.2" in said
    assert "uint8" not in said


def test_the_document_is_what_the_command_writes() -> None:
    document = (command.CHECKOUT / "docs" / "targets.md").read_text(encoding="utf-8")
    assert with_block(document, profiles(), MARKERS) == document


def test_the_thin_network_has_every_pattern() -> None:
    assert THIN.stem.pool
    assert {block.projected for stage in THIN.stages for block in stage} == {True, False}
