"""Weight files of every shape and kind of damage."""

import argparse
import json
import os
import pathlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights, save_checkpoint
from edgeres.model.zoo import read_checkpoint

THIN = ResNetSpec(
    kind="basic",
    stem=Stem(width=4, kernel=3, stride=1, pool=False),
    stages=((Block(inner=(3,), out=4),), (Block(inner=(5,), out=6, stride=2, projected=True),)),
    classes=3,
)


@pytest.fixture
def state():
    torch.manual_seed(3)
    return Network(graph(THIN)).state_dict()


def saved(path, content):
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def refused(path, hint=None):
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path, hint)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.th", "w.ckpt", "w.bin", "w.pth.tar"])
def test_formats(name, state, tmp_path):
    loaded = read_checkpoint(saved(tmp_path / name, state))
    assert loaded.spec == THIN
    assert set(loaded.weights) == set(graph(THIN).parameters)
    assert all(np.array_equal(loaded.weights[key], state[key].numpy()) for key in loaded.weights)
    assert (loaded.preprocess, loaded.classes) == (None, None)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "net"])
def test_wrappers_and_prefixes(wrapper, state, tmp_path):
    content = {wrapper: {f"module.{key}": value for key, value in state.items()}, "epoch": 3, "best": torch.tensor(0.5)}
    loaded = read_checkpoint(saved(tmp_path / "w.pth", content))
    assert loaded.spec == THIN
    assert wrapper in loaded.notes[0]


def test_averaged_weights_win_over_the_raw_ones(state, tmp_path):
    averaged = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    loaded = read_checkpoint(saved(tmp_path / "w.pth", {"state_dict": state, "state_dict_ema": averaged}))
    assert np.array_equal(loaded.weights["fc.bias"], averaged["fc.bias"].numpy())


def test_legacy_pickles_are_read_too(state, tmp_path):
    path = tmp_path / "old.th"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path).spec == THIN


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(dtype, state, tmp_path):
    content = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    loaded = read_checkpoint(saved(tmp_path / "w.safetensors", content))
    assert loaded.weights["fc.weight"].dtype == np.float32
    assert np.array_equal(loaded.weights["fc.weight"], content["fc.weight"].float().numpy())


class Marker:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_runs_none_and_says_so(zipped, state, tmp_path):
    proof = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": state, "extra": Marker(proof)}, path, _use_new_zipfile_serialization=zipped)
    loaded = read_checkpoint(path)
    assert not proof.exists()
    assert "the file would run posix.mkdir in torch.load: nothing of it was run; do not trust it" in loaded.notes
    assert np.array_equal(loaded.weights["fc.bias"], state["fc.bias"].numpy())


@pytest.mark.parametrize("content", [argparse.Namespace(lr=1), torch.nn.Linear(2, 2), pathlib.PurePosixPath("a")])
def test_objects_of_foreign_classes_are_left_out_by_name(content, state, tmp_path):
    loaded = read_checkpoint(saved(tmp_path / "w.pth", {"model": state, "args": content}))
    assert loaded.spec == THIN
    assert f"{type(content).__module__}.{type(content).__qualname__}" in loaded.notes[-1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*TorchScript archive:UserWarning")
def test_torchscript_is_named(tmp_path):
    path = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    assert "TorchScript" in refused(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.th"])
@pytest.mark.parametrize("keep", [0, 7, 200, 0.5, 0.99])
def test_truncation_is_told(name, keep, state, tmp_path):
    path = tmp_path / name
    if name == "old.th":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        saved(path, state)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 or keep == 0 else keep * len(content))])
    message = refused(path)
    assert "truncated" in message or "damaged" in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_noise_is_no_weight_file(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "truncated" in refused(path)


def test_missing_and_unknown_files(tmp_path):
    assert "no such file" in refused(tmp_path / "none.pth")
    odd = tmp_path / "weights.h5"
    odd.write_bytes(b"x")
    assert ".h5 is no weight file" in refused(odd)
    assert "no such file" in refused(tmp_path)


@pytest.mark.parametrize(("value", "says"), [(np.nan, "1 NaN or infinite"), (-np.inf, "1 NaN or infinite")])
def test_nan_and_infinity_are_told_with_their_key(value, says, state, tmp_path):
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    message = refused(saved(tmp_path / "w.pth", state))
    assert "'layer2.0.conv1.weight' (5, 4, 3, 3)" in message
    assert says in message


def test_negative_variance_is_told(state, tmp_path):
    state["bn1.running_var"][2] = -1
    assert "'bn1.running_var' holds a negative variance" in refused(saved(tmp_path / "w.pth", state))


def test_missing_surplus_and_misshapen_weights_are_told(state, tmp_path):
    missing = {key: value for key, value in state.items() if key != "layer2.0.bn1.running_mean"}
    assert "'layer2.0.bn1.running_mean' (5,) is missing" in refused(saved(tmp_path / "a.pth", missing))
    assert "'aux.bias' (2,) has no place" in refused(saved(tmp_path / "b.pth", {**state, "aux.bias": torch.zeros(2)}))
    misshapen = {**state, "layer2.0.bn1.weight": torch.zeros(7)}
    assert "'layer2.0.bn1.weight' has shape (7,)" in refused(saved(tmp_path / "c.pth", misshapen))


def test_integer_sparse_and_hollow_tensors_are_told(state, tmp_path):
    shape = state["fc.weight"].shape
    for name, tensor in (
        ("int8 tensor", torch.zeros(shape, dtype=torch.int8)),
        ("is a sparse tensor", torch.zeros(shape).to_sparse()),
        ("stores fewer values", torch.zeros(1).expand(shape)),
    ):
        assert name in refused(saved(tmp_path / "w.pth", {**state, "fc.weight": tensor}))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"epoch": 3}}])
