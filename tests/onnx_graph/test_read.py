"""Imported ONNX files: every way they can be invalid, and their normalised signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from edgeres.data.size import Size
from edgeres.errors import ModelError, StageError
from edgeres.onnx_graph.execute import probe, relative_delta, runner
from edgeres.onnx_graph.external import content_digest
from edgeres.onnx_graph.fold import fold, prepare
from edgeres.onnx_graph.graph_index import opset_of
from edgeres.onnx_graph.opset import to_opset
from edgeres.onnx_graph.read import read_model, require_float
from edgeres.onnx_graph.signature import normalise, signature
from edgeres.settings import sha256_file
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N = helper.make_node
RNG = np.random.default_rng(0)
WEIGHTS = {
    "conv.w": RNG.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
    "bn.g": RNG.uniform(0.5, 2, 8).astype(np.float32),
    "bn.b": RNG.normal(0, 1, 8).astype(np.float32),
    "bn.m": RNG.normal(0, 1, 8).astype(np.float32),
    "bn.v": RNG.uniform(0.5, 2, 8).astype(np.float32),
    "fc.w": RNG.normal(0, 0.5, (5, 8)).astype(np.float32),
    "fc.b": RNG.normal(0, 1, 5).astype(np.float32),
}


def body() -> list[NodeProto]:
    return [
        N("Conv", ["x", "conv.w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1] * 4),
        N("BatchNormalization", ["c", "bn.g", "bn.b", "bn.m", "bn.v"], ["n"], name="bn"),
        N("Identity", ["n"], ["i"], name="identity"),
        N("Relu", ["i"], ["r"], name="relu"),
        N("GlobalAveragePool", ["r"], ["p"], name="pool"),
        N("Flatten", ["p"], ["f"], name="flat"),
        N("Dropout", ["f"], ["d"], name="drop"),
        N("Gemm", ["d", "fc.w", "fc.b"], ["y"], name="fc", transB=1),
    ]


def model_of(
    nodes: list[NodeProto], *, given=("N", 3, 8, 8), out=("N", 5), opset: int = 17, kind: int = TensorProto.FLOAT,
    weights: dict[str, np.ndarray] | None = None,
) -> ModelProto:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, list(given))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out))],
        [numpy_helper.from_array(value, name) for name, value in (WEIGHTS if weights is None else weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_valid_file_is_read_sorted_and_stripped(tmp_path: Path) -> None:
    model = model_of(body()[::-1])
    model.doc_string = "/home/someone/train.py"
    model.graph.node[0].doc_string = "/home/someone/net.py"
    model.graph.node[0].name = model.graph.node[1].name = ""
    helper.set_model_props(model, {"who": "someone"})
    read = read_model(written(model, tmp_path))
    assert [node.op_type for node in read.graph.node] == [node.op_type for node in body()]
    assert len({node.name for node in read.graph.node}) == len(body())
    assert all(node.name for node in read.graph.node)
    assert b"someone" not in read.SerializeToString()
    assert {value.name for value in read.graph.value_info} >= {"c", "n", "r", "p", "f"}


def change(edit: Callable[[list[NodeProto]], object]) -> ModelProto:
    nodes = body()
    edit(nodes)
    return model_of(nodes)


def test_invalid_graph_is_refused_by_node_name(tmp_path: Path) -> None:
    def cycle(nodes):
        nodes[0].input[0] = "late"
        nodes.append(N("Relu", ["r"], ["late"], name="late"))

    def twice(nodes):
        nodes.append(N("Relu", ["x"], ["r"], name="again"))

    def shape(nodes):
        nodes[4:6] = [N("Reshape", ["r", "bn.m"], ["f"], name="odd")]

    cases: list[tuple[Callable, str]] = [
        (cycle, "'(conv|bn|identity|relu|late)' waits for its own result: a cycle"),
        (lambda nodes: setattr(nodes[3], "op_type", "Relux"), "'relu': operator 'Relux'.*did you mean 'Relu'"),
        (lambda nodes: setattr(nodes[3], "op_type", "Gelu"), "'relu': operator 'Gelu' is not in opset 17.*newer opset"),
        (lambda nodes: nodes[0].input.__setitem__(1, "lost"), "'conv' reads 'lost', which nothing provides"),
        (twice, "'again' makes 'r' again, after node 'relu'"),
        (lambda nodes: nodes[3].output.__setitem__(0, "conv.w"), "'relu' makes 'conv.w' again"),
        (lambda nodes: nodes.pop(), "output 'y' is made by no node"),
        (shape, "does not hold together.*odd"),
        (lambda nodes: nodes[3].attribute.append(helper.make_attribute("alpha", 2.0)), "relu"),
    ]
    for edit, message in cases:
        with pytest.raises(ModelError, match=message):
            read_model(written(change(edit), tmp_path))


def functions(depth: int) -> ModelProto:
    """The classifier with a Relu behind ``depth`` functions, each of which calls the next twice."""
    model, versions = model_of(body()), [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    model.graph.node[3].CopyFrom(N("f0", ["i"], ["r"], name="relu", domain="d"))
    for level in range(depth):
        last = level == depth - 1
        calls = [
            N("Relu" if last else f"f{level + 1}", [read], [computed], domain="" if last else "d")
            for read, computed in (("a", "b"), ("b", "c"))
        ]
        model.functions.append(helper.make_function("d", f"f{level}", ["a"], ["c"], calls, versions))
    model.opset_import.append(versions[1])
    return model


def test_local_functions_are_inlined_up_to_a_limit(tmp_path: Path) -> None:
    read = read_model(written(functions(3), tmp_path))
    assert not read.functions
    images = probe(read, 2)
    wanted = runner(read_model(written(model_of(body()), tmp_path)), optimise=False)(images)
    assert relative_delta(wanted, runner(read, optimise=False)(images)) < 1e-6
    with pytest.raises(ModelError, match="local functions make 1073741831 nodes"):
        read_model(written(functions(30), tmp_path))


def test_control_flow_functions_and_huge_tensors_are_refused(tmp_path: Path) -> None:
    branch = helper.make_graph([N("Relu", ["x"], ["z"])], "b", [], [helper.make_empty_tensor_value_info("z")])
    nodes = [N("If", ["x"], ["y"], name="if", then_branch=branch, else_branch=branch)]
    with pytest.raises(ModelError, match="'if': If is control flow"):
        read_model(written(model_of(nodes), tmp_path))
    call = N("f", ["a"], ["b"], domain="d")
    own = helper.make_function("d", "f", ["a"], ["b"], [call], [helper.make_opsetid("d", 1)])
    model = model_of([*body()[:-1], N("f", ["d"], ["y"], domain="d")])
    model.functions.append(own)
    model.opset_import.append(helper.make_opsetid("d", 1))
    with pytest.raises(ModelError, match="local function 'f' cannot be inlined"):
        read_model(written(model, tmp_path))
    nodes = [N("ConstantOfShape", ["big"], ["z"], name="fill"), N("ReduceSum", ["z"], ["s"], name="s"), *body()]
    model = model_of(nodes, weights={**WEIGHTS, "big": np.array([1 << 20, 1 << 20], np.int64)})
    with pytest.raises(ModelError, match=r"'z' has shape \[1048576, 1048576\]"):
        read_model(written(model, tmp_path))
    model = model_of(body())
    model.graph.initializer[0].dims[0] = -1
    with pytest.raises(ModelError, match=r"'conv\.w' has shape"):
        read_model(written(model, tmp_path))


@pytest.mark.parametrize("cut", [0, 1, 37, 0.5, 0.9, -1])
def test_truncated_files_are_refused(tmp_path: Path, cut: float) -> None:
    data = model_of(body()).SerializeToString()
    keep = int(len(data) * cut) if isinstance(cut, float) else cut
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[:keep])
    with pytest.raises(ModelError):
        read_model(path)


@given(st.binary(max_size=300))
@trials(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        read_model(path)


@given(st.data())
@trials(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_byte_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(model_of(body()).SerializeToString())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(content))
    try:
        model = read_model(path)
    except ModelError:
        return
    checker.check_model(model, full_check=True)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read_model(path)


def external(folder: Path, location: str = "weights.bin", data: str = "weights.bin", **entries: object) -> Path:
    """A model whose first weight lies in another file."""
    model = model_of(body())
    tensor = model.graph.initializer[0]
    (folder / data).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return written(model, folder)


def test_external_tensors_are_loaded(tmp_path: Path) -> None:
    read = read_model(external(tmp_path, length=864, offset=0))
    tensor = read.graph.initializer[0]
    assert tensor.data_location == TensorProto.DEFAULT
    assert np.array_equal(numpy_helper.to_array(tensor), WEIGHTS["conv.w"])


def test_external_tensors_never_leave_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(864))
    for location in ("../secret.bin", str(secret), "a/../../secret.bin", "..\\secret.bin", "C:\\secret.bin", ""):
        with pytest.raises(ModelError, match="outside the model's folder"):
            read_model(external(home, location))
    (home / "link.bin").symlink_to(secret)
    with pytest.raises(ModelError, match=r"a link out of the model's folder"):
        read_model(external(home, "link.bin"))
    (home / "folder").symlink_to(tmp_path)
    with pytest.raises(ModelError, match=r"a link out of the model's folder"):
        read_model(external(home, "folder/secret.bin"))
    with pytest.raises(ModelError, match="which is not there"):
        read_model(external(home, "absent.bin"))
    with pytest.raises(ModelError, match="which is not there"):
        read_model(external(home, "."))


def test_external_tensors_have_their_declared_length(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"length": 860}, "takes 864 bytes"),
        ({"length": 1 << 40}, "takes 864 bytes"),
        ({"offset": 4}, "ends before tensor 'conv.w': 860 of 864"),
        ({"offset": -1}, "takes 864 bytes"),
        ({"offset": "ten"}, "no number"),
    ]
    for entries, message in cases:
        with pytest.raises(ModelError, match=message):
            read_model(external(tmp_path, **entries))
    link = tmp_path / "inside.bin"
    link.symlink_to(tmp_path / "weights.bin")
    assert read_model(external(tmp_path, "inside.bin")).graph.initializer[0].raw_data


def test_digest_covers_external_tensor_files(tmp_path: Path) -> None:
    path = external(tmp_path)
    first = content_digest(path)
    assert first == content_digest(path) != sha256_file(path)
    (tmp_path / "weights.bin").write_bytes(bytes(864))
    assert content_digest(path) != first
    whole = written(model_of(body()), tmp_path)
    assert content_digest(whole) == sha256_file(whole)


def test_only_float_graphs_of_standard_operators_are_prepared(tmp_path: Path) -> None:
    runtime = find_target("jetson").runtime
    nodes = body()
    nodes[3].domain = "com.vendor"
    model = model_of(nodes)
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with pytest.raises(ModelError, match=r"'relu': operator com.vendor.Relu is no ONNX operator"):
        require_float(model)
    scale = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    nodes = [N("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"), N("DequantizeLinear", ["q", "s", "z"], ["h"]),
             *body()]  # fmt: skip
    nodes[2].input[0] = "h"
    read = read_model(written(model_of(nodes, weights={**WEIGHTS, **scale}), tmp_path))
    with pytest.raises(ModelError, match="'q': the graph is quantized already"):
        prepare(read, runtime)


def test_signature_of_no_classifier_is_refused_with_a_hint(tmp_path: Path) -> None:
    pool = [N("GlobalAveragePool", ["x"], ["p"]), N("Flatten", ["p"], ["y"])]
    cases: list[tuple[ModelProto, str]] = [
        (model_of([N("Flatten", ["x"], ["y"])], given=("N", 8, 8, 3), out=("N", 192)), "channels first"),
        (model_of([N("Flatten", ["x"], ["y"])], given=("N", 3), out=("N", 3)), r"'x' is FLOAT \[N,3\].*\[N,C,H,W\]"),
        (model_of(pool, given=("N", 3, 8, "W"), out=("N", 3)), "both fixed, or both symbolic"),
        (model_of([N("Reshape", ["x", "s"], ["y"])], weights={"s": np.array([0, 3, 64])}, out=("N", 3, 64)),
         r"'y' is FLOAT \[N,3,64\].*logits"),
        (model_of([N("Cast", ["x"], ["h"], to=1), N("GlobalAveragePool", ["h"], ["p"]), N("Flatten", ["p"], ["y"])],
                  out=("N", 3), kind=TensorProto.FLOAT16), "'x' is FLOAT16.*float32"),
    ]  # fmt: skip
    wide = signature(read_model(written(model_of(pool, given=("N", 4, 8, 12), out=("N", 4)), tmp_path)))
    assert (wide.size, wide.channels, wide.map) == ((8, 12), 4, False)
    maps = signature(read_model(written(model_of([N("Relu", ["x"], ["y"])], out=("N", 3, 8, 8)), tmp_path)))
    assert (maps.classes, maps.map) == (3, True)
    for model, message in cases:
        with pytest.raises(ModelError, match=message):
            signature(read_model(written(model, tmp_path)))
    model = model_of(body())
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 8, 8, 8]))
    with pytest.raises(ModelError, match=r"2 outputs: 'y', 'r'.*logits as the only output"):
        signature(read_model(written(model, tmp_path)))
    model = model_of(body())
    model.graph.input.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, ["N"]))
    with pytest.raises(ModelError, match="2 inputs: 'x', 'm'"):
        signature(read_model(written(model, tmp_path)))


def io(model: ModelProto) -> list[tuple[str, list[object]]]:
    values = (*model.graph.input, *model.graph.output)
    return [(v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]


def test_names_and_shapes_are_normalised(tmp_path: Path) -> None:
    read = read_model(written(model_of(body(), given=(1, 3, "H", "W"), out=(1, 5)), tmp_path))
    assert io(normalise(read, Size.square(40))) == [("image", ["N", 3, 40, 40]), ("logits", ["N", 5])]
    assert io(normalise(read))[0] == ("image", ["N", 3, 224, 224])
    assert io(read)[0] == ("x", [1, 3, "H", "W"])
    nodes = [*body()[:3], N("Conv", ["i", "head"], ["h"], name="head"), N("GlobalAveragePool", ["h"], ["y"], name="p")]
    weights = {**WEIGHTS, "head": RNG.normal(0, 1, (5, 8, 1, 1)).astype(np.float32)}
    nodes[2].output[0], nodes[3].input[0] = "image", "image"  # a name of ours, taken already
    read = read_model(written(model_of(nodes, out=("N", 5, 1, 1), weights=weights), tmp_path))
    normal = normalise(read)
    assert io(normal)[1] == ("logits", ["N", 5])
    images = probe(normal, 3)
    assert relative_delta(runner(read)(images), runner(normal)(images)) == 0


@pytest.mark.parametrize("shape", [(2, -1), (2, 8), (-1, 8)])
def test_a_fixed_batch_becomes_any_batch(tmp_path: Path, shape: tuple[int, int]) -> None:
    nodes = body()
    nodes[5] = N("Reshape", ["p", "shape"], ["f"], name="flat")
    weights = {**WEIGHTS, "shape": np.array(shape, np.int64)}
    model = read_model(written(model_of(nodes, given=(2, 3, 8, 8), out=(2, 5), weights=weights), tmp_path))
    prepared = prepare(model, find_target("jetson").runtime)
    images = probe(prepared.model, 6)
    expected = np.concatenate([runner(model)(images[start : start + 2]) for start in (0, 2, 4)])
    assert relative_delta(expected, runner(prepared.model)(images)) < 1e-5


def test_a_graph_that_only_works_for_its_batch_is_refused(tmp_path: Path) -> None:
    nodes = body()
    nodes[5] = N("Reshape", ["p", "shape"], ["f"], name="flat")
    nodes.insert(6, N("Add", ["f", "per_image"], ["g"], name="per_image"))
    nodes[7].input[0] = "g"
    weights = {**WEIGHTS, "shape": np.array((3, 8), np.int64), "per_image": RNG.normal(0, 1, (3, 8)).astype(np.float32)}
    model = read_model(written(model_of(nodes, given=(3, 3, 8, 8), out=(3, 5), weights=weights), tmp_path))
    with pytest.raises((ModelError, StageError)):
        prepare(model, find_target("jetson").runtime)


@pytest.mark.parametrize("target", ["jetson", "xavier-nx", "cpu"])
def test_folding_preserves_logits(tmp_path: Path, target: str) -> None:
    runtime = find_target(target).runtime
    read = read_model(written(model_of(body()), tmp_path))
    prepared = prepare(read, runtime)
    kinds = [node.op_type for node in prepared.model.graph.node]
    assert kinds == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert (opset_of(prepared.model), prepared.model.ir_version) == (runtime.opset, runtime.ir_version)
    assert [entry.domain for entry in prepared.model.opset_import] == [""]
    images = probe(prepared.model, 4)
    before, after = runner(read, optimise=False)(images), runner(prepared.model)(images)
    assert relative_delta(before, after) < 1e-6
    assert prepared.nodes == (8, 5)
    assert io(prepared.model) == [("image", ["N", 3, 8, 8]), ("logits", ["N", 5])]
    assert prepare(read, runtime).model.SerializeToString() == prepared.model.SerializeToString()
    gain = WEIGHTS["bn.g"] / np.sqrt(WEIGHTS["bn.v"] + 1e-5)  # w' = w g / sqrt(v + eps)
    weight = next(t for t in prepared.model.graph.initializer if len(t.dims) == 4)
    np.testing.assert_allclose(numpy_helper.to_array(weight), WEIGHTS["conv.w"] * gain[:, None, None, None], rtol=1e-5)


def test_fold_that_changes_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: ModelProto) -> ModelProto:
        folded = fold(model)
        for tensor in folded.graph.initializer:
            if len(tensor.dims) == 4:
                value = numpy_helper.to_array(tensor).copy()
                value[0] *= 1.01
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return folded

    monkeypatch.setattr("edgeres.onnx_graph.fold.fold", wrong)
    with pytest.raises(StageError, match="computes something else"):
        prepare(read_model(written(model_of(body()), tmp_path)), find_target("jetson").runtime)


def modern() -> ModelProto:
    """Opset 18 as torch exports it: axes as inputs, HardSwish, attributes spelt out at their defaults."""
    nodes = [
        N("Conv", ["x", "conv.w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1] * 4),
        N("BatchNormalization", ["c", "bn.g", "bn.b", "bn.m", "bn.v"], ["n"], name="bn", training_mode=0),
        N("HardSwish", ["n"], ["h"], name="hs"),
        N("Split", ["h"], ["h1", "h2"], name="split", axis=1, num_outputs=2),
        N("Concat", ["h2", "h1"], ["j"], name="join", axis=1),
        N("ReduceMean", ["j", "axes"], ["p"], name="mean", keepdims=1, noop_with_empty_axes=0),
        N("Reshape", ["p", "flat"], ["f"], name="flat", allowzero=1),
        N("Gemm", ["f", "fc.w", "fc.b"], ["y"], name="fc", transB=1),
    ]
    weights = {**WEIGHTS, "axes": np.array([2, 3], np.int64), "flat": np.array([-1, 8], np.int64)}
    return model_of(nodes, opset=18, weights=weights)


@pytest.mark.parametrize("opset", [13, 14, 17, 18, 20])
def test_opset_conversion_preserves_logits(opset: int) -> None:
    model = modern()
    moved = to_opset(model, opset, 8)
    assert (opset_of(moved), moved.ir_version) == (opset, 8)
    images = probe(model, 3)
    assert relative_delta(runner(model, optimise=False)(images), runner(moved, optimise=False)(images)) < 1e-6
    assert ("HardSwish" in {node.op_type for node in moved.graph.node}) == (opset >= 14)


def test_old_opsets_are_raised(tmp_path: Path) -> None:
    nodes = body()
    nodes[4:6] = [N("ReduceMean", ["r"], ["f"], name="mean", axes=[2, 3], keepdims=0)]
    model = model_of(nodes, opset=11)
    read = read_model(written(model, tmp_path))
    prepared = prepare(read, find_target("jetson").runtime)
    assert opset_of(prepared.model) == 17
    images = probe(prepared.model, 4)
    before, after = runner(read, optimise=False)(images), runner(prepared.model)(images)
    assert relative_delta(before, after) < 1e-6


def test_node_without_equivalent_in_older_opset_is_refused() -> None:
    nodes = body()
    nodes[3] = N("GridSample", ["i", "grid"], ["r"], name="warp")
    model = model_of(nodes, weights={**WEIGHTS, "grid": np.zeros((1, 8, 8, 2), np.float32)})
    with pytest.raises(StageError, match="'warp': GridSample has no form in older opsets"):
        to_opset(model, 13, 8)
    nodes = body()
    nodes[5] = N("Reshape", ["p", "zero"], ["f"], name="flat", allowzero=1)
    model = model_of(nodes, weights={**WEIGHTS, "zero": np.array([0, 8], np.int64)})
    with pytest.raises(StageError, match="'flat': Reshape has no 'allowzero' in opset 13"):
        to_opset(model, 13, 8)


def test_a_graph_the_runtime_refuses_is_a_stage_error(tmp_path: Path) -> None:
    weights = {**WEIGHTS, "conv.w": RNG.normal(0, 1, (8, 5, 3, 3)).astype(np.float32)}
    model = read_model(written(model_of(body(), weights=weights), tmp_path))
    with pytest.raises(StageError, match="ONNX Runtime"):
        prepare(model, find_target("jetson").runtime)


def test_reading_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    assert onnx.checker
    signature(read_model(written(model_of(body()), tmp_path)))
