from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import RecipeError, StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import PRESETS
from edgeres.model.pruning.coupling import channels, coupling_groups, sliced
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.pipeline.stages.prune import Prune, compensation, look, magnitude
from edgeres.pipeline.stages.stage import Context
from edgeres.quant.quant_table import QuantTable
from edgeres.settings import plain
from edgeres.targets.target import find_target

SIDE = 16
SPEC = replace(PRESETS["resnet20_b"], norm=False)


def random_weights(spec, seed=0):
    """Weights whose every number matters."""
    random, arrays = np.random.default_rng(seed), {}
    for key, shape in graph(spec).parameters.items():
        values = random.normal(size=shape) / max(1.0, np.sqrt(np.prod(shape[1:])))
        positive = key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight"))
        arrays[key] = np.abs(values) + 0.5 if positive else values
    return Weights(arrays)


def images(count, seed=0, side=SIDE):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32))


def logits(spec, weights, x):
    with torch.no_grad():
        return Network(graph(spec), weights).eval()(x)


@pytest.fixture
def dense():
    metadata = ModelMetadata(
        name="resnet20_b", preprocess=Preprocess(resize=SIDE, crop=SIDE), classes=tuple("abcdefghij")
    )
    return Checkpoint(metadata, SPEC, random_weights(SPEC))


@pytest.fixture
def context(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8)
    split = Split("calibration", tuple(ArrayImage(array, "memory") for array in pixels), tuple(range(12)))
    return Context(find_target("jetson"), split, split, split, split, ("a",), 0, tmp_path, tmp_path)


def seen(context):
    """The context as the pipeline shows it to the stage."""
    return context.view(Prune.reads)


def bottleneck(norm=False):
    stages = ((Block(inner=(8, 8), out=16, projected=True), Block(inner=(8, 8), out=16)),)
    stem = Stem(width=8, kernel=3, stride=1, pool=False)
    return ResNetSpec(kind="bottleneck", stem=stem, stages=stages, classes=4, norm=norm)


@pytest.mark.parametrize("importance", ["fisher", "l2"])
def test_a_pruned_network_is_narrower_and_inside_its_macs(dense, context, importance):
    before = dense.digest
    pruned = Prune(macs=0.6, importance=importance)(dense, seen(context))
    kept = macs(graph(pruned.spec), SIDE, SIDE) / macs(graph(SPEC), SIDE, SIDE)
    step = pruned.metadata.lineage[-1]
    assert kept <= 0.6
    assert plain(step.metrics) == {
        "macs": macs(graph(pruned.spec), SIDE, SIDE),
        "parameters": parameters(graph(pruned.spec)),
        "macs_removed": pytest.approx(1 - kept),
    }
    assert logits(pruned.spec, pruned.weights, images(2)).shape == (2, 10)
    widths = [width for _, _, block in pruned.spec.blocks for width in (*block.inner, block.out)]
    assert all(width % 16 == 0 for width in widths)
    assert pruned.teacher is dense
    assert dense.digest == before


def test_the_same_input_gives_the_same_network(dense, context):
    assert Prune()(dense, seen(context)).digest == Prune()(dense, seen(context)).digest


def test_a_second_pruning_keeps_the_first_teacher(dense, context):
    once = Prune(macs=0.8)(dense, seen(context))
    assert Prune(macs=0.9)(once, seen(context)).teacher is dense


def test_all_macs_may_stay(dense, context):
    whole = Prune(macs=1.0)(dense, seen(context))
    assert whole.spec == dense.spec
    assert whole.weights.digest == dense.weights.digest


def test_streams_stay_when_told_to(dense, context):
    pruned = Prune(macs=0.7, residual=False)(dense, seen(context))
    assert [stage[-1].out for stage in pruned.spec.stages] == [16, 32, 64]


def test_a_target_without_integers_gets_multiples_of_eight(dense, context):
    plain_target = replace(context, target=replace(context.target, scheme=None))
    pruned = Prune(macs=0.5, minimum=0.1)(dense, seen(plain_target))
    widths = {width for _, _, block in pruned.spec.blocks for width in block.inner}
    assert any(width % 16 for width in widths)
    assert all(width % 8 == 0 for width in widths)