def test_files_without_tensors_are_told(content, tmp_path):
    message = refused(saved(tmp_path / "w.pth", content))
    assert "holds no tensors of a convolution" in message or "holds a list" in message


def test_the_named_model_must_be_the_one_in_the_file(tmp_path):
    path = saved(tmp_path / "w.pth", Network(graph(preset("resnet20"))).state_dict())
    assert "name resnet20 instead, or pass weights of resnet32" in refused(path, preset("resnet32"))
    assert read_checkpoint(path, preset("resnet20")).notes == ()


def test_own_checkpoints_come_back_whole(tmp_path):
    spec = replace(
        THIN,
        stages=((replace(THIN.stages[0][0], stride=2),), THIN.stages[1]),
        stem=Stem(width=4, kernel=3, stride=2, pool=True),
        norm=False,
    )
    weights = Network(graph(spec)).weights()
    preprocess, classes = Preprocess(resize=40, crop=32, std=(0.1, 0.2, 0.3)), ("café", "b", "c")
    save_checkpoint(tmp_path / "a.safetensors", spec, weights, preprocess, classes)
    save_checkpoint(tmp_path / "b.safetensors", spec, weights, preprocess, classes)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = read_checkpoint(tmp_path / "a.safetensors")
    assert (loaded.spec, loaded.preprocess, loaded.classes) == (spec, preprocess, classes)
    assert loaded.weights.digest == weights.digest


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"spec": {"kind": "basic"}, "preprocess": None, "classes": None}),
        json.dumps(
            {"spec": {"kind": "basic", "stem": {}, "stages": [], "evil": 1}, "preprocess": None, "classes": None}
        ),
        "[" * 100_000,
    ],
)
def test_damaged_metadata_is_told(metadata, state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(state, path, {"edgeres": metadata})
    assert "metadata 'edgeres'" in refused(path)


def test_metadata_that_contradicts_the_tensors_is_told(state, tmp_path):
    path = tmp_path / "w.safetensors"
    from edgeres.settings import canonical, plain

    other = plain(replace(THIN, classes=5))
    save_file(state, path, {"edgeres": canonical({"spec": other, "preprocess": None, "classes": None})})
    assert "'fc.weight' has shape (3, 6)" in refused(path)


def test_published_weights_need_a_model():
    with pytest.raises(ModelError, match="need a model name"):
        read_checkpoint("IMAGENET1K_V1")


def test_loaded_weights_are_frozen(state, tmp_path):
    weights = read_checkpoint(saved(tmp_path / "w.pth", state)).weights
    assert isinstance(weights, Weights)
    with pytest.raises(ValueError, match="read-only"):
        weights["fc.bias"][0] = 1
