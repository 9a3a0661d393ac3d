"""Graphs of uint8 pixels answer as the graphs of normalised float images that they come from, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.bundle.write import golden_inputs
from edgeres.backends.registry import find_backend
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.latency.random_model import random_model
from edgeres.lint.linter import lint
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.operator_counts import macs, peak_bytes
from edgeres.onnx_graph.pixel_input import with_pixel_input
from edgeres.pipeline.plan import prepare
from edgeres.pipeline.request import Request
from edgeres.progress import Silent
from edgeres.targets.target import find_target

SIZE = Size(20, 28)
BLOCKS = ((Block(inner=(16,), out=16),), (Block(inner=(32,), out=32, stride=2, projected=True),))
SPEC = ResNetSpec(kind="basic", stem=Stem(width=16, kernel=3, stride=1, pool=True), stages=BLOCKS, classes=10)


def transforms(channels="rgb", layout="nchw"):
    """Preprocessing of normalised float images, and of pixels."""
    count = {"grey": 1, "bands": 4}.get(channels, 3)
    mean, std = tuple(0.1 + 0.13 * i for i in range(count)), tuple(0.2 + 0.03 * i for i in range(count))
    usual = replace(Preprocess.usual(count), channels=channels, resize=SIZE, crop=SIZE, mean=mean, std=std)
    return usual, replace(usual, input="uint8", layout=layout)


def pictures(mode, count=6):
    random = np.random.default_rng(0)
    shape = (30, 40, 4)
    return [Image.fromarray(random.integers(0, 256, shape, np.uint8), "RGBA").convert(mode) for _ in range(count)]


@pytest.mark.parametrize("variant", ["float", "int8"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("channels", "mode"), [("rgb", "RGB"), ("bgr", "RGB"), ("grey", "L"), ("bands", "RGBA")])
def test_pixels_give_the_same_logits_to_the_last_bit(channels, mode, layout, variant):
    normalised, pixels = transforms(channels, layout)
    model = random_model(replace(SPEC, channels=normalised.count), SIZE, find_target("x86"))[variant]
    images = [np.stack([one.apply(image) for image in pictures(mode)]) for one in (normalised, pixels)]
    assert images[1].dtype == np.uint8
    changed = with_pixel_input(model, pixels)
    before, after = (
        runner(graph, optimise=False)(batch) for graph, batch in ((model, images[0]), (changed, images[1]))
    )
    np.testing.assert_array_equal(before, after)
    assert macs(changed) == macs(model)
    assert peak_bytes(changed) > 0


def test_a_wrong_mean_is_seen():
    normalised, pixels = transforms()
    model = random_model(SPEC, SIZE, find_target("x86"))["float"]
    wrong = with_pixel_input(model, replace(pixels, mean=(0.9, 0.23, 0.37)))
    images = [np.stack([one.apply(image) for image in pictures("RGB")]) for one in (normalised, pixels)]
    assert np.abs(runner(model)(images[0]) - runner(wrong)(images[1])).max() > 1e-5


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", ["cpu", "x86"])
def test_runtimes_for_cpus_take_pixels(name, layout, tmp_path):
    target, (_, pixels) = find_target(name), transforms(layout=layout)
    backend = find_backend(target.backend)
    if backend.missing():
        pytest.skip("the runtime is not installed")
    models = {kind: with_pixel_input(one, pixels) for kind, one in random_model(SPEC, SIZE, target).items()}
    assert not [finding for finding in lint(models["int8"], target) if finding.severity == "E"]
    files = {kind: File.written(one, tmp_path / f"{kind}.onnx") for kind, one in models.items()}
    exported = Exported(ModelMetadata(name="n", preprocess=pixels, classes=()), files["int8"], files["float"])
    (tmp_path / "engine").mkdir()
    engine = backend.build(exported, target, tmp_path / "engine", Silent())
    images = np.stack([pixels.apply(image) for image in pictures("RGB")])
    expected = runner(models["int8"], optimise=False)(images)
    with backend.engine_session(engine, target, threads=1) as session:
        found = session.run(images)
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


def test_golden_inputs_are_pixels_in_the_layout_of_the_network():
    for layout, shape in (("nchw", (8, 3, 20, 28)), ("nhwc", (8, 20, 28, 3))):
        images = golden_inputs(transforms(layout=layout)[1], 3, *SIZE)
        assert (images.dtype, images.shape) == (np.uint8, shape)
        assert images.max() > 200


@pytest.mark.parametrize("name", ["cpu:litert", "cpu:executorch", "jetson-nano", "jetson-orin-nano:jp5.0.2"])
def test_targets_without_uint8_inputs_are_refused_before_any_work(name):
    request = Request(model="resnet20", target=name, changes=("export.input=uint8",))
    with pytest.raises(UsageError, match=r"takes no uint8 pixels.*leave --input uint8 out"):
        prepare(request)
