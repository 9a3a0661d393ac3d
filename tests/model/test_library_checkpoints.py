"""Checkpoints as other libraries write them: the same logits as torchvision's network, whatever the file looks like."""

import argparse
import enum
import functools
import json
import pathlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

from benchmarks.input_rows.checkpoints import transformers_key
from edgeres.errors import ModelError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weight_files import content_digest, weights_of
from edgeres.model.zoo import read_checkpoint

SPEC = ResNetSpec(
    kind="bottleneck",
    stem=Stem(width=6),
    stages=(
        (Block(inner=(4, 5), out=8, projected=True), Block(inner=(3, 4), out=8)),
        (Block(inner=(4, 4), out=12, stride=2, projected=True),),
    ),
    classes=3,
)


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def network():
    """A bottleneck network with random weights and statistics."""
    torch.manual_seed(5)
    module = Network(graph(SPEC)).eval()
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_()
    return module


def assert_same(path, network, **options):
    loaded = read_checkpoint(path, **options)
    assert set(loaded.weights) == {key for key in network.state_dict() if "num_batches" not in key}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    ours, theirs = Network(graph(loaded.spec), loaded.weights).logits(images), network.logits(images)
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()
    return loaded


def detectron2_key(key):
    """Names of ``build_resnet_backbone`` with ``num_classes``."""
    module, _, leaf = key.rpartition(".")
    if module == "fc":
        return f"linear.{leaf}"
    parts = module.split(".")
    if parts[-2:-1] == ["downsample"]:
        parts = [*parts[:-2], "shortcut" if parts[-1] == "0" else "shortcut.norm"]
    elif parts[-1].startswith("bn"):
        parts[-1] = f"conv{parts[-1][2:]}.norm"
    parts[0] = f"res{int(parts[0][5:]) + 1}" if parts[0].startswith("layer") else f"stem.{parts[0]}"
    return f"{'.'.join(parts)}.{leaf}"


def mmpretrain_key(key):
    return f"head.{key}" if key.startswith("fc.") else f"backbone.{key}"


def timm_v2_style_key(key):
    return f"module.{key}"


@pytest.mark.parametrize(
    "rename", [transformers_key, detectron2_key, mmpretrain_key, timm_v2_style_key, "anything._orig_mod.{}".format]
)
def test_names_of_other_libraries(rename, network, tmp_path):
    torch.save({rename(key): value for key, value in network.state_dict().items()}, tmp_path / "w.pth")
    assert assert_same(tmp_path / "w.pth", network).notes == ()


def test_caffe2_arrays_with_norms_of_scale_and_shift_alone(network, tmp_path):
    blobs = {}
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if "running_mean" in key:
                value.zero_()
            elif "running_var" in key:
                value.fill_(1 - 1e-5)
            elif "num_batches" not in key:
                module, _, leaf = key.rpartition(".")
                parts = module.split(".")
                if parts[0].startswith("layer"):
                    stem = f"res{int(parts[0][5:]) + 1}_{parts[1]}_"
                    last = parts[2][-1]
                    name = "branch1" if parts[2] == "downsample" else f"branch2{'abc'[int(last) - 1]}"
                    norm = parts[2].startswith("bn") or parts[3:] == ["1"]
                    name = stem + name
                else:
                    norm = parts[0] == "bn1"
                    name = {"conv1": "conv1", "bn1": "res_conv1", "fc": "pred"}[parts[0]]
                suffix = f"_bn_{'s' if leaf == 'weight' else 'b'}" if norm else f"_{leaf[0]}"
                blobs[name + suffix] = value.numpy().copy()
    (tmp_path / "R-50.bin").write_bytes(pickle.dumps({"blobs": blobs, "lr": np.float32(1)}, protocol=2))
    assert_same(tmp_path / "R-50.bin", network)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_lightning_checkpoint_with_foreign_objects(zipped, network, tmp_path):
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{key}": value for key, value in network.state_dict().items()}
        | {"criterion.weight": torch.ones(3)},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(6, 3, 7, 7)}}, "param_groups": []}],
        "hyper_parameters": {
            "args": argparse.Namespace(lr=np.float64(0.1)), "path": pathlib.PurePosixPath("x"), "colour": Colour.RED,
            "partial": functools.partial(int, base=2), "other": network,
        },
    }  # fmt: skip
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    loaded = assert_same(tmp_path / "last.ckpt", network)
    assert "the weights were found under 'state_dict'" in loaded.notes
    assert any("criterion.weight" in note for note in loaded.notes)
    assert any("argparse.Namespace" in note for note in loaded.notes)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("arrays", [True, False])
