"""Accuracy recovery on small real networks: planted defects are found and repaired, by the technique for them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from random_weights import random_weights

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.data.split import Split
from edgeres.errors import StageError
from edgeres.gate.paired_test import Outcome
from edgeres.metrics import kl
from edgeres.model.cost import macs
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.sensitivity import Sensitivity
from edgeres.pipeline.stages.stage import Context
from edgeres.progress import Silent
from edgeres.quant.algorithms.channel_scaling import channel_units, rescaled, tensor_scales
from edgeres.quant.quantized import Quantized
from edgeres.recovery.context import Candidate, FloatLayers, QuantizationContext, Tried
from edgeres.recovery.evaluator import Evaluator
from edgeres.recovery.layer_sensitivity import layer_noise, most_sensitive, passes
from edgeres.recovery.registry import TECHNIQUES, chain
from edgeres.recovery.search import Policy, Search, notes, search, technique_results
from edgeres.recovery.technique import Refusal
from edgeres.recovery.techniques.bias_correction import BiasCorrection
from edgeres.recovery.techniques.block_reconstruction import BlockReconstruction
from edgeres.recovery.techniques.calibrate import Calibrate
from edgeres.recovery.techniques.equalization import Equalization
from edgeres.recovery.techniques.first_layer import FirstLayer
from edgeres.recovery.techniques.gptq import Gptq, solving
from edgeres.recovery.techniques.mixed_precision import MixedPrecision
from edgeres.recovery.techniques.nncf import Nncf
from edgeres.targets.target import find_target
from edgeres.tasks.kinds.classification import Classification

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(resize=12, crop=12)
CLASSES = ("a", "b", "c", "d")
JETSON = find_target("jetson")


def spec_of_four():
    stages = ((Block(inner=(12,), out=12),), (Block(inner=(16,), out=16, stride=2, projected=True),))
    return ResNetSpec(
        kind="basic", stem=Stem(width=12, kernel=3, stride=1, pool=False), stages=stages, classes=4, norm=False
    )


def split_of(name, count, seed, labels=None):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    images = tuple(ArrayImage(array, f"{name} {place}") for place, array in enumerate(pixels))
    return Split(name, images, tuple(labels) if labels is not None else (0,) * count)


class Untouchable:
    """A split that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"touched validation.{name}")

    def __len__(self):
        raise AssertionError("counted validation")


@pytest.fixture(scope="module")
def spec():
    return spec_of_four()


@pytest.fixture(scope="module")
def weights(spec):
    """Random, with a classifier that spreads its answers over the classes."""
    made = random_weights(spec)
    images = np.concatenate([batch for batch, _ in split_of("x", 64, 9).batches(PREPROCESS)])
    logits = Network(graph(spec), made).eval().logits(images)
    gain = 3 / logits.std(0).mean()
    return made.replaced({"fc.weight": made["fc.weight"] * gain, "fc.bias": (made["fc.bias"] - logits.mean(0)) * gain})


def tuned(spec, weights, count=300):
    """Images that float is sure of, with its answers as labels: a changed answer is a loss, and none is by chance."""
    blank = split_of("tuning", 3 * count, 2)
    images = np.concatenate([batch for batch, _ in blank.batches(PREPROCESS)])
    logits = Network(graph(spec), weights).eval().logits(images)
    lead = np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0]
    labelled = replace(blank, labels=tuple(logits.argmax(1).tolist()))
    return labelled.take(sorted(np.argsort(-lead)[:count].tolist()))


def outlier(spec, weights, times=300.0):
    """The same function with one channel of one activation so large that no other survives a scale in common."""
    units = channel_units(graph(spec))
    scales = np.ones(units.count)
    scales[units.of["layer1.0.relu1"][3]] = 1 / times
    return rescaled(graph(spec), weights, tensor_scales(units, scales))


def context_of(spec, weights, margin=1.0, count=300):
    evaluator = Evaluator(
        graph(spec),
        weights,
        tuned(spec, weights, count),
        PREPROCESS,
        task=Classification(),
        margin=margin,
        progress=Silent(),
    )
    return QuantizationContext(
        graph=graph(spec),
        weights=weights,
        scheme=JETSON.scheme,
        calibration=split_of("calibration", 24, 1),
        preprocess=PREPROCESS,
        seed=0,
        evaluator=evaluator,
        progress=Silent(),
    )


