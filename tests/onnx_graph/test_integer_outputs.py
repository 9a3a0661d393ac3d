"""Pairs that NNCF leaves out: what ONNX Runtime, LiteRT and XNNPACK then run in integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from mobile_graph import Images, images, mobile_graph

from edgeres.lint.integer_coverage import integer_coverage_of
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.nncf import quantize_float_graph
from edgeres.onnx_graph.rewrite import rewrite
from edgeres.onnx_graph.roles import float_nodes
from edgeres.onnx_graph.torch_translator import Translator
from edgeres.targets.target import find_target

CPU = find_target("cpu")


@pytest.fixture(scope="module")
def quantized():
    """The float graph, NNCF's, and the one with integer outputs."""
    model = mobile_graph()
    floats = float_nodes(model, CPU.scheme)
    graphs = [
        quantize_float_graph(model, Images(), CPU.scheme, float_nodes=floats, integer_outputs=more, advance=len_of)
        for more in (False, True)
    ]
    return model, *(rewrite(graph, CPU.scheme).model for graph in graphs)


def len_of(_: int) -> None:
    """Progress that nobody watches."""


def optimised(model: onnx.ModelProto, folder) -> list[str]:
    """Operators of the graph after ONNX Runtime's optimisations."""
    from edgeres.backends.session import load_graph, options

    (folder / "model.onnx").write_bytes(model.SerializeToString())
    settings = options(optimise=True)
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    load_graph(folder / "model.onnx", settings)
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def test_every_convolution_is_one_integer_kernel_in_onnx_runtime(quantized, tmp_path) -> None:
    _, by_nncf, made = quantized
    assert optimised(by_nncf, tmp_path).count("QLinearConv") < 6
    kinds = optimised(made, tmp_path)
    assert kinds.count("QLinearConv") == 6
    assert not {"Conv", "FusedConv", "Mul", "Sigmoid"} & {*kinds}
    assert kinds.count("Gemm") == 1


@pytest.mark.parametrize("index", [1, 2])
def test_the_predicted_kernels_are_those_that_run(index: int, quantized, tmp_path) -> None:
    model = quantized[index]
    kinds = optimised(model, tmp_path)
    coverage = integer_coverage_of(model, CPU)
    assert coverage.fused_kernels == sum(kind in ("QLinearConv", "QGemm") for kind in kinds)
    assert coverage.weighted == coverage.fused_kernels + sum(kind in ("Conv", "FusedConv", "Gemm") for kind in kinds)


def test_xnnpack_gets_the_same_layers_in_integers(quantized) -> None:
    _, by_nncf, made = quantized
    assert {"stem", "depthwise", "reduce", "expand", "project", "head"} == Translator(GraphIndex.of(made), {}).integer
    assert "stem" not in Translator(GraphIndex.of(by_nncf), {}).integer


def test_values_stay_near_float(quantized) -> None:
    model, by_nncf, made = quantized
    wanted, before, after = (runner(graph, optimise=False)(images()) for graph in (model, by_nncf, made))
    noise = np.std(before - wanted)
    assert np.std(after - wanted) < max(4 * noise, 0.05 * np.std(wanted))


def test_the_function_between_pairs_is_the_users(quantized) -> None:
    model, _, made = quantized
    kinds = ("Conv", "HardSigmoid", "Sigmoid", "Mul", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm")
    assert [node.name for node in GraphIndex.of(made).of_type(*kinds)] == [node.name for node in model.graph.node]


def test_layers_that_the_scheme_keeps_in_float_stay_so(tmp_path) -> None:
    from dataclasses import replace

    model, scheme = mobile_graph(), replace(CPU.scheme, float_layers=("fc", "reduce", "head"))
    made = quantize_float_graph(
        model, Images(), scheme, float_nodes=float_nodes(model, scheme), integer_outputs=True, advance=len_of
    )
    view = GraphIndex.of(made)
    weights = {node.name: view.weight_dequantizer(node.input[1]) is not None for node in view.of_type("Conv")}
    assert [name for name, integer in weights.items() if not integer] == ["reduce", "head"]
