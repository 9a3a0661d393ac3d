"""Every family of networks, thin, through every stage that follows training, under both kinds of scheme."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from random_weights import random_weights

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.data.dataset import open_dataset
from edgeres.data.preprocess import Preprocess
from edgeres.model.presets import preset
from edgeres.onnx_graph import operator_counts
from edgeres.pipeline.stages.build import Build
from edgeres.pipeline.stages.evaluate import Evaluate
from edgeres.pipeline.stages.export import Export
from edgeres.pipeline.stages.fold_batchnorm import FoldBatchnorm
from edgeres.pipeline.stages.prune import Prune
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.recover import Recover
from edgeres.pipeline.stages.stage import Context
from edgeres.pipeline.stages.verify import Verify
from edgeres.targets.target import find_target

pytestmark = pytest.mark.slow

STAGES = (
    Evaluate(),
    FoldBatchnorm(),
    Prune(macs=0.9, images=16),
    Recover(epochs=1),
    Quantize(),
    Export(),
    Build(),
    Verify(seconds=0.05),
)
FAMILIES = ("resnet50", "resnet50_v1", "seresnet18", "resnetv2_50", "resnext50_32x4d", "resnet20_b")


def thin(name):
    """A preset with one block a stage and an eighth of its widths; groups stay whole."""
    spec = preset(name)
    share = 8 if spec.stem.pool else 1

    def block(given):
        inner = given.inner if given.groups > 1 else tuple(width // share for width in given.inner)
        squeeze = 2 if given.squeeze else 0
        return replace(given, inner=inner, out=given.out // share, squeeze=squeeze)

    stages = tuple((block(stage[0]),) for stage in spec.stages)
    return replace(spec, stem=replace(spec.stem, width=spec.stem.width // share), stages=stages, classes=10)


@pytest.fixture(scope="module")
def data():
    return open_dataset(None, seed=0, calibration=32, allow=frozenset())


@pytest.mark.parametrize("target", ["jetson", "cpu"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_every_stage(data, tmp_path, name, target):
    spec, side = thin(name), 16
    context = Context(
        target=find_target(target),
        train=data.train.take(range(32)),
        calibration=data.calibration.take(range(16)),
        tuning=data.tuning.take(range(16)),
        validation=data.validation.take(range(24)),
        classes=data.classes,
        seed=0,
        workspace=Path(),
        scratch=Path(),
    )
    metadata = ModelMetadata(name=name, preprocess=Preprocess(resize=side, crop=side), classes=data.classes)
    made = Checkpoint(metadata, spec, random_weights(spec))
    for stage in STAGES:
        place = tmp_path / stage.name
        place.mkdir()
        made = stage(made, replace(context, workspace=place, scratch=place).view(stage.reads))
    rows = {step.stage: step.metrics for step in made.metadata.lineage}
    model = onnx.load(made.engine.exported.model.path)
    counted = operator_counts.qdq(model)
    assert rows["fold_batchnorm"].max_abs_delta_logit < 1e-2
    assert operator_counts.macs(model) == rows["prune"].macs <= 0.9 * rows["evaluate"].macs
    assert counted.activations == rows["quantize"].activation_quantizers
    assert counted.weights == rows["quantize"].integer_weights == made.kernels.integer
    assert rows["quantize"].sqnr_db > 15
    same = sum(a == b for a, b in zip(made.predictions, made.float_predictions, strict=True))
    assert same >= 20  # of 24: what ships answers as its float twin does
