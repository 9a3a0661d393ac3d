"""Files in training mode, of half precision, with pixels last or in uint8: taken for inference, with a note."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeres.errors import ModelError, StageError
from edgeres.onnx_graph.execute import open_session, relative_delta, session_options
from edgeres.onnx_graph.fold import prepare
from edgeres.onnx_graph.inference import for_inference
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.signature import signature
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from pathlib import Path

N = helper.make_node
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (3, 3, 8, 8)).astype(np.float32)
NORM = ["c", "bn.g", "bn.b", "bn.m", "bn.v"]
CONSTANTS = {
    "conv.w": RNG.normal(0, 0.3, (8, 3, 3, 3)), "bn.g": RNG.uniform(0.5, 2, 8), "bn.b": RNG.normal(0, 1, 8),
    "bn.m": RNG.normal(0, 1, 8), "bn.v": RNG.uniform(0.5, 2, 8), "fc.w": RNG.normal(0, 0.5, (5, 8)),
}  # fmt: skip


def network(
    norm: NodeProto, dropout: NodeProto, *, image: str = "x", start: tuple[NodeProto, ...] = (),
    kind: type[np.generic] = np.float32, given: tuple[str | int, ...] = ("N", 3, 8, 8), pixels: int | None = None,
) -> ModelProto:  # fmt: skip
    nodes = [
        *start,
        N("Conv", [image, "conv.w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        norm,
        N("Relu", ["n"], ["r"]),
        N("GlobalAveragePool", ["r"], ["p"]),
        N("Flatten", ["p"], ["f"]),
        dropout,
        N("Gemm", ["d", "fc.w"], ["y"], transB=1),
    ]
    values = {name: value.astype(kind) for name, value in CONSTANTS.items()} | {"on": np.array(True), "p5": kind(0.5)}
    held = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", pixels or held, list(given))],
        [helper.make_tensor_value_info("y", held, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PLAIN = (N("BatchNormalization", NORM, ["n"]), N("Identity", ["f"], ["d"]))


def read(model: ModelProto, folder: Path) -> ModelProto:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return read_model(folder / "m.onnx")


def run(model: ModelProto, images: np.ndarray) -> np.ndarray:
    name = model.graph.input[0].name
    return np.asarray(open_session(model, session_options("none")).run(None, {name: images})[0], np.float32)


def test_training_mode_is_left_with_the_running_statistics(tmp_path: Path) -> None:
    norm = N("BatchNormalization", NORM, ["n", "mean", "variance"], training_mode=1)
    dropout = N("Dropout", ["f", "p5", "on"], ["d", "mask"])
    model, notes = for_inference(read(network(norm, dropout), tmp_path))
    assert notes == (
        "the file was exported in training mode (1 BatchNormalization, 1 Dropout): it is used as in eval(), with the"
        " running statistics that it holds",
    )
    prepared = prepare(model, find_target("cpu").runtime)
    assert relative_delta(run(network(*PLAIN), IMAGES), run(prepared.model, IMAGES)) < 1e-5


def test_statistics_of_the_batch_that_are_read_are_refused(tmp_path: Path) -> None:
    norm = N("BatchNormalization", NORM, ["n", "mean", "variance"], training_mode=1)
    model = network(norm, N("Mul", ["f", "mean"], ["d"]))
    with pytest.raises(ModelError, match=r"'mean'.*model.eval\(\)"):
        for_inference(read(model, tmp_path))


def test_a_batch_normalized_by_other_operators_is_refused_as_training_mode(tmp_path: Path) -> None:
    spread = [N("ReduceMean", ["c"], ["m"], axes=[0, 2, 3]), N("Sub", ["c", "m"], ["n"])]
    model = network(*PLAIN)
    del model.graph.node[1]
    for place, node in enumerate(spread):
        model.graph.node.insert(1 + place, node)
    with pytest.raises(StageError, match=r"other images of its batch, as in training mode: call model.eval\(\)"):
        prepare(read(model, tmp_path), find_target("cpu").runtime)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path: Path, kind: type[np.generic]) -> None:
    given = read(network(*PLAIN, kind=kind), tmp_path)
    model, notes = for_inference(given)
    assert notes == (f"{np.dtype(kind).name} became float32",)
    prepared = prepare(model, find_target("jetson").runtime)
    assert relative_delta(run(network(*PLAIN), IMAGES), run(prepared.model, IMAGES)) < 5e-3


def test_channels_last_get_a_transpose_that_folds_with_the_files_own(tmp_path: Path) -> None:
    start = N("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2])
    given = read(network(*PLAIN, image="first", start=(start,), given=("N", 8, 8, 3)), tmp_path)
    model, notes = for_inference(given)
    assert notes == ("the input [N,H,W,3] became [N,3,H,W], with a Transpose",)
    assert signature(model).size == (8, 8)
    prepared = prepare(model, find_target("cpu").runtime)
    assert "Transpose" not in {node.op_type for node in prepared.model.graph.node}
    assert relative_delta(run(given, IMAGES.transpose(0, 2, 3, 1)), run(prepared.model, IMAGES)) < 1e-5


def test_uint8_pixels_become_floats_from_0_to_255(tmp_path: Path) -> None:
    start = (N("Cast", ["x"], ["real"], to=TensorProto.FLOAT), N("Div", ["real", "p255"], ["small"]))
    model = network(*PLAIN, image="small", start=start, pixels=TensorProto.UINT8)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "p255"))
    given = read(model, tmp_path)
    pixels = RNG.integers(0, 256, (3, 3, 8, 8)).astype(np.uint8)
    changed, notes = for_inference(given)
    assert notes == ("the uint8 input became float32: pixels from 0 to 255",)
    prepared = prepare(changed, find_target("cpu").runtime)
    assert relative_delta(run(given, pixels), run(prepared.model, pixels.astype(np.float32))) < 1e-5


def test_a_float_file_for_inference_is_taken_as_it_is(tmp_path: Path) -> None:
    given = read(network(*PLAIN), tmp_path)
    assert for_inference(given) == (given, ())


def test_an_input_that_nothing_reads_is_left_out(tmp_path: Path) -> None:
    given = network(*PLAIN)
    given.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N"]))
    model, notes = for_inference(read(given, tmp_path))
    assert notes == ("inputs that nothing reads were left out: mask",)
    assert signature(model).image == "x"
