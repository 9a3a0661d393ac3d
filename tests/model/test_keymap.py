import pytest

from edgeres.errors import ModelError
from edgeres.model.key_names import canonical

CONV, HEAD = (8, 8, 3, 3), (5, 8)


BODY = {"conv1.weight": CONV, "bn1.weight": (8,), "layer1.0.conv1.weight": CONV, "layer1.0.bn1.weight": (8,)}
FC = {"fc.weight": HEAD, "fc.bias": (5,)}


def named(keys, **options):
    """The file's key of each of the graph's keys, for shapes by key."""
    return dict(canonical(keys, **options).keys)


def prefixed(prefix, keys):
    return {f"{prefix}{key}": shape for key, shape in keys.items()}


@pytest.mark.parametrize(
    ("anchor", "foreign", "ours"),
    [
        ("layer1.0.conv1.weight", "layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"),
        ("layer1.0.conv1.weight", "layer2.0.shortcut.1.running_var", "layer2.0.downsample.1.running_var"),
        ("layer1.0.conv1.weight", "layer3.1.se.fc1.bias", "layer3.1.se.fc1.bias"),
        ("stages.0.blocks.0.conv1.weight", "stem.conv.weight", "conv1.weight"),
        ("stages.0.blocks.0.conv1.weight", "stages.0.blocks.2.norm3.running_mean", "layer1.2.bn3.running_mean"),
        ("stages.0.blocks.0.conv1.weight", "stages.3.blocks.0.downsample.conv.weight", "layer4.0.downsample.0.weight"),
        ("stages.0.blocks.0.conv1.weight", "stages.1.blocks.0.downsample.norm.weight", "layer2.0.downsample.1.weight"),
        ("stages.0.blocks.0.conv1.weight", "norm.weight", "norm.weight"),
        (
            "encoder.stages.0.layers.0.layer.0.convolution.weight",
            "embedder.embedder.convolution.weight",
            "conv1.weight",
        ),
        ("encoder.stages.0.layers.0.layer.0.convolution.weight", "embedder.embedder.normalization.bias", "bn1.bias"),
        (
            "encoder.stages.0.layers.0.layer.0.convolution.weight",
            "encoder.stages.2.layers.1.layer.2.normalization.running_var",
            "layer3.1.bn3.running_var",
        ),
        (
            "encoder.stages.0.layers.0.layer.0.convolution.weight",
            "encoder.stages.1.layers.0.shortcut.normalization.weight",
            "layer2.0.downsample.1.weight",
        ),
        ("res2.0.conv1.weight", "stem.conv1.norm.running_mean", "bn1.running_mean"),
        ("res2.0.conv1.weight", "res5.1.conv3.norm.bias", "layer4.1.bn3.bias"),
        ("res2.0.conv1.weight", "res3.0.shortcut.norm.weight", "layer2.0.downsample.1.weight"),
        ("res2.0.conv1.weight", "res3.0.shortcut.weight", "layer2.0.downsample.0.weight"),
        ("res2_0_branch2a_w", "res_conv1_bn_s", "bn1.weight"),
        ("res2_0_branch2a_w", "res4_5_branch2c_bn_b", "layer3.5.bn3.bias"),
        ("res2_0_branch2a_w", "res3_0_branch1_w", "layer2.0.downsample.0.weight"),
        ("res2_0_branch2a_w", "res3_0_branch1_bn_s", "layer2.0.downsample.1.weight"),
        ("conv2_x.0.residual_function.0.weight", "conv3_x.1.residual_function.4.weight", "layer2.1.bn2.weight"),
        ("conv2_x.0.residual_function.0.weight", "conv1.1.running_mean", "bn1.running_mean"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.backbone.", "module.anything_at_all."])
def test_names(prefix, anchor, foreign, ours):
    keys = prefixed(prefix, {anchor: CONV, foreign: CONV})
    assert named({**keys, "fc.weight": HEAD})[ours] == f"{prefix}{foreign}"


@pytest.mark.parametrize("head", ["linear", "fc.1", "head.fc", "classifier", "classifier.1", "last_linear", "fc"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_classifier_is_found_by_its_place(prefix, head):
    keys = prefixed(prefix, {**BODY, f"{head}.weight": HEAD, f"{head}.bias": (5,)})
    assert named(keys)["fc.weight"] == f"{prefix}{head}.weight"
    assert named(keys)["fc.bias"] == f"{prefix}{head}.bias"


def test_a_classifier_beside_the_backbone_is_found():
    keys = {**prefixed("backbone.", BODY), "head.fc.weight": HEAD, "head.fc.bias": (5,)}
    assert named(keys)["fc.bias"] == "head.fc.bias"


def test_wrappers_inside_keys_are_dropped():
    keys = {f"_orig_mod.{key.replace('layer1.', 'layer1._fsdp_wrapped_module.')}": shape for key, shape in BODY.items()}
    assert set(named({**keys, "_orig_mod.fc.weight": HEAD})) == {*BODY, "fc.weight"}


def test_children_of_a_torchvision_network_in_a_sequential():
    keys = {"0.weight": CONV, "1.weight": (8,), "4.0.conv1.weight": CONV, "5.1.bn2.bias": (8,)}
    found = named({**prefixed("features.", keys), "classifier.weight": HEAD})
    assert found["conv1.weight"] == "features.0.weight"
    assert found["bn1.weight"] == "features.1.weight"
    assert found["layer2.1.bn2.bias"] == "features.5.1.bn2.bias"


def test_counters_are_dropped():
    counters = {"bn1.num_batches_tracked": (), "n_averaged": (), "module.n_averaged": ()}
    assert set(named({**BODY, **FC, **counters})) == {*BODY, *FC}


def test_one_place_for_two_keys_is_refused():
    with pytest.raises(ModelError, match=r"both stand for 'layer2.0.downsample.0.weight'"):
        canonical({**BODY, **FC, "layer2.0.downsample.0.weight": CONV, "layer2.0.shortcut.0.weight": CONV})


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("", "net2."), ("a.", "b.", "model_ema.")])
def test_two_networks_are_refused_with_their_keys_and_the_option(prefixes):
    keys = {key: shape for prefix in prefixes for key, shape in prefixed(prefix, {**BODY, **FC}).items()}
    with pytest.raises(ModelError) as caught:
        canonical(keys)
    assert f"{len(prefixes)} networks are in one state dict" in caught.value.what
    assert f"--weights-key {next(filter(None, sorted(prefixes))).rstrip('.')}" in caught.value.hint


@pytest.mark.parametrize(
    ("taken", "other"),
    [("model_ema.module.", "model."), ("ema_model.", ""), ("net.ema.", "net.model."), ("swa.", "m.")],
)
def test_averaged_weights_in_one_state_dict_are_taken_and_told(taken, other):
    found = canonical({**prefixed(taken, {**BODY, **FC}), **prefixed(other, {**BODY, **FC})})
    assert found.keys["fc.weight"] == f"{taken}fc.weight"
    assert f"the averaged weights under {taken.rstrip('.')!r} are taken" in found.notes[0]


@pytest.mark.parametrize(
    "heads",
    [
        {"fc.0.weight": (8, 8), "fc.0.bias": (8,), "fc.3.weight": HEAD, "fc.3.bias": (5,)},
        {"fc.0.weight": (8,), "fc.1.weight": HEAD},
    ],
)
def test_a_head_of_two_layers_is_refused(heads):
    with pytest.raises(ModelError, match=r"2 layers \(fc.0, fc.[13]\)"):
        canonical({**BODY, **heads})


def test_a_classifier_after_the_classifier_is_refused():
    with pytest.raises(ModelError, match=r"2 layers"):
        canonical({**prefixed("model.", {**BODY, **FC}), "head.weight": (3, 5)})


def test_a_layer_between_backbone_and_classifier_is_refused():
    keys = {**prefixed("backbone.", BODY), "neck.0.weight": (8, 8), "head.fc.weight": HEAD}
    with pytest.raises(ModelError, match=r"2 layers|neither network nor classifier"):
        canonical(keys)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"projection_head.0.weight": (8, 8), "projection_head.3.weight": (4, 8), "prototypes.weight": (30, 4)},
        {"projector.0.weight": (8, 8), "predictor.weight": (8, 8)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "teacher.backbone.", "encoder."])
def test_features_without_a_classifier_are_refused_unless_one_is_trained(prefix, others):
    keys = {**prefixed(prefix, BODY), **others}
    with pytest.raises(ModelError, match="no classifier"):
        canonical(keys)
    found = canonical(keys, headless=True)
    assert set(found.keys) == set(BODY)
    assert bool(found.notes) is bool(others)


@pytest.mark.parametrize(
    ("taken", "other"),
    [("module.encoder_q.", "module.encoder_k."), ("module.base_encoder.", "module.momentum_encoder.")],
)
@pytest.mark.parametrize("head", [{"fc.weight": (128, 8)}, {"fc.0.weight": (8, 8), "fc.2.weight": (128, 8)}])
def test_the_last_layers_of_moco_are_no_classifier(taken, other, head):
    keys = {key: shape for prefix in (taken, other) for key, shape in prefixed(prefix, {**BODY, **head}).items()}
    keys["module.queue"] = (128, 64)
    with pytest.raises(ModelError, match="no classifier"):
        canonical(keys)
    found = canonical(keys, headless=True)
    assert found.keys == {key: f"{taken}{key}" for key in BODY}
    assert f"the weights under {taken.rstrip('.')!r} are taken" in found.notes[0]