def test_macs_out_of_reach_name_the_least_there_is(dense, context):
    with pytest.raises(StageError, match=r"0\.01 of the MACs is out of reach, 0\.\d+ is the least") as failure:
        Prune(macs=0.01)(dense, seen(context))
    least = float(str(failure.value).split("reach, ")[1].split()[0])
    assert Prune(macs=least + 0.001)(dense, seen(context)).metadata.lineage[-1].metrics.macs_removed < 1 - least + 0.001


def halves_unread(dense):
    """The network with half of each inner width unread, so that those channels go for nothing."""
    arrays = dict(dense.weights)
    for name, _, block in SPEC.blocks:
        arrays[f"{name}.conv2.weight"] = np.array(arrays[f"{name}.conv2.weight"])
        arrays[f"{name}.conv2.weight"][:, : block.inner[0] // 2] = 0
    return replace(dense, weights=dense.weights.replaced(arrays))


def test_no_more_is_removed_than_its_estimated_cost_allows(dense, context):
    """Unread halves go for nothing, and the walk stops where channels that matter would have to go."""
    known = halves_unread(dense)
    pruned = Prune(macs=0.5, max_kl=1e-9)(known, seen(context))
    kept = macs(graph(pruned.spec), SIDE, SIDE) / macs(graph(SPEC), SIDE, SIDE)
    assert 0.5 < kept < 0.75
    assert "50% of the MACs were asked for" in pruned.metadata.lineage[-1].notes[1]
    assert "max_kl allows 1e-09" in pruned.metadata.lineage[-1].notes[1]
    x = images(3)
    torch.testing.assert_close(logits(pruned.spec, pruned.weights, x), logits(SPEC, known.weights, x))
    enough = Prune(macs=0.8, max_kl=1e-9)(known, seen(context))
    assert macs(graph(enough.spec), SIDE, SIDE) <= 0.8 * macs(graph(SPEC), SIDE, SIDE)
    assert len(enough.metadata.lineage[-1].notes) == 1


def test_a_network_of_which_every_channel_matters_stays_whole(dense, context):
    whole = Prune(macs=0.65, max_kl=1e-9)(dense, seen(context))
    assert whole.spec == dense.spec
    assert whole.weights.digest == dense.weights.digest
    note = whole.metadata.lineage[-1].notes[1]
    assert "65% of the MACs were asked for" in note
    assert "prune.max_kl=null" in note
    assert whole.metadata.lineage[-1].shown == (note,)


def test_little_gain_is_not_worth_a_recovery(dense, context):
    """A quarter of the saving that was asked for is free; the network stays whole all the same."""
    arrays = dict(dense.weights)
    arrays["layer3.2.conv2.weight"] = np.array(arrays["layer3.2.conv2.weight"])
    arrays["layer3.2.conv2.weight"][:, :32] = 0
    free = replace(dense, weights=dense.weights.replaced(arrays))
    assert Prune(macs=0.97, max_kl=1e-9)(free, seen(context)).spec != SPEC
    assert Prune(macs=0.6, max_kl=1e-9)(free, seen(context)).spec == SPEC


def test_an_estimate_needs_the_importance_that_makes_it(dense, context):
    with pytest.raises(RecipeError, match="importance: fisher"):
        Prune(importance="l2", max_kl=0.01)(dense, seen(context))


def test_a_quantized_network_is_refused(dense, context):
    table = QuantTable(activations={}, weights={}, calibrator="mse", data="", images=0)
    with pytest.raises(StageError, match="prune before quantize"):
        Prune()(replace(dense, quant=table), seen(context))


def test_no_images_are_refused_where_they_are_needed(dense, context):
    empty = replace(context, calibration=context.calibration.take([]))
    with pytest.raises(StageError, match="no calibration images"):
        Prune()(dense, seen(empty))
    assert Prune(importance="l2", compensate=False)(dense, seen(empty)).teacher is dense


@pytest.mark.parametrize(
    "bad", [{"macs": 0.0}, {"macs": 1.1}, {"minimum": -0.1}, {"images": 0}, {"importance": "x"}, {"max_kl": 0}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        Prune(**bad)


def test_channels_nobody_listens_to_go_first_and_take_nothing_along(dense, context):
    """Half of each inner width has outgoing weights of zero: they go, and the logits stay."""
    arrays, silent = dict(dense.weights), {}
    random = np.random.default_rng(3)
    for name, _, block in SPEC.blocks:
        gone = random.permutation(block.inner[0])[: block.inner[0] // 2]
        silent[f"{name}.conv1"] = set(gone.tolist())
        arrays[f"{name}.conv2.weight"] = np.array(arrays[f"{name}.conv2.weight"])
        arrays[f"{name}.conv2.weight"][:, gone] = 0
    deaf = replace(dense, weights=dense.weights.replaced(arrays))
    pruned = Prune(macs=0.8)(deaf, seen(context))
    x = images(3)
    torch.testing.assert_close(
        logits(pruned.spec, pruned.weights, x), logits(SPEC, deaf.weights, x), atol=1e-4, rtol=1e-4
    )
    assert pruned.spec != SPEC


def test_fisher_is_the_diagonal_of_the_gauss_newton_matrix():
    spec = bottleneck()
    weights = random_weights(spec, 1)
    image = images(1, 5, side=6)
    group = next(group for group in coupling_groups(spec) if group.name == "layer1.0.conv3")

    class Scaled(Network):
        """The same definition, spelt out: one factor per channel of a stream, where anything weighted reads it."""

        def read(self, op, index, values):
            x = super().read(op, index, values)
            if op.kind in ("conv", "linear") and op.inputs[index] in group.tensors:
                return x * self.factor.reshape(1, -1, *([1] * (x.ndim - 2)))
            return x

    network = Scaled(graph(spec), weights).eval()

    def by_factor(factor):
        network.factor = factor
        return network(image)[0]

    jacobian = torch.autograd.functional.jacobian(by_factor, torch.ones(16))
    p = by_factor(torch.ones(16)).detach().softmax(0)
    curvature = torch.diag(p) - torch.outer(p, p)
    exact = (jacobian.T @ curvature @ jacobian).diagonal().numpy()
    drawn = look(spec, weights, iter([image.expand(3000, -1, -1, -1)]), 0, curvature=True).fisher[group.name]
    np.testing.assert_allclose(drawn, exact, rtol=0.15)


def test_half_the_importance_of_a_channel_is_the_divergence_its_removal_costs():
    """To second order, so for a channel whose weights are small."""
    spec = bottleneck()
    arrays = dict(random_weights(spec, 2))
    key = "layer1.1.conv3.weight"
    arrays[key] = np.array(arrays[key])
    arrays[key][:, 3] *= 0.05
    weights = random_weights(spec, 2).replaced(arrays)
    x = images(400, 7, side=4)
    found = look(spec, weights, iter([x]), 0, curvature=True).fisher["layer1.1.conv2"][3] / 2
    keep = [unit for unit in range(8) if unit != 3]
    before = logits(spec, weights, x).log_softmax(1)
    after = logits(*sliced(spec, weights, {"layer1.1.conv2": keep}), x).log_softmax(1)
    divergence = float((before.exp() * (before - after)).sum(1).mean())
    assert found == pytest.approx(divergence, rel=0.3)


def test_means_are_those_of_the_tensors_that_are_read():
    spec = bottleneck()
    weights, x, taps = random_weights(spec), images(5, side=6), {}
    with torch.no_grad():
        Network(graph(spec), weights).eval()(x, taps.__setitem__)
    batched = look(spec, weights, iter([x[:2], x[2:]]), 0, curvature=False)
    expected = taps["layer1.0.relu1"].mean((0, 2, 3)).numpy()
    np.testing.assert_allclose(batched.means["layer1.0.conv2"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(batched.means["fc"], taps["flatten"].mean(0).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_a_constant_channel_is_made_up_for_exactly(norm):
    """Channels that always say the same are read by a 1x1 convolution: its bias, or the norm behind, replaces them."""
    spec = bottleneck(norm)
    arrays, gone = {key: np.array(array) for key, array in random_weights(spec, 4).items()}, [1, 4, 6]
    arrays["layer1.0.conv2.weight"][gone] = 0
    arrays["layer1.0.bn2.bias" if norm else "layer1.0.conv2.bias"][gone] = 1.5
    weights = random_weights(spec, 4).replaced(arrays)
    keep = {"layer1.0.conv2": tuple(unit for unit in range(8) if unit not in gone)}
    x = images(3, side=6)
    means = look(spec, weights, iter([x]), 0, curvature=False).means
    changes = compensation(spec, weights, means, keep)
    assert set(changes) == {"layer1.0.bn3.running_mean" if norm else "layer1.0.conv3.bias"}
    original = logits(spec, weights, x)
    made_up = logits(*sliced(spec, weights.replaced(changes), keep), x)
    torch.testing.assert_close(made_up, original, atol=1e-4, rtol=1e-4)
    assert (logits(*sliced(spec, weights, keep), x) - original).abs().max() > 0.01


def test_a_convolution_without_bias_and_norm_is_left_alone():
    spec = replace(bottleneck(), preactivation=True)
    weights = random_weights(spec)
    means = look(spec, weights, iter([images(2, side=6)]), 0, curvature=False).means
    keep = {"layer1.0.conv1": tuple(range(4)), "layer1.0.conv2": tuple(range(4))}
    assert set(compensation(spec, weights, means, keep)) == {"layer1.0.conv2.bias"}


def test_magnitude_is_the_share_of_each_coupled_weight():
    spec = bottleneck()
    weights = random_weights(spec)
    found = magnitude(spec, weights)
    out = np.square(weights["layer1.0.conv1.weight"]).reshape(8, -1).sum(1)
    into = np.square(weights["layer1.0.conv2.weight"]).sum((0, 2, 3))
    np.testing.assert_allclose(found["layer1.0.conv1"], out / out.sum() + into / into.sum(), rtol=1e-5)
    members = next(group for group in coupling_groups(spec) if group.name == "layer1.0.conv3").members
    assert found["layer1.0.conv3"].sum() == pytest.approx(len(members))


def test_grouped_and_gated_networks_are_pruned_by_the_same_stage(context):
    stages = (
        (Block(inner=(32, 32), out=32, groups=8, projected=True, squeeze=8),),
        (Block(inner=(64, 64), out=64, groups=8, stride=2, projected=True, squeeze=8),),
    )
    stem = Stem(width=16, kernel=3, stride=1, pool=False)
    spec = ResNetSpec(kind="bottleneck", stem=stem, stages=stages, classes=4, norm=True)
    metadata = ModelMetadata(name="x", preprocess=Preprocess(resize=SIDE, crop=SIDE), classes=tuple("abcd"))
    pruned = Prune(macs=0.6)(Checkpoint(metadata, spec, random_weights(spec)), seen(context))
    for (_, _, block), (_, _, old) in zip(pruned.spec.blocks, spec.blocks, strict=True):
        assert block.inner[0] // block.groups == old.inner[0] // old.groups
    assert logits(pruned.spec, pruned.weights, images(2)).shape == (2, 4)


def test_units_become_neighbouring_channels():
    assert channels([0, 2], 3).tolist() == [0, 1, 2, 6, 7, 8]


def test_images_are_spread_over_the_split(dense, context, monkeypatch):
    taken = []
    take = Split.take
    monkeypatch.setattr(
        Split, "take", lambda split, indices, name=None: (taken.extend(indices), take(split, indices))[1]
    )
    Prune(images=4, macs=0.8)(dense, seen(context))
    assert taken == [0, 3, 6, 9]