def test_state_dicts_of_pythons_own_pickle(protocol, arrays, network, tmp_path):
    state = {key: value.numpy() if arrays else value for key, value in network.state_dict().items()}
    (tmp_path / "w.pt").write_bytes(pickle.dumps(state, protocol=protocol))
    assert_same(tmp_path / "w.pt", network)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_read_from_its_tree(zipped, network, tmp_path):
    torch.save({"model": network, "epoch": 1}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    loaded = assert_same(tmp_path / "w.pth", network)
    assert "the file holds a whole module, edgeres.model.network.Network" in loaded.notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda module: setattr(module.bn1, "eps", 1e-3), "eps 0.001"),
        (lambda module: module.add_module("act", nn.GELU()), "an activation 'act' that is GELU"),
    ],
)
def test_a_whole_module_that_computes_something_else_is_refused(change, says, network, tmp_path):
    change(network)
    torch.save(network, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=says):
        read_checkpoint(tmp_path / "w.pth")


def test_a_whole_module_states_its_strides(network, tmp_path):
    spec = replace(SPEC, stride_in="1x1", stem=replace(SPEC.stem, stride=1))
    module = Network(graph(spec), network.weights()).eval()
    torch.save(module, tmp_path / "w.pth")
    assert assert_same(tmp_path / "w.pth", module).spec == spec


def test_pruning_masks_and_normalized_weights_are_computed(network, tmp_path):
    for name in ("layer1.0.conv1", "layer1.1.conv3"):
        prune.l1_unstructured(network.get_submodule(name), "weight", 0.5)
    prune.random_unstructured(network.fc, "bias", 0.4)
    parametrizations.weight_norm(network.get_submodule("layer1.0.conv2"))
    parametrizations.spectral_norm(network.get_submodule("layer2.0.conv3"))
    nn.utils.spectral_norm(network.get_submodule("layer1.1.conv1"))
    network.eval()
    images = torch.zeros(1, 3, 32, 32)
    expected = {name: network.get_submodule(name) for name in ("layer1.0.conv2", "layer2.0.conv3")}
    network.get_submodule("layer1.1.conv1")(torch.zeros(1, 8, 2, 2))  # the old hook sets the weight when it is called
    torch.save(network.state_dict(), tmp_path / "w.pth")
    loaded = read_checkpoint(tmp_path / "w.pth")
    for name, module in expected.items():
        np.testing.assert_allclose(loaded.weights[f"{name}.weight"], module.weight.detach(), rtol=1e-5)
    old = network.get_submodule("layer1.1.conv1").weight.detach()
    np.testing.assert_allclose(loaded.weights["layer1.1.conv1.weight"], old, rtol=1e-5)
    assert np.count_nonzero(loaded.weights["layer1.0.conv1.weight"] == 0) == 12
    assert any("a pruning mask is applied" in note for note in loaded.notes)
    assert images.shape[0] == 1


def test_a_parametrization_without_a_closed_form_is_refused(network, tmp_path):
    parametrizations.orthogonal(network.fc)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="remove_parametrizations"):
        read_checkpoint(tmp_path / "w.pth")


def sharded(folder, state, *, safe=True):
    """A folder of Hugging Face's with two shards."""
    keys, names = sorted(state), {}
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        content = {key: state[key].contiguous() for key in part}
        name = f"{'model' if safe else 'pytorch_model'}-0000{number}-of-00002.{'safetensors' if safe else 'bin'}"
        save_file(content, folder / name) if safe else torch.save(content, folder / name)
        names |= dict.fromkeys(part, name)
    index = folder / f"{'model.safetensors' if safe else 'pytorch_model.bin'}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
    return index


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_with_an_index_of_shards(safe, network, tmp_path):
    state = {transformers_key(key): value for key, value in network.state_dict().items()}
    index = sharded(tmp_path, state, safe=safe)
    assert weights_of(tmp_path) == index
    assert "the weights are in 2 files" in assert_same(index, network).notes
    before = content_digest(index)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}), encoding="utf-8")
    assert content_digest(index) != before


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"a": "../other.safetensors"}, "outside of its folder"),
        ({"a": "/etc/passwd"}, "outside of its folder"),
        ({"a": "missing.safetensors"}, "missing"),
        ({}, "no weight_map"),
        ("x", "no weight_map"),
    ],
)
def test_a_damaged_index_is_refused(table, says, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}), encoding="utf-8")
    with pytest.raises(ModelError, match=says):
        read_checkpoint(index)