def broken(base, layer, times):
    """A candidate in which one layer's weights are rounded to next to nothing."""
    table = base.quantized.table
    params = table.weights[layer]
    worse = replace(params, scale=tuple(np.float32(scale * times).item() for scale in params.scale))
    return replace(
        base, quantized=replace(base.quantized, table=replace(table, weights={**table.weights, layer: worse}))
    )


@pytest.fixture(scope="module")
def quantization(spec, weights):
    return context_of(spec, weights)


@pytest.fixture(scope="module")
def plain(quantization):
    return Calibrate(replace(quantization, calibrator="minmax", weight_method="max")).candidate([], None)


# ---- the evaluator


def test_an_evaluation_is_what_both_networks_answer(quantization, plain):
    images = np.concatenate([batch for batch, _ in quantization.evaluator.split.batches(PREPROCESS)])
    wanted, given = (
        Network(quantization.graph, quantization.weights).logits(images),
        plain.quantized.network().logits(images),
    )
    found = quantization.evaluator.evaluation(plain.quantized, "x")
    same = 100 * float((wanted.argmax(1) == given.argmax(1)).mean())
    assert found.top1 == found.agreement == pytest.approx(same, abs=0.5)
    assert found.drop_pp == pytest.approx(100 - found.top1)
    assert found.kl == pytest.approx(kl(wanted, given), rel=0.05)
    assert found.low_pp < found.drop_pp < found.high_pp
    assert found.integer == 7 - 1 == len(plain.quantized.placement.weighted)  # the classifier stays in float


def test_an_evaluator_without_images_is_refused(spec, weights):
    with pytest.raises(StageError, match="no tuning images"):
        Evaluator(
            graph(spec),
            weights,
            split_of("tuning", 0, 0),
            PREPROCESS,
            task=Classification(),
            margin=1.0,
            progress=Silent(),
        )


def test_a_float_network_of_nans_is_refused(spec, weights):
    bad = weights.replaced({"fc.bias": np.full(4, np.nan, dtype=np.float32)})
    with pytest.raises(StageError, match="NaN"):
        Evaluator(
            graph(spec), bad, split_of("tuning", 4, 0), PREPROCESS, task=Classification(), margin=1.0, progress=Silent()
        )


# ---- planted defects


def test_equalization_repairs_a_channel_that_outshouts_the_others(spec, weights):
    quantization = context_of(spec, outlier(spec, weights))
    timings = {}
    names = ("calibrate", "equalization", "range_search", "bias_correction")
    techniques = [TECHNIQUES[name](quantization) for name in names]
    found = search(techniques, quantization.evaluate, Policy(), timings.__setitem__)
    by_technique = {one.technique: one.evaluation for one in found.tried}
    assert by_technique["calibrate"].outcome is Outcome.FAIL
    assert found.chosen.technique in ("equalization", "range_search", "bias_correction")
    assert "equalization" in found.chosen.candidate.settings
    assert found.chosen.evaluation.kl < by_technique["calibrate"].kl / 20
    assert set(timings) == set(by_technique)


def test_sensitivity_names_the_layer_that_is_broken(quantization, plain):
    rows = layer_noise(broken(plain, "layer2.0.conv1", 90.0), quantization.evaluator)
    assert [row.layer for row in rows] == [
        op.name for op in Network(quantization.graph).graph.weighted if op.name != "fc"
    ]
    assert most_sensitive(rows)[0] == "layer2.0.conv1"
    assert rows[3].kl > 20 * max(row.kl for row in rows if row.layer != "layer2.0.conv1")
    assert rows[3].sqnr_db < 10 < min(row.sqnr_db for row in rows if row.layer != "layer2.0.conv1")


