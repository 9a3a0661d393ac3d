"""Weights whose tensors cannot tell the network: its name does, and a name that contradicts the request is refused."""

import json

import pytest
from random_weights import random_weights
from safetensors.numpy import save_file

from edgeres.errors import ModelError
from edgeres.model.architecture import check_architecture
from edgeres.model.presets import PRESETS, preset
from edgeres.model.zoo import read_checkpoint


def saved(folder, name, metadata=None, config=None):
    path = folder / "model.safetensors"
    save_file(dict(random_weights(preset(name))), path, metadata)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return path


def test_tensors_of_a_blurred_network_are_those_of_a_plain_one_and_the_model_named_tells(tmp_path):
    path = saved(tmp_path, "resnetblur18")
    assert read_checkpoint(path, preset("resnetblur18")).spec == PRESETS["resnetblur18"]
    assert read_checkpoint(path, preset("resnet18")).spec == PRESETS["resnet18"]


@pytest.mark.parametrize(
    ("metadata", "config"),
    [({"architecture": "resnetblur18"}, None), (None, {"architecture": "resnetblur18.untrained", "num_classes": 1000})],
)
def test_a_stated_architecture_contradicts_another_model(tmp_path, metadata, config):
    path = saved(tmp_path, "resnet18", metadata, config)
    with pytest.raises(ModelError, match="says that the network is resnetblur18") as caught:
        read_checkpoint(path, preset("resnet18"))
    assert caught.value.hint == "name resnetblur18 instead"
    assert read_checkpoint(path, preset("resnetblur18")).spec.antialias == "blur"


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"num_classes": 7}, False),
        ({"output_stride": 32}, False),
        ({"output_stride": 8}, True),
        ({"aa_layer": "blur"}, True),
    ],
)
def test_arguments_that_make_another_network_are_refused(tmp_path, arguments, refused):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "model_args": arguments}))
    path = tmp_path / "model.pth"
    if refused:
        with pytest.raises(ModelError, match="makes another network of resnet50"):
            check_architecture(path, preset("resnet50"))
    else:
        check_architecture(path, preset("resnet50"))


def test_a_name_inside_a_training_scripts_file_counts_too(tmp_path):
    with pytest.raises(ModelError, match="network is resnetaa50"):
        check_architecture(tmp_path / "checkpoint.pth", preset("resnet50"), stated="resnetaa50")


def test_a_transformers_config_names_no_architecture_of_timms(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ResNetForImageClassification"]}))
    check_architecture(tmp_path / "model.safetensors.bin", preset("resnet50"))