@pytest.mark.parametrize("stride_in", ["3x3", "1x1"])
@pytest.mark.parametrize("first", [1, 2])
def test_transformers_config_states_the_strides(stride_in, first, network, tmp_path):
    block, *rest = SPEC.stages[0]
    spec = replace(SPEC, stride_in=stride_in, stages=((replace(block, stride=first), *rest), *SPEC.stages[1:]))
    module = Network(graph(spec), network.weights()).eval()
    config = {
        "model_type": "resnet", "downsample_in_bottleneck": stride_in == "1x1", "downsample_in_first_stage": first == 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({transformers_key(k): v for k, v in module.state_dict().items()}, tmp_path / "model.safetensors")
    assert assert_same(tmp_path / "model.safetensors", module).spec == spec


def test_transformers_config_of_another_activation_is_refused(network, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "hidden_act": "gelu"}', encoding="utf-8")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="hidden_act is 'gelu'"):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("key", ["teacher", "teacher.backbone", "student"])
def test_one_of_several_networks_is_asked_for_by_its_key(key, network, tmp_path):
    other = {name: value + 1 if value.is_floating_point() else value for name, value in network.state_dict().items()}
    both = {"student": other, "teacher": {f"backbone.{name}": value for name, value in network.state_dict().items()}}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"holds 2 networks \(student, teacher\): say which: --weights-key student"):
        read_checkpoint(tmp_path / "w.pth")
    loaded = read_checkpoint(tmp_path / "w.pth", key=key)
    wanted = other if key == "student" else network.state_dict()
    assert np.array_equal(loaded.weights["fc.bias"], wanted["fc.bias"].numpy())
    with pytest.raises(ModelError, match="has no network under 'x'"):
        read_checkpoint(tmp_path / "w.pth", key="x")


def test_both_averaged_and_raw_weights_can_be_had(network, tmp_path):
    raw = {name: value + 1 if value.is_floating_point() else value for name, value in network.state_dict().items()}
    torch.save({"state_dict": raw, "state_dict_ema": network.state_dict()}, tmp_path / "w.pth")
    loaded = assert_same(tmp_path / "w.pth", network)
    assert loaded.notes == (
        "the averaged weights under 'state_dict_ema' are taken; --weights-key state_dict takes the others",
    )
    asked = read_checkpoint(tmp_path / "w.pth", key="state_dict")
    assert np.array_equal(asked.weights["fc.bias"], raw["fc.bias"].numpy())


def test_averaged_weights_without_statistics_are_not_taken(network, tmp_path):
    averaged = {key: value + 1 for key, value in network.state_dict().items() if "running" not in key}
    torch.save({"model": network.state_dict(), "ema": averaged}, tmp_path / "w.pth")
    assert "without the norms' statistics" in assert_same(tmp_path / "w.pth", network).notes[-1]


@pytest.mark.parametrize("where", ["arch", "args", "config"])
def test_a_stored_name_that_tensors_cannot_show_is_obeyed(where, tmp_path):
    state = Network(graph(preset("resnet20"))).state_dict()
    stored = {"arch": {"arch": "resnetblur20"}, "args": {"args": argparse.Namespace(model="resnetblur20.a1")}}
    if where == "config":
        (tmp_path / "config.json").write_text('{"architecture": "resnetblur20"}', encoding="utf-8")
    torch.save({"state_dict": state, **stored.get(where, {})}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="resnetblur20, which blurs"):
        read_checkpoint(tmp_path / "w.pth", preset("resnet20"))
    (tmp_path / "config.json").unlink(missing_ok=True)
    torch.save({"state_dict": Network(graph(preset("resnet50"))).state_dict(), "arch": "resnet50"}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="name resnet50 instead"):
        read_checkpoint(tmp_path / "w.pth", preset("resnet50_v1"))


def test_features_get_a_classifier_where_one_is_to_be_trained(network, tmp_path):
    state = {f"module.encoder_q.{key}": value for key, value in network.state_dict().items() if "fc." not in key}
    torch.save({"state_dict": state, "arch": "resnet50"}, tmp_path / "moco.pth")
    with pytest.raises(ModelError, match="no classifier: train one on its features: edgeres train MODEL --weights"):
        read_checkpoint(tmp_path / "moco.pth")
    loaded = read_checkpoint(tmp_path / "moco.pth", new_head=7)
    assert loaded.spec == replace(SPEC, classes=7)
    assert not loaded.weights["fc.weight"].any()