def test_one_layer_alone_is_what_a_network_with_that_layer_alone_computes(quantization, plain):
    """Against the placement with every other layer in float, adds aside, which sensitivity leaves in float."""
    rows = {row.layer: row for row in layer_noise(plain, quantization.evaluator)}
    name = "layer1.0.conv2"
    table = plain.quantized.table
    images = np.concatenate([batch for batch, _ in quantization.evaluator.few.batches(PREPROCESS)])
    rounded = table.weights[name].dequantize(table.weights[name].quantize(quantization.weights[f"{name}.weight"]))

    class Alone(Network):
        def read(self, op, index, values):
            from edgeres.quant.quantized import fake_quantize

            x = super().read(op, index, values)
            return fake_quantize(x, table.activations[op.inputs[0]]) if op.name == name else x

    given = Alone(quantization.graph, quantization.weights.replaced({f"{name}.weight": rounded})).eval().logits(images)
    assert rows[name].kl == pytest.approx(kl(quantization.evaluator.reference[: len(images)], given), rel=1e-3)


def test_passes_count_every_branch_by_its_macs(spec):
    assert passes(graph(spec), frozenset(), Size.square(12)) == 1
    assert (
        passes(graph(spec), frozenset({"conv1"}), Size.square(12)) == 2
    )  # the walk, and a branch of the whole network
    assert 1 < passes(graph(spec), frozenset({"layer2.0.conv2"}), Size.square(12)) < 1.5


def test_mixed_precision_leaves_exactly_the_broken_layer_in_float(quantization, plain):
    base = broken(plain, "layer2.0.conv1", 90.0)
    start = Tried("calibrate", base, quantization.evaluator.evaluation(base.quantized, "x"))
    assert start.evaluation.outcome is Outcome.FAIL
    technique = MixedPrecision(quantization)
    found = technique.candidate([start], start)
    assert found.quantized.table.float_layers == ("layer2.0.conv1",)
    assert isinstance(found.settings["mixed_precision"], FloatLayers)
    assert found.settings["mixed_precision"].float_layers == ("layer2.0.conv1",)
    assert 0 < found.settings["mixed_precision"].float_share_of_macs < 1
    assert quantization.evaluator.evaluation(found.quantized, "x").outcome is Outcome.PASS
    assert technique.sensitivity[3].layer == "layer2.0.conv1"
    assert technique.predicted() > 0


def test_mixed_precision_says_when_no_layer_is_to_blame(quantization, plain):
    table = plain.quantized.table
    coarse = {name: replace(params, scale=(params.scale[0] * 90,)) for name, params in table.activations.items()}
    base = replace(plain, quantized=replace(plain.quantized, table=replace(table, activations=coarse)))
    start = Tried("calibrate", base, quantization.evaluator.evaluation(base.quantized, "x"))
    found = MixedPrecision(quantization).candidate([start], start)
    assert found == Refusal("not even every layer in float meets the limit on the tuning images")


# ---- the stage


@pytest.fixture(scope="module")
def tuning(spec, weights):
    return tuned(spec, weights)


@pytest.fixture
def context(tuning, tmp_path):
    return Context(
        target=JETSON,
        train=Untouchable(),
        calibration=split_of("calibration", 24, 1),
        tuning=tuning,
        validation=Untouchable(),
        classes=CLASSES,
        seed=0,
        margin=1.0,
        workspace=tmp_path,
        scratch=tmp_path,
    )


def checkpoint(spec, weights):
    return Checkpoint(ModelMetadata(name="four", preprocess=PREPROCESS, classes=CLASSES), spec, weights)


def test_search_ends_where_the_divergence_that_is_left_is_negligible(spec, weights, context, monkeypatch):
    monkeypatch.setattr("edgeres.recovery.search.NEGLIGIBLE", 1.0)
    made = Quantize(calibrator="minmax", weights="max")(checkpoint(spec, weights), context.view(Quantize.reads))
    step = made.metadata.lineage[-1]
    assert [technique.name for technique in step.techniques] == list(TECHNIQUES)
    chosen = next(technique for technique in step.techniques if technique.chosen)
    assert chosen.name == "calibrate"
    assert step.metrics.kl == chosen.kl
    assert chosen.kl_low < chosen.kl < chosen.kl_high
    assert all(technique.kl is None and "negligible" in technique.note for technique in step.techniques[1:-2])


