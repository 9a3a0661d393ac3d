"""Whole pickled networks: what their modules state beside the tensors is taken over, or refused, never ignored."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.zoo import import_torchvision, read_checkpoint

import_torchvision()
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402  # after its operators are declared


def thin(block, **options):
    """torchvision's network with one block in a stage and three classes."""
    torch.manual_seed(3)
    module = ResNet(block, [1, 1, 1, 1], num_classes=3, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def saved(module, folder):
    torch.save(module, folder / "w.pth")
    return folder / "w.pth"


def assert_same_logits(module, path):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loaded = read_checkpoint(path)
    with torch.no_grad():
        theirs = module(images).numpy()
    ours = Network(graph(loaded.spec), loaded.weights).logits(images.numpy())
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    return loaded.spec


def test_a_pool_that_was_replaced_by_nothing_is_left_out(tmp_path):
    module = thin(BasicBlock)
    module.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    module.maxpool = nn.Identity()
    spec = assert_same_logits(module, saved(module, tmp_path))
    assert (spec.stem.pool, spec.stem.stride) == (False, 1)


def test_a_stem_of_three_by_three_with_its_pool_keeps_the_pool(tmp_path):
    module = thin(BasicBlock)
    module.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    spec = assert_same_logits(module, saved(module, tmp_path))
    assert (spec.stem.pool, spec.stem.stride) == (True, 2)


def test_stages_dilated_instead_of_strided_are_taken_over(tmp_path):
    module = thin(Bottleneck, replace_stride_with_dilation=[False, True, True])
    spec = assert_same_logits(module, saved(module, tmp_path))
    assert [stage[0].stride for stage in spec.stages] == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net: setattr(net.layer1[0].conv1, "padding_mode", "reflect"), "padding_mode 'reflect'"),
        (lambda net: setattr(net.layer1[0].conv1, "padding", (0, 0)), r"padding \(0, 0\), where a ResNet has \(1, 1\)"),
        (lambda net: setattr(net.layer2[0].conv2, "dilation", (2, 2)), "'layer2.0.conv2' has padding"),
        (lambda net: setattr(net.layer2[0].conv1, "stride", (2, 1)), r"stride \(2, 1\), where a ResNet has 2"),
        (lambda net: setattr(net.maxpool, "ceil_mode", True), "ceil_mode True, a ResNet has False"),
        (lambda net: setattr(net.maxpool, "kernel_size", 2), "kernel_size 2, a ResNet has 3"),
        (lambda net: setattr(net, "avgpool", nn.AdaptiveMaxPool2d(1)), "AdaptiveMaxPool2d; a ResNet has none"),
        (lambda net: setattr(net.layer3[0], "bn2", nn.InstanceNorm2d(256)), "InstanceNorm2d"),
    ],
)
def test_a_module_that_no_resnet_has_is_refused_with_the_export(change, says, tmp_path):
    module = thin(BasicBlock)
    change(module)
    with pytest.raises(ModelError, match=says) as caught:
        read_checkpoint(saved(module, tmp_path))
    assert "onnx" in caught.value.hint


def test_settings_that_older_releases_did_not_store_say_nothing(tmp_path):
    module = thin(BasicBlock)
    for part in module.modules():
        for name in ("padding_mode", "dilation", "ceil_mode"):
            part.__dict__.pop(name, None)
    path = saved(module, tmp_path)
    assert_same_logits(thin(BasicBlock), path)
