import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.onnx_graph import operator_counts


def model_of(nodes, constants, image=("N", 3, 8, 8)):
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def zeros(*shape):
    return np.zeros(shape, dtype=np.float32)


def test_convolution_counts_by_hand():
    conv = helper.make_node("Conv", ["image", "w", "b"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    model = model_of([conv], {"w": zeros(5, 3, 3, 3), "b": zeros(5)})
    assert operator_counts.macs(model) == 5 * 3 * 9 * 4 * 4
    assert operator_counts.parameters(model) == 5 * 3 * 9 + 5


def test_grouped_convolution_counts_its_share_of_channels():
    conv = helper.make_node("Conv", ["image", "w"], ["y"], kernel_shape=[1, 1], group=3)
    assert operator_counts.macs(model_of([conv], {"w": zeros(6, 1, 1, 1)})) == 6 * 64


@pytest.mark.parametrize("transposed", [0, 1])
def test_matrix_product_counts_by_hand(transposed):
    shape = (7, 192) if transposed else (192, 7)
    nodes = [
        helper.make_node("Flatten", ["image"], ["x"]),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed),
    ]
    assert operator_counts.macs(model_of(nodes, {"w": zeros(*shape)})) == 192 * 7


def test_quantized_weights_count_once_and_scales_not_at_all():
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    constants = {
        "s": np.float32(1).reshape(()),
        "z": np.int8(0).reshape(()),
        "codes": np.zeros((4, 3, 1, 1), np.int8),
        "ws": np.ones(4, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    model = model_of(nodes, constants)
    assert operator_counts.parameters(model) == 12
    assert operator_counts.macs(model) == 12 * 64
    assert operator_counts.qdq(model) == operator_counts.QdqCounts(activations=1, weights=1, weighted=1)
    assert operator_counts.quantized_tensors(model) == ("image",)


def test_contradictory_shapes_are_refused():
    nodes = [helper.make_node("Flatten", ["image"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    with pytest.raises(ModelError, match="shapes cannot be inferred"):
        operator_counts.macs(model_of(nodes, {"w": zeros(190, 7)}))