def test_search_goes_on_though_the_accuracy_limit_is_met(spec, weights, context):
    made = Quantize(calibrator="minmax", weights="max")(checkpoint(spec, weights), context.view(Quantize.reads))
    techniques = {technique.name: technique for technique in made.metadata.lineage[-1].techniques}
    assert techniques["calibrate"].verdict == "PASS"
    assert all(techniques[name].kl is not None for name in ("equalization", "range_search", "bias_correction", "gptq"))
    assert techniques["block_reconstruction"].note == "left out by --effort default"
    assert next(technique for technique in techniques.values() if technique.chosen).kl < techniques["calibrate"].kl
    assert "accuracy limit is met" in techniques["mixed_precision"].note


def test_first_layer_stays_in_float_where_it_has_few_of_the_macs(quantization, plain, monkeypatch):
    start = Tried("calibrate", plain, quantization.evaluator.evaluation(plain.quantized, "x"))
    refused = FirstLayer(quantization).candidate([start], start)
    assert isinstance(refused, Refusal)
    assert "conv1 has 8.2 % of the MACs, more than 2 %" in refused.why
    monkeypatch.setattr("edgeres.recovery.techniques.first_layer._FEW_MACS", 0.09)
    found = FirstLayer(quantization).candidate([start], start)
    assert found.quantized.table.float_layers == ("conv1",)
    assert "image" not in found.quantized.table.activations
    again = Tried("first_layer", found, start.evaluation)
    assert "in float already" in FirstLayer(quantization).candidate([start, again], again).why
    row = technique_results(Search((start, again), {}, again, again), ("calibrate", "first_layer"))[1]
    assert (row.graph, row.float_layers) == ("first_layer", ("conv1",))
    assert row.note.startswith("in float: conv1 (8.2 % of the MACs)")
    assert any("mixed precision: in float: conv1" in n for n in notes(Search((again,), {}, again, again), 1.0, 24))


def test_effort_bounds_the_techniques_and_the_report_has_their_predicted_seconds(spec, weights, context):
    made = Quantize(effort="quick", calibrator="minmax", weights="max")(
        checkpoint(spec, weights), context.view(Quantize.reads)
    )
    techniques = {technique.name: technique for technique in made.metadata.lineage[-1].techniques}
    assert [name for name, technique in techniques.items() if technique.kl is not None] == [
        "calibrate",
        "equalization",
        "range_search",
        "bias_correction",
    ]
    assert techniques["gptq"].note == "left out by --effort quick"
    assert context.timings.seconds["predicted gptq"] > 0


def test_the_same_network_comes_out_twice(spec, weights, context):
    bad = outlier(spec, weights)
    made = [Quantize(calibrator="minmax")(checkpoint(spec, bad), context.view(Quantize.reads)) for _ in range(2)]
    assert made[0].digest == made[1].digest
    assert made[0].deployed is not None
    assert made[0].weights.digest == bad.digest  # the float network stays what it was


def test_what_time_cut_off_is_pinned_and_gives_the_same_network_without_a_clock(spec, weights, context):
    bad = checkpoint(spec, outlier(spec, weights))
    cut = Quantize(time_budget_s=0.0, calibrator="minmax")(bad, context.view(Quantize.reads))
    pinned = cut.metadata.lineage[-1].settings
    assert pinned["time_budget_s"] is None
    assert set(pinned["skip"]) == set(TECHNIQUES) - {"calibrate"}
    assert context.timings.seconds.keys() >= {"calibrate"}
    again = Quantize(**pinned)(bad, context.view(Quantize.reads))
    assert again.digest == cut.digest
    assert cut.metadata.lineage[-1].techniques[0].verdict == "FAIL"
    assert "not met" in cut.metadata.lineage[-1].notes[-1]


@pytest.fixture(scope="module")
def forced(spec, weights, tuning, tmp_path_factory):
    """The network of outliers after a technique's chain, each computed once."""
    folder = tmp_path_factory.mktemp("forced")
    context = Context(
        target=JETSON, train=Untouchable(), calibration=split_of("calibration", 24, 1), tuning=tuning,
        validation=Untouchable(), classes=CLASSES, seed=0, margin=1.0, workspace=folder, scratch=folder,
    ).view(Quantize.reads)  # fmt: skip
    start = checkpoint(spec, outlier(spec, weights))
    return cache(lambda technique: Quantize(technique=technique, calibrator="minmax")(start, context))


