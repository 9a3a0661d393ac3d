"""What files of others say of their classes and their preprocessing, and what is not believed."""

import json

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file
from template_network import CLASSES, onnx_file

from edgeres.artifacts.companion import Companion, published_companion, read_companion
from edgeres.artifacts.source import Source
from edgeres.data.preprocess import Preprocess
from edgeres.model.presets import preset
from edgeres.model.probe import NORMALISATIONS
from edgeres.model.weights import Weights, save_checkpoint
from edgeres.settings import canonical, plain

NAMES = dict(enumerate(CLASSES))


def weights(folder, **metadata):
    path = folder / "model.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, str(path), metadata or None)
    return path


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", str(NAMES)),  # as Ultralytics writes it
        ("names", json.dumps(NAMES)),
        ("class_names", json.dumps(list(CLASSES))),
        ("classes", str(list(CLASSES))),
        ("labels", json.dumps({str(index): name for index, name in reversed(NAMES.items())})),
        ("edgeres.classes", canonical(list(CLASSES))),
    ],
)
def test_names_in_onnx_metadata_are_read(tmp_path, key, text):
    path = onnx_file(tmp_path / "theirs.onnx", NORMALISATIONS[0], tuple(range(6)))
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {key: text, "stride": "32"})
    onnx.save(model, str(path))
    assert read_companion(path) == Companion(CLASSES, None, "theirs.onnx")


def test_names_in_safetensors_metadata_are_read(tmp_path):
    assert read_companion(weights(tmp_path, classes=json.dumps(CLASSES))).classes == CLASSES


def test_edgeres_own_weights_name_their_classes(tmp_path):
    arrays = {"x": np.zeros(1, np.float32)}
    save_checkpoint(tmp_path / "own.safetensors", preset("resnet20"), Weights(arrays), Preprocess(), CLASSES)
    assert read_companion(tmp_path / "own.safetensors").classes == CLASSES


@pytest.mark.parametrize(
    "text",
    [
        "not a list",
        "[1, 2, 3]",
        '["only one"]',
        '{"0": "ant", "2": "bee"}',
        '{"ant": "bee"}',
        "__import__('os').system('touch pwned')",
        "[" * 10_000,
        '["LABEL_0", "LABEL_1", "LABEL_2"]',
        '["0", "1", "2"]',
    ],
)
def test_what_names_no_classes_says_nothing(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_companion(weights(tmp_path, names=text)) == Companion()
    assert not (tmp_path / "pwned").exists()


def test_edgeres_own_graphs_state_their_preprocessing(tmp_path):
    path = onnx_file(tmp_path / "own.onnx", NORMALISATIONS[0], tuple(range(6)))
    own = Preprocess(resize=40, crop=32, channels="bgr", exif="apply")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"edgeres.preprocess": canonical(plain(own))})
    onnx.save(model, str(path))
    assert read_companion(path).preprocess == own


def test_timms_config_is_read(tmp_path):
    """As ``timm.models.save_for_hf`` writes it."""
    cfg = {
        "input_size": [3, 160, 160], "crop_pct": 0.95, "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    content = {"architecture": "resnet18", "label_names": list(CLASSES), "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(content))
    wanted = Preprocess(resize=168, crop=160, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
    assert read_companion(weights(tmp_path)) == Companion(CLASSES, wanted, "config.json beside it")


def test_timms_wordnet_ids_come_with_their_words(tmp_path):
    content = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "tench", "n2": "goldfish"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_companion(weights(tmp_path)).classes == ("n1, tench", "n2, goldfish")


def test_transformers_configs_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): name for i, name in NAMES.items()}}))
    processor = {
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": {"shortest_edge": 224},
        "crop_pct": 0.875, "resample": 3, "do_normalize": True,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = read_companion(weights(tmp_path))
    assert found.classes == CLASSES
    assert found.preprocess == Preprocess(interpolation="bicubic")
    cropped = {**processor, "size": {"shortest_edge": 232}, "crop_size": {"height": 200, "width": 200}, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(cropped))
    assert read_companion(weights(tmp_path)).preprocess == Preprocess(resize=232, crop=200)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pretrained_cfg": 3}', '{"pretrained_cfg": {"mean": 1, "std": 2}}'])
def test_a_config_that_is_something_else_says_nothing(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert read_companion(weights(tmp_path)) == Companion()


def test_published_weights_name_their_classes():
    found = published_companion(Source("resnet18", weights="IMAGENET1K_V1"))
    assert found is not None
    assert found.classes[0] == "tench"
    assert len(found.classes) == 1000
    assert published_companion(Source("resnet18")) is None
