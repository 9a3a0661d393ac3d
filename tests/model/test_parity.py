"""Logits equal to those of the reference implementations, with the same random weights and statistics."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stored_tensors import stored
from torch import nn

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.weights import RawFile
from edgeres.model.zoo import assemble, import_torchvision

SIDE = 64


def images(side: int) -> torch.Tensor:
    """Two images ``[2,3,side,side]`` that differ in brightness and contrast."""
    noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return torch.stack([noise[0], 2 * noise[1] + 1])


def randomise(module: nn.Module, side: int = SIDE) -> nn.Module:
    """Random weights, gains and statistics, so that a norm in the wrong place shows.

    Statistics are random around those of real activations: the signal neither dies nor explodes on its way.
    """
    generator = torch.Generator().manual_seed(7)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for parameter in module.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
        norm.bias.data = torch.rand(norm.bias.shape, generator=generator) - 0.5
    with torch.no_grad():
        module.train()(images(side))
    for norm in norms:
        noise = torch.rand(2, norm.num_features, generator=generator)
        norm.running_var *= 0.5 + 1.5 * noise[0]
        norm.running_mean += (noise[1] - 0.5) * norm.running_var.sqrt()
    return module.eval()


def assert_parity(reference: nn.Module, name: str, side: int = SIDE) -> None:
    loaded = assemble(name, RawFile(stored(reference.state_dict())), preset(name))
    with torch.inference_mode():
        expected = reference(images(side)).numpy()
    found = Network(graph(loaded.spec), loaded.weights).logits(images(side).numpy())
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the images must matter, or equality means nothing"
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def empty(build: Callable[..., nn.Module], name: str) -> nn.Module:
    """A library's module without its slow initialisation, seven classes."""
    with torch.device("meta"):
        module = build(name, num_classes=7)
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def torchvision(name: str) -> nn.Module:
    return empty(import_torchvision().models.get_model, name)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_torchvision(name):
    assert_parity(randomise(torchvision(name)), name)


@pytest.mark.parametrize("name", ["resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"])
def test_torchvision_keys_and_shapes_of_the_large_ones(name):
    with torch.device("meta"):
        reference = import_torchvision().models.get_model(name)
    state = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items() if "tracked" not in key}
    assert graph(preset(name)).parameters == state


@pytest.mark.parametrize(
    "name",
    ["seresnet18", "seresnet50", "resnetv2_18", "resnetv2_50", "resnet50_mlp", "resnet50_clip", "eca_resnet33ts"],
)
def test_timm(name):
    import_torchvision()
    import timm

    # An attention pool has a position for each pixel of the features, here fewer than in the preset.
    size = {"img_size": SIDE} if preset(name).attention_heads else {}
    assert_parity(randomise(empty(partial(timm.create_model, **size), name)), name)


class OptionA(nn.Module):
    """A basic block of He et al. section 4.2, written down once more from the paper."""

    def __init__(self, width: int, out: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.stride, self.padding = stride, out - width
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        layers = [nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)] if projected else []
        self.shortcut = nn.Sequential(*layers)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if len(self.shortcut):
            return F.relu(y + self.shortcut(x))
        half = self.padding // 2
        return F.relu(y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half)))


class Cifar(nn.Module):
    """ResNet-20 with the key names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width = 16
        for number, out in enumerate((16, 32, 64), start=1):
            blocks = []
            for index in range(3):
                stride = 2 if number > 1 and index == 0 else 1
                blocks.append(OptionA(width, out, stride, projected and stride == 2))
                width = out
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


@pytest.mark.parametrize(("name", "projected"), [("resnet20", False), ("resnet20_b", True)])
def test_cifar_option_a_and_b(name, projected):
    assert_parity(randomise(Cifar(projected), 32), name, 32)


def test_original_bottleneck_strides_in_the_1x1():
    """Moving the stride of torchvision's module from the 3x3 to the 1x1 gives ``resnet50_v1``."""
    reference = torchvision("resnet50")
    for number in (2, 3, 4):
        block = reference.get_submodule(f"layer{number}.0")
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    randomise(reference)
    assert_parity(reference, "resnet50_v1")
    with pytest.raises(AssertionError):
        assert_parity(reference, "resnet50")


def test_parity_notices_a_swapped_channel():
    reference = randomise(Cifar(projected=False), 32)
    loaded = assemble("swapped", RawFile(stored(reference.state_dict())), preset("resnet20"))
    key = "layer2.1.bn1.weight"
    swapped = loaded.weights[key].copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    x = images(32).numpy()
    right = Network(graph(loaded.spec), loaded.weights).logits(x)
    wrong = Network(graph(loaded.spec), loaded.weights.replaced({key: swapped})).logits(x)
    assert np.abs(right - wrong).max() > 1e-3