@pytest.mark.parametrize(
    "technique",
    [
        "calibrate",
        "equalization",
        "range_search",
        "bias_correction",
        "nncf",
        "gptq",
        "block_reconstruction",
        "mixed_precision",
    ],
)
def test_forced_technique_applies_exactly_its_chain(forced, technique):
    made = forced(technique)
    step = made.metadata.lineage[-1]
    assert tuple(row.name for row in step.techniques) == chain(technique)
    assert [row.name for row in step.techniques if row.kl is None] == [
        n for n in chain(technique) if n == "first_layer"
    ]
    assert step.techniques[-1].chosen
    assert step.settings["time_budget_s"] == 600.0
    assert bool(made.quant.float_layers) == (technique == "mixed_precision")
    assert bool(step.sensitivity) == (technique == "mixed_precision")


def test_note_names_the_better_candidate_where_a_forced_technique_is_kept(quantization, plain):
    def tried(technique, candidate):
        return Tried(technique, candidate, quantization.evaluator.evaluation(candidate.quantized, technique))

    good, bad = tried("calibrate", plain), tried("range_search", broken(plain, "layer1.0.conv1", 50))
    expected = "range_search was asked for and is kept; on the tuning images it is not nearer to float than calibrate"
    assert any(expected in note for note in notes(Search((good, bad), {}, good, bad), 1.0, 24))
    assert not any("asked for" in note for note in notes(Search((good, bad), {}, good, good), 1.0, 24))


def test_a_verdict_is_in_doubt_where_the_drop_is_over_the_limit_on_images_that_could_tell(spec, weights, plain):
    worse = broken(plain, "layer1.0.conv1", 50).quantized
    drop = context_of(spec, weights).evaluator.evaluation(worse, "x").drop_pp
    assert drop > 5

    def found(margin, count=300):
        return context_of(spec, weights, margin, count).evaluator.evaluation(worse, "x")

    over, within, clear = found(drop - 0.5), found(drop + 0.5), found(1.0)
    assert (over.outcome, over.doubtful) == (Outcome.INCONCLUSIVE, True)
    assert (within.outcome, within.doubtful) == (Outcome.INCONCLUSIVE, False)
    assert (clear.outcome, clear.doubtful) == (Outcome.FAIL, False)
    few = found(1.0, count=12)
    assert few.outcome is not Outcome.PASS
    assert not few.doubtful, "12 images say PASS of nobody at 1 pp"


def test_forced_technique_that_refuses_gets_a_note_or_ends_the_run(spec, weights, context):
    four = replace(context, target=find_target("w4a8"))
    with pytest.raises(StageError, match="no technique gives a network: nncf: left out: NNCF has no weights of 4 bits"):
        Quantize(technique="nncf")(checkpoint(spec, weights), four.view(Quantize.reads))
    hopeless = replace(context, margin=-200.0)
    made = Quantize(technique="mixed_precision", calibrator="minmax")(
        checkpoint(spec, weights), hopeless.view(Quantize.reads)
    )
    assert any("mixed_precision was asked for and is not kept" in note for note in made.metadata.lineage[-1].notes)


def test_layers_left_in_float_are_never_passed_over(forced):
    made = forced("mixed_precision")
    step = made.metadata.lineage[-1]
    for layer in made.quant.float_layers:
        assert layer in step.techniques[-1].note
        assert any(layer in note for note in step.notes)
    assert step.techniques[-1].integer == 6 - len(made.quant.float_layers)
    assert {"float32", "int8", "mixed_precision"} <= step.metrics.expected_ms.keys()


def test_without_a_limit_the_nearest_to_float_is_kept(spec, weights, context):
    bad = checkpoint(spec, outlier(spec, weights))
    made = Quantize(quantizer="edgeres", calibrator="minmax")(bad, replace(context, margin=None).view(Quantize.reads))
    step = made.metadata.lineage[-1]
    tried = [technique for technique in step.techniques if technique.kl is not None]
    assert next(technique.kl for technique in tried if technique.chosen) < tried[0].kl / 20
    assert {technique.verdict for technique in step.techniques} == {""}
    assert "no accuracy limit" in " ".join(step.notes)


