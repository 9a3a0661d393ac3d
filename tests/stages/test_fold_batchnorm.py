"""Folding changes the form of a network and not its answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_networks import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.pipeline.stages import fold_batchnorm as module
from edgeres.pipeline.stages.fold_batchnorm import TOLERANCE, FoldBatchnorm, folded
from edgeres.pipeline.stages.stage import Context
from edgeres.targets.target import find_target

PREPROCESS = Preprocess(resize=0, crop=16)


def drawn(spec: ResNetSpec, seed: int = 0) -> Weights:
    """Random weights with random statistics."""
    random = np.random.default_rng(seed)
    arrays = {}
    for key, shape in graph(spec).parameters.items():
        if key.endswith("running_var"):
            arrays[key] = random.uniform(0.3, 3, shape)
        elif len(shape) > 1:
            arrays[key] = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            arrays[key] = random.uniform(0.4, 1.2, shape) * random.choice([-1, 1], shape)
    return Weights(arrays)


def context(tmp_path) -> Context:
    random = np.random.default_rng(1)
    images = tuple(ArrayImage(random.integers(0, 256, (16, 16, 3), np.uint8), f"noise {i}") for i in range(70))
    split = Split("calibration", images, (-1,) * 70)
    whole = Context(find_target("cpu"), split, split, split, split, ("a", "b"), 0, tmp_path, tmp_path)
    return whole.view(FoldBatchnorm.reads)


def checkpoint(spec: ResNetSpec, seed: int = 0) -> Checkpoint:
    return Checkpoint(ModelMetadata(name="drawn", preprocess=PREPROCESS, classes=("a", "b")), spec, drawn(spec, seed))


def thin(preactivation: bool = False) -> ResNetSpec:
    return ResNetSpec(
        kind="bottleneck",
        stem=Stem(width=6, kernel=3, stride=1, pool=False),
        stages=(
            (Block(inner=(4, 6), out=8, groups=2, projected=True, squeeze=2), Block(inner=(3, 5), out=8)),
            (Block(inner=(5, 4), out=10, stride=2, projected=True),),
        ),
        classes=2,
        preactivation=preactivation,
    )


@pytest.mark.parametrize("preactivation", [False, True])
def test_logits_stay_and_the_delta_is_recorded(preactivation, tmp_path):
    before = checkpoint(thin(preactivation))
    digest = before.digest
    after = FoldBatchnorm()(before, context(tmp_path))
    assert before.digest == digest
    assert not after.spec.norm
    assert set(after.weights) == set(graph(after.spec).parameters)
    (step,) = after.metadata.lineage
    assert step.stage == "fold_batchnorm"
    assert 0 < step.metrics.max_abs_delta_logit <= TOLERANCE * step.metrics.logit_range / 50
    images = np.random.default_rng(2).normal(size=(3, 3, 16, 16)).astype(np.float32)
    expected = Network(graph(before.spec), before.weights).logits(images)
    found = Network(graph(after.spec), after.weights).logits(images)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_norm_between_the_pool_and_a_hidden_layer_folds_forwards():
    spec = replace(NETWORKS["classifier of two layers"], norm=True)
    weights = drawn(spec)
    bare, after = folded(spec, weights)
    assert not [op for op in graph(bare).ops if op.kind == "norm"]
    images = np.random.default_rng(2).normal(size=(3, 3, 16, 16)).astype(np.float32)
    expected = Network(graph(spec), weights).logits(images)
    assert np.abs(Network(graph(bare), after).logits(images) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_formula_by_hand():
    """One channel: s = 3 / sqrt(4 + eps), W' = 2 s, b' = 0.5 - 7 s."""
    spec = ResNetSpec(
        kind="basic", stem=Stem(width=1, kernel=1, pool=False), stages=((Block(inner=(1,), out=1),),), classes=2
    )
    values = {"weight": 3.0, "bias": 0.5, "running_mean": 7.0, "running_var": 4.0}
    arrays = {key: np.ones(shape) for key, shape in graph(spec).parameters.items()}
    arrays |= {f"bn1.{key}": np.array([value]) for key, value in values.items()}
    arrays["conv1.weight"] = np.full((1, 3, 1, 1), 2.0)
    bare, weights = folded(spec, Weights(arrays))
    scale = 3 / np.sqrt(4 + 1e-5)
    assert weights["conv1.weight"].ravel() == pytest.approx(2 * scale, rel=1e-7)
    assert weights["conv1.bias"] == pytest.approx(0.5 - 7 * scale, rel=1e-7)
    assert not bare.norm


def test_preactivation_keeps_the_norms_behind_adds():
    spec = preset("resnetv2_18")
    network = replace(spec, stages=tuple(stage[:1] for stage in spec.stages), classes=2)
    weights = drawn(network)
    _, after = folded(network, weights)
    for key in ("layer1.0.bn1.running_var", "layer3.0.bn1.weight", "norm.bias"):
        assert np.array_equal(after[key], weights[key])
    assert not [key for key in after if ".bn2." in key]


def test_folded_networks_pass_through_with_a_note(tmp_path):
    once = FoldBatchnorm()(checkpoint(thin()), context(tmp_path))
    twice = FoldBatchnorm()(once, context(tmp_path))
    assert twice.weights.digest == once.weights.digest
    assert twice.metadata.lineage[-1].notes == ("batch norms were folded before: nothing to do",)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), preactivation=st.booleans())
def test_any_statistics_fold(seed, preactivation):
    spec = thin(preactivation)
    weights = drawn(spec, seed)
    bare, after = folded(spec, weights)
    images = np.random.default_rng(seed).normal(size=(2, 3, 12, 12)).astype(np.float32)
    expected = Network(graph(spec), weights).logits(images)
    assert np.abs(Network(graph(bare), after).logits(images) - expected).max() <= TOLERANCE * np.ptp(expected) / 10


def swap_gains(spec, weights):
    """Folds with the gains of two channels of one norm exchanged."""
    gains = weights["layer1.1.bn1.weight"].copy()
    gains[[0, 1]] = gains[[1, 0]]
    return folded(spec, weights.replaced({"layer1.1.bn1.weight": gains}))


def forget_mean(spec, weights):
    """Folds as if one norm had no running mean."""
    return folded(spec, weights.replaced({"bn1.running_mean": np.zeros(6)}))


def lose_epsilon(spec, weights):
    """Folds with a variance that is half the right one in one channel."""
    variance = weights["layer2.0.bn2.running_var"].copy()
    variance[0] *= 0.5
    return folded(spec, weights.replaced({"layer2.0.bn2.running_var": variance}))


def not_a_number(spec, weights):
    bare, after = folded(spec, weights)
    return bare, after.replaced({"fc.bias": np.full(2, np.nan)})


@pytest.mark.parametrize("mutant", [swap_gains, forget_mean, lose_epsilon, not_a_number])
def test_a_wrong_fold_is_noticed(mutant, tmp_path, monkeypatch):
    before = checkpoint(thin())
    monkeypatch.setattr(module, "folded", mutant)
    with pytest.raises(StageError, match="moved a logit by"):
        FoldBatchnorm()(before, context(tmp_path))


def test_a_deep_network_stays_far_below_the_tolerance(tmp_path):
    torch.manual_seed(0)
    spec = replace(preset("resnet56"), classes=2)
    network = Network(graph(spec))
    for op in network.graph.ops:
        if op.kind == "norm":
            torch.nn.init.uniform_(network.get_parameter(f"{op.name}.weight"), 0.2, 0.9)
    network.train()(torch.randn(8, 3, 16, 16))
    before = Checkpoint(ModelMetadata(name="deep", preprocess=PREPROCESS, classes=("a", "b")), spec, network.weights())
    (step,) = FoldBatchnorm()(before, context(tmp_path)).metadata.lineage
    assert step.metrics.max_abs_delta_logit <= TOLERANCE / 10 * step.metrics.logit_range
    assert step.metrics.folded == 55
