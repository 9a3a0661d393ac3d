"""Networks for images that are not square or have other channels than three, built by each runtime for CPUs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from drawn_networks import reference, tiny

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.registry import find_backend
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.latency.random_model import random_model
from edgeres.lint.linter import lowered
from edgeres.progress import Silent
from edgeres.targets.target import find_target


@pytest.mark.parametrize(("channels", "size"), [(3, Size(24, 40)), (1, Size(40, 24)), (4, Size(32, 32))])
@pytest.mark.parametrize("name", ["cpu", "x86", "cpu:litert", "cpu:executorch"])
def test_every_runtime_takes_other_channels_and_images_that_are_not_square(name, channels, size, tmp_path):
    target = find_target(name)
    backend = find_backend(target.backend)
    if backend.missing():
        pytest.skip("the runtime is not installed")
    models = random_model(replace(tiny(), channels=channels), size, target)
    model, _ = lowered(models["int8"], target.runtime)
    files = {kind: File.written(one, tmp_path / f"{kind}.onnx") for kind, one in (("int8", model), *models.items())}
    preprocess = replace(Preprocess.usual(channels), resize=size, crop=size)
    metadata = ModelMetadata(name="tiny", preprocess=preprocess, classes=())
    exported = Exported(metadata, File.written(model, tmp_path / "model.onnx"), files["float"])
    (tmp_path / "engine").mkdir()
    engine = backend.build(exported, target, tmp_path / "engine", Silent())
    images = np.random.default_rng(0).standard_normal((3, channels, *size)).astype(np.float32)
    expected = reference(exported.model.path, images)
    with backend.engine_session(engine, target, threads=1) as session:
        found = session.run(images)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
    shape = [dim.dim_value for dim in onnx.load(exported.model.path).graph.input[0].type.tensor_type.shape.dim]
    assert shape[1:] == [channels, *size]
