"""Residual networks as TensorFlow, MXNet, PaddlePaddle and Caffe write them: the same networks, or none at all."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.data.preprocess import Preprocess
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.inference import for_inference
from edgeres.onnx_graph.layer_norms import ImageNorm
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.recognition import recognise

SIDE = 32


class Writer:
    """Nodes in an order of calls, with drawn weights."""

    def __init__(self, seed=0):
        self.rng, self.nodes, self.constants = np.random.default_rng(seed), [], []

    def constant(self, value, kind=np.float32):
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), f"const_fold_{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, kind, *inputs, **attributes):
        out = f"functional/{kind.lower()}_{len(self.nodes)}:0"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def conv(self, x, c_in, c_out, kernel, stride=1, *, bias=False, **window):
        weight = self.rng.normal(0, np.sqrt(2 / (c_in * kernel**2)), (c_out, c_in, kernel, kernel))
        shift = [self.constant(self.rng.normal(0, 0.1, c_out))] if bias else []
        window = window or {"pads": [kernel // 2] * 4}
        strides = [stride, stride]
        return self.node("Conv", x, self.constant(weight), *shift, kernel_shape=[kernel] * 2, strides=strides, **window)

    def norm(self, x, channels, epsilon=1e-5):
        values = self.rng.normal(0, 0.1, (3, channels)), self.rng.uniform(0.5, 1.5, channels)
        gain, shift, mean, variance = 1 + values[0][0], values[0][1], values[0][2], values[1]
        return self.node("BatchNormalization", x, *map(self.constant, (gain, shift, mean, variance)), epsilon=epsilon)

    def affine(self, x, channels):
        shape = (1, channels, 1, 1)
        x = self.node("Mul", x, self.constant(self.rng.uniform(0.5, 1.5, shape)))
        return self.node("Add", x, self.constant(self.rng.normal(0, 0.1, shape)))

    def product(self, x, c_in, c_out):
        x = self.node("MatMul", x, self.constant(self.rng.normal(0, 0.3, (c_in, c_out))))
        return self.node("Add", x, self.constant(self.rng.normal(0, 0.1, c_out)))

    def model(self, image, shape, output, classes, opset=13):
        inputs = [helper.make_tensor_value_info(image, TensorProto.FLOAT, ["unk__1", *shape])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["unk__2", classes])]
        body = helper.make_graph(self.nodes, "tf2onnx", inputs, outputs, self.constants)
        return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def read(model):
    prepared, _ = for_inference(infer(model))
    return recognise(prepared)


def images(layout="nchw", side=SIDE):
    drawn = np.random.default_rng(3).normal(size=(2, 3, side, side)).astype(np.float32)
    return drawn if layout == "nchw" else np.ascontiguousarray(drawn.transpose(0, 2, 3, 1))


def answers(found, given):
    network = Network(graph(found.spec), found.weights)
    return (found.image.before(network.logits) if found.image else network.logits)(given)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# ---- Keras through tf2onnx: MLPerf Tiny's ResNet-8 of image classification


def resnet8(*, norms=False, stated=True, relu_of_second=True, second_pads=(0, 0, 1, 1)):
    """https://github.com/mlcommons/tiny, benchmark/training/image_classification/keras_model.py, as tf2onnx writes it.

    Its padding is SAME, every convolution has a bias, and projections have no batch norm. tf2onnx folds batch norms
    unless something reads the convolution (``norms``), and writes SAME as pads where it knows the size (``stated``).
    """
    write = Writer()

    def window(kernel, stride, pads=(0, 0, 1, 1)):
        pads = pads if stride == 2 and kernel == 3 else (kernel // 2,) * 4
        return {"pads": list(pads)} if stated else {"auto_pad": "SAME_UPPER"}

    def layer(x, c_in, c_out, kernel, stride=1, pads=(0, 0, 1, 1)):
        y = write.conv(x, c_in, c_out, kernel, stride, bias=True, **window(kernel, stride, pads))
        return write.norm(y, c_out, 1e-3) if norms and kernel == 3 else y

    x = write.node("Transpose", "input_1", perm=[0, 3, 1, 2])
    x, width = write.node("Relu", layer(x, 3, 16, 3)), 16
    for number, out in enumerate((16, 32, 64)):
        stride = 1 if number == 0 else 2
        y = layer(x, width, out, 3, stride, second_pads if number == 1 else (0, 0, 1, 1))
        y = write.node("Relu", y) if relu_of_second or number != 1 else y
        y = layer(y, out, out, 3)
        x = layer(x, width, out, 1, stride) if number else x
        x, width = write.node("Relu", write.node("Add", x, y)), out
    x = write.node("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8], auto_pad="VALID")
    x = write.node("Transpose", x, perm=[0, 2, 3, 1])
    x = write.node("Reshape", x, write.constant([-1, 64], np.int64))
    return write.model("input_1", (SIDE, SIDE, 3), write.node("Softmax", write.product(x, 64, 10), axis=-1), 10)


RESNET8 = ResNetSpec(
    kind="basic",
    stem=Stem(width=16, kernel=3, stride=1, pool=False),
    stages=(
        (Block(inner=(16,), out=16),),
        (Block(inner=(32,), out=32, stride=2, projected=True),),
        (Block(inner=(64,), out=64, stride=2, projected=True),),
    ),
    classes=10,
    padding="same",
    norm=False,
)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("stated", [False, True])
def test_mlperf_tiny_s_resnet8_is_recognised(norms, stated):
    model = resnet8(norms=norms, stated=stated)
    found = read(model)
    assert not isinstance(found, str), found
    assert found.spec == RESNET8
    assert any("Softmax" in note for note in found.notes)
    assert any("batch norms are folded" in note for note in found.notes) is norms
    expected = runner(infer(model), optimise=False)(images("nhwc"))
    np.testing.assert_allclose(softmax(answers(found, images())), expected, atol=1e-5)


def test_its_padding_is_not_even():
    found = read(resnet8())
    even = Network(graph(replace(RESNET8, padding="even")), found.weights).logits(images())
    assert np.abs(even - answers(found, images())).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "what"),
    [({"relu_of_second": False}, "relu"), ({"second_pads": (1, 1, 0, 0)}, "conv"), ({"second_pads": (1,) * 4}, "conv"),
     ({"second_pads": (0, 1, 1, 0)}, "padded by")],
)  # fmt: skip
def test_a_graph_that_differs_from_it_in_one_place_is_imported_as_a_graph(change, what):
    found = read(resnet8(**change))
    assert isinstance(found, str)
    assert what in found


# ---- GluonCV's second ResNets through MXNet's exporter


def gluon(*, data_norm=True):
    """ResNet v2: the image is normalised by a batch norm, and the stem has one too."""
    write = Writer(1)
    x = write.norm("data", 3, 1e-4) if data_norm else "data"
    x = write.node("Relu", write.norm(write.conv(x, 3, 8, 7, 2), 8))
    x, width = write.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 8
    for out, stride in ((8, 1), (12, 2)):
        y = activated = write.node("Relu", write.norm(x, width))
        y = write.node("Relu", write.norm(write.conv(y, width, out, 3, stride), out))
        y = write.conv(y, out, out, 3)
        x = write.conv(activated, width, out, 1, stride) if stride > 1 else x
        x, width = write.node("Add", y, x), out
    x = write.node("GlobalAveragePool", write.node("Relu", write.norm(x, width)))
    x = write.node("Gemm", write.node("Flatten", x), write.constant(write.rng.normal(0, 0.3, (5, width))),
                   write.constant(np.zeros(5)), transB=1)  # fmt: skip
    return write.model("data", (3, SIDE, SIDE), x, 5, opset=9)


def test_mxnet_s_second_resnet_is_recognised_and_its_norm_of_the_image_becomes_preprocessing():
    model = gluon()
    found = read(model)
    assert not isinstance(found, str), found
    assert found.spec == ResNetSpec(
        kind="basic",
        stem=Stem(width=8, normed=True),
        stages=((Block(inner=(8,), out=8),), (Block(inner=(12,), out=12, stride=2, projected=True),)),
        classes=5,
        preactivation=True,
    )
    expected = runner(infer(model), optimise=False)(images())
    np.testing.assert_allclose(answers(found, images()), expected, atol=1e-4 * np.abs(expected).max())
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    for before in (Preprocess(resize=0, crop=SIDE), Preprocess(resize=0, crop=SIDE, channels="bgr")):
        twice = found.image.before(lambda given: given)(before.apply(_picture(pixels)))
        once = found.image.within(before).apply(_picture(pixels))
        np.testing.assert_allclose(once, twice[0] if twice.ndim == 4 else twice, atol=1e-4)


def _picture(pixels):
    from PIL import Image

    return Image.fromarray(pixels)


def test_without_a_norm_of_the_image_there_is_none():
    assert read(gluon(data_norm=False)).image is None


def test_a_factor_below_zero_is_no_preprocessing():
    with pytest.raises(ValueError, match="greater than 0"):
        ImageNorm((-1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).within(Preprocess())
    model = gluon()
    gain = next(one for one in model.graph.initializer if one.name == model.graph.node[0].input[1])
    gain.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(gain), gain.name))
    assert "sign" in read(model)


# ---- PaddleClas' ResNet-vd through paddle2onnx, and Caffe's


def paddle():
    """ResNet-vd: three convolutions in the stem, and a shortcut behind an average."""
    write = Writer(2)
    x = "x"
    for c_in, c_out, stride in ((3, 4, 2), (4, 4, 1), (4, 8, 1)):
        x = write.node("Relu", write.norm(write.conv(x, c_in, c_out, 3, stride), c_out))
    x, width = write.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 8
    for out, stride in ((16, 1), (24, 2)):
        y = write.node("Relu", write.norm(write.conv(x, width, 8, 1), 8))
        y = write.node("Relu", write.norm(write.conv(y, 8, 8, 3, stride), 8))
        y = write.norm(write.conv(y, 8, out, 1), out)
        if stride > 1:
            x = write.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4, ceil_mode=1)
        x = write.norm(write.conv(x, width, out, 1), out)
        x, width = write.node("Relu", write.node("Add", y, x)), out
    x = write.node("ReduceMean", x, axes=[2, 3], keepdims=1)
    x = write.node("Reshape", x, write.constant([0, -1], np.int64))
    x = write.node("Softmax", write.product(x, width, 6), axis=1)
    return write.model("x", (3, SIDE, SIDE), x, 6)


def test_paddle_s_resnet_vd_is_recognised():
    found = read(paddle())
    assert not isinstance(found, str), found
    assert found.spec == ResNetSpec(
        kind="bottleneck",
        stem=Stem(width=8, kernel=3, inner=(4, 4)),
        stages=tuple(
            (Block(inner=(8, 8), out=out, stride=stride, projected=True),) for out, stride in ((16, 1), (24, 2))
        ),
        classes=6,
        downsample="average",
    )


def caffe(*, ceil):
    """The authors' ResNet: batch norm and scale apart, stride in the first 1x1, a pool that reaches over the end."""
    write = Writer(4)

    def layer(x, c_in, c_out, kernel, stride=1):
        return write.affine(write.norm(write.conv(x, c_in, c_out, kernel, stride), c_out, 2e-5), c_out)

    pool = {"ceil_mode": 1} if ceil else {"pads": [0, 0, 1, 1]}
    x, width = write.node("Relu", layer("data", 3, 8, 7, 2)), 8
    x = write.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], **pool)
    for out, stride in ((16, 1), (24, 2)):
        y = write.node("Relu", layer(x, width, 8, 1, stride))
        y = layer(write.node("Relu", layer(y, 8, 8, 3)), 8, out, 1)
        x, width = write.node("Relu", write.node("Add", layer(x, width, out, 1, stride), y)), out
    x = write.node("AveragePool", x, kernel_shape=[SIDE // 8] * 2)
    x = write.node("Reshape", x, write.constant([-1, width], np.int64))
    x = write.product(x, width, 4)
    return write.model("data", (3, SIDE, SIDE), x, 4)


@pytest.mark.parametrize("ceil", [False, True])
def test_caffe_s_resnet_is_recognised(ceil):
    found = read(caffe(ceil=ceil))
    assert not isinstance(found, str), found
    assert found.spec == ResNetSpec(
        kind="bottleneck",
        stem=Stem(width=8, pool_padding="same"),
        stages=tuple(
            (Block(inner=(8, 8), out=out, stride=stride, projected=True),) for out, stride in ((16, 1), (24, 2))
        ),
        classes=4,
        stride_in="1x1",
        eps=2e-5,
    )


# ---- what is no residual network


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1", "densenet121"])
def test_other_architectures_are_imported_as_graphs(name, tmp_path):
    import torch

    from edgeres.model.zoo import import_torchvision

    network = import_torchvision().models.get_model(name, num_classes=4).eval()
    torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), str(tmp_path / "net.onnx"), dynamo=False)
    assert isinstance(read(onnx.load(tmp_path / "net.onnx")), str)