def test_sensitivity_is_a_stage_that_changes_nothing(spec, weights, context):
    given = checkpoint(spec, weights)
    made = Sensitivity()(given, context.view(Sensitivity.reads))
    assert made.weights.digest == given.weights.digest
    assert made.quant is None
    rows = made.metadata.lineage[-1].sensitivity
    assert len(rows) == 6
    assert sum(row.macs for row in rows) > 0
    with pytest.raises(StageError, match="put '- fold_batchnorm' before '- sensitivity'"):
        Sensitivity()(replace(given, spec=replace(spec, norm=True)), context.view(Sensitivity.reads))


def test_a_host_target_is_timed_beside_the_artifact(spec, weights, context):
    here = replace(context, target=find_target("cpu"))
    made = Quantize(technique="calibrate", calibrator="minmax", weights="max")(
        checkpoint(spec, weights), here.view(Quantize.reads)
    )
    timed = {part for part in context.timings.seconds if part.startswith("latency")}
    assert timed == {"latency float32", "latency int8"}
    metrics = made.metadata.lineage[-1].metrics
    assert not any(name.startswith("latency") for name in metrics.__dataclass_fields__)
    assert list(context.workspace.iterdir()) == []


def test_predicted_seconds_grow_with_images_and_weights(quantization, spec, weights):
    short = replace(quantization, calibration=quantization.calibration.take(range(8)))
    for kind in (Equalization, BiasCorrection, Nncf, Gptq, BlockReconstruction):
        assert 0 < kind(short).predicted() < kind(quantization).predicted()
    assert solving(graph(spec)) > 108**3 / 6  # the largest convolution reads 12 channels by 3 by 3
    assert quantization.evaluator.macs_per_s == pytest.approx(macs(graph(spec), 12, 12) / quantization.evaluator.pass_s)


def test_candidates_know_their_coordinates(spec, weights):
    context = context_of(spec, outlier(spec, weights), count=40)
    first = Calibrate(replace(context, calibrator="minmax", weight_method="max")).candidate([], None)
    assert isinstance(first, Candidate)
    assert isinstance(first.quantized, Quantized)
    assert first.reference.digest == context.weights.digest


def test_four_bits_are_repaired_by_learned_rounding_only(spec, weights, context):
    """Rounding to nearest on 16 levels loses a third of the answers; scales cannot help, learned rounding does."""
    four = replace(context, target=find_target("w4a8"))
    made = Quantize(skip=("bias_correction",))(checkpoint(spec, weights), four.view(Quantize.reads))
    techniques = {technique.name: technique for technique in made.metadata.lineage[-1].techniques}
    assert [techniques[name].verdict for name in ("calibrate", "equalization", "range_search")] == ["FAIL"] * 3
    assert "time budget" in techniques["bias_correction"].note
    assert techniques["nncf"].note == "left out: NNCF has no weights of 4 bits in convolutions"
    assert techniques["gptq"].verdict == "PASS"
    assert techniques["gptq"].chosen
    assert techniques["gptq"].kl < techniques["calibrate"].kl / 20
    assert "not needed" in techniques["mixed_precision"].note
    assert made.metadata.lineage[-1].settings["skip"] == ["bias_correction"]


# ---- variants of one technique


def test_variants_race_and_those_worse_beyond_noise_see_no_more_images(quantization, plain):
    seen = []

    class Counted(Evaluator):
        def _answers(self, network, split, label):
            seen.append((label.split(": ")[-1], len(split)))
            return super()._answers(network, split, label)

    evaluator = Counted(
        quantization.graph,
        quantization.weights,
        quantization.evaluator.split,
        PREPROCESS,
        task=Classification(),
        margin=1.0,
        progress=Silent(),
    )
    seen.clear()
    variants = {
        "broken": broken(plain, "layer2.0.conv1", 90.0).quantized,
        "plain": plain.quantized,
        "same": plain.quantized,
    }
    name, found = evaluator.nearest(variants, "test")
    assert name == "plain", "of equals the earlier one"
    assert [count for name, count in seen if name == "broken"] == [64]
    assert sum(count for name, count in seen if name == "plain") == 300
    assert found["plain"] == found["same"] < found["broken"]
    assert found["plain"] == pytest.approx(evaluator.evaluation(plain.quantized, "x").kl, rel=1e-6)


def test_evaluation_does_not_depend_on_the_number_of_threads(quantization, plain):
    import torch

    threads = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(quantization.evaluator.evaluation(plain.quantized, "x").divergences)
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)
