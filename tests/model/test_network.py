from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeres.errors import ModelError
from edgeres.model.cost import shapes
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights

THIN = ResNetSpec(
    kind="bottleneck",
    stem=Stem(width=4, kernel=3, stride=1, pool=False),
    stages=((Block(inner=(4, 6), out=8, groups=2, projected=True, squeeze=2),),),
    classes=3,
)


def test_state_dict_has_the_graphs_keys():
    state = {key: tuple(v.shape) for key, v in Network(graph(THIN)).state_dict().items() if "tracked" not in key}
    assert state == graph(THIN).parameters


def test_weights_go_in_and_come_out():
    weights = Network(graph(THIN)).weights()
    assert Network(graph(THIN), weights).weights().digest == weights.digest


@pytest.mark.parametrize("change", [lambda w: w.pop("fc.bias"), lambda w: w.update({"x": np.zeros(1)})])
def test_weights_that_do_not_fit_are_refused(change):
    arrays = dict(Network(graph(THIN)).weights())
    change(arrays)
    with pytest.raises(ModelError):
        Network(graph(THIN), Weights(arrays))


def test_the_last_norm_of_each_block_starts_at_zero():
    network = Network(graph(preset("resnet20")))
    assert not network.get_parameter("layer2.1.bn2.weight").any()
    assert network.get_parameter("layer2.1.bn1.weight").all()


def test_logits_leave_mode_and_statistics_alone():
    network = Network(graph(THIN)).train()
    before = network.weights().digest
    images = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)
    logits = network.logits(images)
    assert (logits.shape, logits.dtype) == ((2, 3), np.dtype(np.float32))
    assert network.training
    assert network.weights().digest == before
    with torch.no_grad():
        assert np.allclose(network.eval()(torch.from_numpy(images)).numpy(), logits, atol=1e-6)


def test_a_tap_sees_every_tensor_with_its_shape():
    seen = {}
    Network(graph(THIN)).eval()(torch.zeros(1, 3, 8, 8), tap=lambda name, x: seen.update({name: tuple(x.shape[1:])}))
    assert seen == shapes(graph(THIN), 8, 8)


def test_option_a_takes_every_second_pixel_and_pads_both_sides():
    spec = ResNetSpec(
        kind="basic",
        stem=Stem(width=2, kernel=1, stride=1, pool=False),
        stages=((Block(inner=(2,), out=5, stride=2),),),
        channels=2,
        shortcut="padding",
        norm=False,
    )
    arrays = {key: np.zeros(shape) for key, shape in graph(spec).parameters.items()}
    arrays["conv1.weight"] = np.eye(2).reshape(2, 2, 1, 1)
    x = torch.arange(1.0, 33).reshape(1, 2, 4, 4)
    seen = {}
    Network(graph(spec), Weights(arrays)).eval()(x, tap=lambda name, tensor: seen.update({name: tensor}))
    out = seen["layer1.0.relu"][0]
    assert out.shape == (5, 2, 2)
    assert torch.equal(out[1:3], x[0, :, ::2, ::2])
    assert not out[[0, 3, 4]].any()


def test_same_padding_halves_an_even_image_from_its_first_pixel_on():
    """The example of TensorFlow's documentation of SAME: 3 rows of a 3x3 with stride 2 reach over the end alone."""
    stem = Stem(width=1, kernel=3, pool_padding="same")
    stages = ((Block(inner=(1,), out=1),),)
    spec = ResNetSpec(kind="basic", stem=stem, stages=stages, channels=1, padding="same", norm=False)
    arrays = {key: np.zeros(shape) for key, shape in graph(spec).parameters.items()}
    arrays["conv1.weight"] = np.ones((1, 1, 3, 3))
    x, seen = torch.arange(1.0, 65).reshape(1, 1, 8, 8), {}
    Network(graph(spec), Weights(arrays)).eval()(x, tap=lambda name, tensor: seen.update({name: tensor[0, 0]}))
    sums = torch.nn.functional.pad(x[0, 0], (0, 1, 0, 1)).unfold(0, 3, 2).unfold(1, 3, 2).sum((2, 3))
    assert torch.equal(seen["conv1"], sums)
    assert torch.equal(
        seen["maxpool"], torch.nn.functional.pad(sums, (0, 1, 0, 1)).unfold(0, 3, 2).unfold(1, 3, 2).amax((2, 3))
    )
    assert graph(spec)["conv1"].pads((7, 8)) == (1, 0, 1, 1)


def test_without_its_residual_a_network_answers_differently():
    spec = replace(preset("resnet20"), classes=4)
    torch.manual_seed(0)
    network = Network(graph(spec)).eval()
    for op in network.graph.ops:
        if op.kind == "norm":
            torch.nn.init.uniform_(network.get_parameter(f"{op.name}.weight"), 0.5, 1.5)

    class Plain(Network):
        def apply_op(self, op, inputs):
            return inputs[0] if op.kind == "add" else super().apply_op(op, inputs)

    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    weights = network.weights()
    assert (
        np.abs(Plain(graph(spec), weights).logits(images) - Network(graph(spec), weights).logits(images)).max() > 1e-2
    )
