import pytest

from edgeres.errors import ModelError
from edgeres.model.zoo import canonical


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("module.conv1.weight", "conv1.weight"),
        ("_orig_mod.module.layer1.0.bn1.bias", "layer1.0.bn1.bias"),
        ("model.backbone.layer4.1.conv2.weight", "layer4.1.conv2.weight"),
        ("layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"),
        ("layer2.0.shortcut.1.running_var", "layer2.0.downsample.1.running_var"),
        ("linear.bias", "fc.bias"),
        ("fc.1.weight", "fc.weight"),
        ("head.fc.weight", "fc.weight"),
        ("classifier.weight", "fc.weight"),
        ("stem.conv.weight", "conv1.weight"),
        ("stages.0.blocks.2.norm3.running_mean", "layer1.2.bn3.running_mean"),
        ("stages.3.blocks.0.downsample.conv.weight", "layer4.0.downsample.0.weight"),
        ("stages.1.blocks.0.downsample.norm.weight", "layer2.0.downsample.1.weight"),
        ("norm.weight", "norm.weight"),
        ("layer3.1.se.fc1.bias", "layer3.1.se.fc1.bias"),
        ("something.else", "something.else"),
    ],
)
def test_names(foreign, ours):
    assert canonical({foreign: 1}) == {ours: 1}


def test_counters_are_dropped():
    assert canonical({"bn1.num_batches_tracked": 1, "n_averaged": 2, "module.n_averaged": 3, "bn1.bias": 4}) == {
        "bn1.bias": 4
    }


def test_two_networks_in_one_file_are_refused():
    with pytest.raises(ModelError, match=r"'conv1.weight' and 'module.conv1.weight' both stand for 'conv1.weight'"):
        canonical({"conv1.weight": 1, "module.conv1.weight": 2})


def test_a_head_of_two_layers_is_refused():
    with pytest.raises(ModelError, match=r"2 layers \(fc.0, fc.3\)"):
        canonical({"fc.0.weight": 1, "fc.0.bias": 1, "fc.3.weight": 2, "fc.3.bias": 2})
