"""ONNX Runtime mobile: the .ort file and its operators."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from drawn_networks import export, random_images, reference, tiny

from edgeres.backends.onnxruntime.loader import OnnxRuntimeMobile
from edgeres.backends.onnxruntime.ort_format import OrtOperator, canonical, operators, required_operators
from edgeres.backends.session import load_graph, options
from edgeres.errors import StageError
from edgeres.model.families import cifar
from edgeres.progress import Silent
from edgeres.targets.target import find_target

ANDROID = find_target("android")


def build(folder, name="out", style="unsigned"):
    (folder / name).mkdir()
    exported = export(folder / "export", tiny(), 32, style)
    return OnnxRuntimeMobile().build(exported, ANDROID, folder / name, Silent())


def save_ort(folder, model, name):
    settings = options(optimise=True)
    settings.optimized_model_filepath = str(folder / name)
    settings.add_session_config_entry("session.save_model_format", "ORT")
    load_graph(model, settings)
    return (folder / name).read_bytes()


def test_the_bundle_holds_the_file_and_its_operators(tmp_path):
    engine = build(tmp_path)
    assert engine.entry == "model.ort"
    assert not engine.runs_here
    assert "not on a phone" in engine.evidence[0]
    config = engine.files["required_operators.config"].path.read_text()
    assert "com.microsoft;1;" in config
    assert "QLinearConv" in config
    manifest = json.loads(engine.files["manifest.json"].path.read_text())
    assert manifest["entry"] == "model.ort"
    assert manifest["files"]["model.ort"]["sha256"] == engine.files["model.ort"].sha256


def test_the_operators_are_those_onnxruntimes_own_tool_finds(tmp_path):
    from onnxruntime.tools.ort_format_model import create_config_from_models

    engine = build(tmp_path)
    create_config_from_models([engine.files["model.ort"].path], tmp_path / "tool.config", False)
    lines = [line for line in (tmp_path / "tool.config").read_text().splitlines() if not line.startswith("#")]
    assert sorted(engine.files["required_operators.config"].path.read_text().splitlines()) == sorted(lines)


def test_every_convolution_in_the_file_is_an_integer_one(tmp_path):
    engine = build(tmp_path)
    found = OnnxRuntimeMobile().integer_kernels(engine)
    assert (found.integer, found.weighted) == (6, 7)


def test_no_float_convolution_is_laid_out_for_x86(tmp_path):
    found = operators(build(tmp_path, style="float").files["model.ort"].path.read_bytes())
    assert any("Conv" in operator.kind for operator in found)
    assert not any("nchwc" in operator.domain for operator in found)


def test_the_file_that_ships_answers_like_the_graph(tmp_path):
    engine, images = build(tmp_path), random_images(4, 32, seed=1)
    expected = reference(engine.exported.model.path, images)
    with OnnxRuntimeMobile().engine_session(engine, ANDROID) as session:
        assert np.abs(session.run(images) - expected).max() < 0.01 * np.ptp(expected)


def test_two_builds_are_equal_to_the_byte(tmp_path):
    first, second, third = (build(tmp_path, name) for name in ("first", "second", "third"))
    assert first.digest == second.digest == third.digest


def test_the_canonical_file_answers_to_the_bit_as_the_saved_one_does(tmp_path):
    exported = export(tmp_path, cifar(20), 32, "unsigned")
    saved = save_ort(tmp_path, exported.model.path, "saved.ort")
    (tmp_path / "canonical.ort").write_bytes(canonical(saved))
    images = random_images(2, 32, seed=4)
    answers = [
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(
            None, {"image": images}
        )
        for name in ("saved.ort", "canonical.ort")
    ]
    np.testing.assert_array_equal(*answers)
    assert operators(canonical(saved)) == operators(saved)


def test_canonical_form_is_idempotent_and_independent_of_hash_order(tmp_path):
    exported = export(tmp_path, tiny(), 32, "unsigned")
    saved = {save_ort(tmp_path, exported.model.path, f"{index}.ort") for index in range(4)}
    made = {canonical(data) for data in saved}
    assert len(made) == 1
    assert {canonical(data) for data in made} == made


def test_required_operators_are_sorted_and_counted_once():
    found = [OrtOperator("b", 2, "Z"), OrtOperator("a", 13, "Y"), OrtOperator("a", 13, "X"), OrtOperator("a", 13, "Y")]
    assert required_operators(found) == "a;13;X,Y\nb;2;Z\n"


def test_a_flipped_byte_is_caught(tmp_path):
    engine = build(tmp_path)
    path = engine.files["model.ort"].path
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(StageError, match=r"model\.ort changed"), OnnxRuntimeMobile().engine_session(engine, ANDROID):
        pass
