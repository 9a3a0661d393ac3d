"""Quantization-aware training of a seeded network, with the images of the digits and its own answers as labels.

No verdict rests on what a training happened to give: tuning images are picked by what the float network and the
quantized one answer on them, and both are sure of it, so counts of lost answers are the same on every processor.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_weights import random_weights

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.backends.session import onnx_session
from edgeres.data.dataset import open_dataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import RecipeError, StageError
from edgeres.metrics import agreement, kl
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.pipeline.recipe import load_recipe
from edgeres.pipeline.stages.build import Build
from edgeres.pipeline.stages.evaluate import Evaluate
from edgeres.pipeline.stages.export import Export
from edgeres.pipeline.stages.qat import Qat
from edgeres.pipeline.stages.stage import Context
from edgeres.pipeline.stages.training import distillation_method
from edgeres.pipeline.stages.verify import Verify
from edgeres.progress import Silent
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import Quantized
from edgeres.targets.target import find_target
from edgeres.training.feed import Augment, Feed
from edgeres.training.resume import NAME, Snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(resize=8, crop=8, mean=(0.305,) * 3, std=(0.376,) * 3)
AUGMENT = Augment(crop="random", padding=1, flip=False)
QUICK = Qat(epochs=3, lr=0.01, augment=AUGMENT)
SPEC = ResNetSpec(
    kind="basic",
    stem=Stem(width=16, kernel=3, stride=1, pool=False),
    stages=((Block(inner=(16,), out=16),), (Block(inner=(32,), out=32, stride=2, projected=True),)),
    classes=10,
    norm=False,
)
SURE = 0.3
"""Lead of the best logit over the next that no order of summation turns round; all logits have a spread of 3."""


def lead(logits: np.ndarray) -> np.ndarray:
    return np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Digits; validation images tune here, because there are more of them, and a hundred others validate."""
    data = open_dataset(None, seed=0, calibration=160, allow=frozenset())
    folder = tmp_path_factory.mktemp("qat")
    cpu = find_target("cpu")
    return Context(
        target=replace(cpu, runtime=replace(cpu.runtime, opset=21, ir_version=10)),  # which has 4-bit weights
        train=data.train,
        calibration=data.calibration,
        tuning=data.validation,
        validation=data.tuning,
        classes=data.classes,
        seed=0,
        workspace=folder,
        scratch=folder / "scratch",
        margin=2.0,
    )


@pytest.fixture(scope="module")
def floating(context: Context) -> Checkpoint:
    """A folded float network from a seeded generator, whose answers are spread over the classes."""
    made = random_weights(SPEC)
    answers = Network(graph(SPEC), made).logits(next(context.tuning.batches(PREPROCESS, 1000))[0])
    gain = 3 / answers.std(0).mean()
    weights = made.replaced(
        {"fc.weight": made["fc.weight"] * gain, "fc.bias": (made["fc.bias"] - answers.mean(0)) * gain}
    )
    return Evaluate()(
        Checkpoint(ModelMetadata(name="drawn", preprocess=PREPROCESS, classes=context.classes), SPEC, weights), context
    )


def quantized(checkpoint: Checkpoint, context: Context, bits: int) -> Checkpoint:
    """Min-max scales of the calibration images, and weights of that many bits."""
    scheme = context.target.scheme
    assert scheme is not None
    placement = place(graph(checkpoint.spec), scheme)
    seen: dict[str, torch.Tensor] = {}
    images = torch.from_numpy(next(context.calibration.batches(PREPROCESS, 160))[0])
    with torch.no_grad():
        Network(graph(checkpoint.spec), checkpoint.weights).eval()(images, tap=seen.__setitem__)
    activations = {}
    for tensor in placement.tensors:
        x = seen[placement.shared.get(tensor, tensor)]
        low, high = min(x.min().item(), 0.0), x.max().item()
        step = float(np.float32(max(high, -low) / 127 if scheme.signed else (high - low) / 255))
        activations[tensor] = QParams(
            scale=(step,), zero_point=0 if scheme.signed else round(-low / step), signed=scheme.signed
        )
    weights = {name: weight_qparams(checkpoint.weights[f"{name}.weight"], bits) for name in sorted(placement.weighted)}
    table = QuantTable(activations=activations, weights=weights, calibrator="minmax", data="", images=160)
    return replace(checkpoint, quant=table)


def logits(checkpoint: Checkpoint, context: Context) -> np.ndarray:
    """What ships answers on the tuning images."""
    scheme = context.target.scheme
    assert scheme is not None
    assert checkpoint.quant is not None
    weights = checkpoint.weights if checkpoint.deployed is None else checkpoint.deployed
    images, _ = next(context.tuning.batches(PREPROCESS, 1000))
    return Quantized(graph(checkpoint.spec), weights, checkpoint.quant, scheme).network().logits(images)


def picked(checkpoint: Checkpoint, context: Context, *, lost: int, kept: int) -> Context:
    """The context with tuning images of which rounding loses that many: labels are the float network's answers."""
    before = Network(graph(checkpoint.spec), checkpoint.weights).logits(
        next(context.tuning.batches(PREPROCESS, 1000))[0]
    )
    after = logits(checkpoint, context)
    sure = (lead(before) > SURE) & (lead(after) > SURE)
    same = before.argmax(1) == after.argmax(1)
    indices = [*np.flatnonzero(sure & ~same)[:lost], *np.flatnonzero(sure & same)[:kept]]
    assert len(indices) == lost + kept
    labelled = replace(context.tuning, labels=tuple(before.argmax(1).tolist()))
    return replace(context, tuning=labelled.take(sorted(indices)))


@pytest.fixture(scope="module")
def broken(floating: Checkpoint, context: Context) -> Checkpoint:
    """Three bits a weight: codes -3 to 3."""
    return quantized(floating, context, 3)


@pytest.fixture(scope="module")
def half(broken: Checkpoint, context: Context) -> Context:
    """Of every two tuning images, the broken network loses one."""
    return picked(broken, context, lost=60, kept=60)


@pytest.fixture(scope="module")
def recovered(broken: Checkpoint, half: Context) -> Checkpoint:
    return QUICK(broken, half.view(Qat.reads))


def test_a_network_broken_by_rounding_comes_back_to_the_float_network(
    broken: Checkpoint, recovered: Checkpoint, half: Context
) -> None:
    before, after = recovered.metadata.lineage[-1].techniques
    assert (before.name, after.name) == ("quantize", "qat")
    assert (before.verdict, before.drop_pp) == ("FAIL", 50)
    assert (before.chosen, after.chosen) == (False, True)
    assert before.kl is not None
    assert after.kl is not None
    assert after.kl < before.kl / 3  # it is a fifteenth
    assert recovered.metadata.lineage[-1].notes[0].endswith("; the trained network is kept")
    # The rows say what anybody finds who runs both; an image alone may round to another code than in a batch.
    float_logits = Network(graph(broken.spec), broken.weights).logits(next(half.tuning.batches(PREPROCESS, 1000))[0])
    for checkpoint, technique in ((broken, before), (recovered, after)):
        found = logits(checkpoint, half)
        unsure = 100 * np.mean(lead(found) < SURE)
        assert technique.top1 == pytest.approx(100 * np.mean(found.argmax(1) == half.tuning.labels), abs=unsure + 1e-9)
        assert technique.agreement == pytest.approx(
            agreement(float_logits.argmax(1).tolist(), found.argmax(1).tolist()), abs=unsure + 1e-9
        )
        assert technique.kl == pytest.approx(kl(float_logits, found), rel=0.05)


def test_only_scales_and_deployed_weights_change(broken: Checkpoint, recovered: Checkpoint, context: Context) -> None:
    assert recovered.weights is broken.weights
    assert recovered.spec == broken.spec
    assert recovered.deployed is not None
    assert recovered.quant is not None
    assert broken.quant is not None
    changed = {key for key in broken.weights if not np.array_equal(broken.weights[key], recovered.deployed[key])}
    assert changed == set(broken.weights)
    shared = place(graph(broken.spec), context.target.scheme).shared
    for tensor, params in recovered.quant.activations.items():
        assert params == replace(broken.quant.activations[tensor], scale=params.scale)
        assert params.scale != broken.quant.activations[tensor].scale
        assert params.scale == recovered.quant.activations[shared.get(tensor, tensor)].scale
    step = recovered.metadata.lineage[-1]
    assert step.stage == "qat"
    assert step.metrics.images == 3 * 1024
    assert step.metrics.kl == step.techniques[1].kl


def test_what_ships_answers_as_the_torch_module(recovered: Checkpoint, context: Context, tmp_path: Path) -> None:
    """Through export's comparison of every operation, and on images nobody trained on.

    In ONNX Runtime without its rewriting: with it, biases are integers, whose steps are wide where weights have 3 bits.
    """
    places = [replace(context, workspace=tmp_path / name) for name in ("export", "build", "verify")]
    for place_ in places:
        place_.workspace.mkdir()
    exported = Export()(recovered, places[0].view(Export.reads))
    engine = Build()(exported, places[1].view(Build.reads))
    verdict = Verify(seconds=0.1)(engine, places[2].view(Verify.reads))
    scheme = context.target.scheme
    assert scheme is not None
    assert recovered.quant is not None
    assert recovered.deployed is not None
    module = Quantized(graph(recovered.spec), recovered.deployed, recovered.quant, scheme).network()
    images = next(context.validation.batches(PREPROCESS, 1000))[0]
    expected = module.logits(images)
    with onnx_session(exported.model.path, optimise=False) as session:
        found = np.concatenate([session.run(image[None]) for image in images])
    assert np.median(np.abs(found - expected).max(1)) < 1e-3
    sure = lead(expected) > SURE
    assert np.mean(sure) > 0.5
    assert np.array_equal(found.argmax(1)[sure], expected.argmax(1)[sure])
    # The float twin is the network that came, not the trained one.
    baseline = recovered.metadata.baseline
    assert baseline is not None
    assert agreement(verdict.float_predictions, baseline.predictions) == 100


def test_training_is_skipped_where_the_gate_passes(floating: Checkpoint, context: Context) -> None:
    fine = quantized(floating, context, 8)
    given = Qat()(fine, picked(fine, context, lost=0, kept=250).view(Qat.reads))
    assert (given.quant, given.deployed) == (fine.quant, None)
    assert given.weights is fine.weights
    before, skipped = given.metadata.lineage[-1].techniques
    assert (before.verdict, before.chosen) == ("PASS", True)
    assert (skipped.name, skipped.top1, skipped.chosen) == ("qat", None, False)
    assert "within the limit of 2 pp" in given.metadata.lineage[-1].notes[0]
    assert given.metadata.lineage[-1].notes[0].startswith("not trained: ")


def test_too_few_images_to_tell_train_nothing_and_say_so(broken: Checkpoint, context: Context) -> None:
    few = replace(picked(broken, context, lost=8, kept=2), margin=85.0)
    given = Qat()(broken, few.view(Qat.reads))
    assert given.quant == broken.quant
    note = given.metadata.lineage[-1].notes[0]
    assert "a drop of 80.00 pp" in note
    assert "does not settle whether the limit of 85 pp is met" in note
    assert "--set qat.when=always" in note
    doubtful = Qat()(broken, replace(few, margin=60.0).view(Qat.reads))
    assert doubtful.metadata.lineage[-1].techniques[-1].top1 is not None, (
        "a drop over the limit trains, though 10 images are few"
    )
    unlimited = Qat()(broken, replace(few, margin=None).view(Qat.reads))
    assert "no accuracy limit is set" in unlimited.metadata.lineage[-1].notes[0]


def test_what_training_spoils_does_not_go_on(floating: Checkpoint, context: Context) -> None:
    fine = quantized(floating, context, 8)
    wild = Qat(when="always", lr=30.0, max_images=96, augment=AUGMENT)
    given = wild(fine, picked(fine, context, lost=0, kept=100).view(Qat.reads))
    assert (given.quant, given.deployed) == (fine.quant, None)
    before, after = given.metadata.lineage[-1].techniques
    assert (before.chosen, after.chosen) == (True, False)
    assert after.kl is not None
    assert before.kl is not None
    assert after.kl > before.kl
    assert "the network of quantize is kept" in given.metadata.lineage[-1].notes[0]


def test_weights_that_rounding_already_changed_are_where_training_starts(recovered: Checkpoint, half: Context) -> None:
    still = Qat(when="always", lr=1e-12, max_images=64, augment=AUGMENT)
    given = still(recovered, half.view(Qat.reads))
    before, after = given.metadata.lineage[-1].techniques
    assert before.kl == recovered.metadata.lineage[-1].techniques[1].kl
    assert after.kl == pytest.approx(before.kl, rel=1e-3)


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
def test_the_float_network_teaches_and_labels_have_the_rest(
    broken: Checkpoint, recovered: Checkpoint, context: Context, alpha: float, temperature: float
) -> None:
    """Without a rate worth the name, the loss is that of what came, against the float network and the labels."""
    augment = Augment(crop="centre", flip=False)
    still = Qat(when="always", lr=1e-12, max_images=64, alpha=alpha, temperature=temperature, augment=augment)
    step = still(recovered, context.view(Qat.reads)).metadata.lineage[-1]
    feed = Feed(context.train, PREPROCESS, augment, classes=10, batch=32, seed=0)
    images, labels = next(context.train.take(feed.order(0)[:64]).batches(PREPROCESS, 64))
    assert recovered.quant is not None
    assert recovered.deployed is not None
    assert context.target.scheme is not None
    start = Quantized(graph(recovered.spec), recovered.deployed, recovered.quant, context.target.scheme).network()
    reference, given = Network(graph(broken.spec), broken.weights).logits(images), start.logits(images)
    soft = temperature**2 * kl(reference / temperature, given / temperature)
    hard = F.cross_entropy(torch.from_numpy(given), torch.from_numpy(labels)).item()
    assert min(soft, hard) > 0.01
    assert step.metrics.train_loss == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=0.02)


def test_asymmetric_and_signed_schemes_learn_alike(floating: Checkpoint, context: Context) -> None:
    jetson = replace(context, target=find_target("jetson"), scratch=context.scratch / "jetson")
    given = replace(QUICK, epochs=1)(
        broken := quantized(floating, jetson, 3), picked(broken, jetson, lost=60, kept=60).view(Qat.reads)
    )
    before, after = given.metadata.lineage[-1].techniques
    assert after.chosen
    assert after.kl < before.kl / 2
    assert given.quant is not None
    assert {params.zero_point for params in given.quant.activations.values()} == {0}


def test_durations_go_beside_the_artifact(broken: Checkpoint, context: Context) -> None:
    window = context.view(Qat.reads)
    given = replace(QUICK, max_images=64)(broken, window)
    assert window.timings.seconds["qat"] > 0
    again = replace(QUICK, max_images=64)(broken, window)
    assert again.digest == given.digest


class Killed(Exception):
    """Stands for a kill between two steps."""


class Watched:
    """Progress that ends the process's work when a training has seen enough images."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        seen = 0

        def advance(units: int) -> None:
            nonlocal seen
            seen += units
            if label.startswith("qat") and seen >= self._limit:
                raise Killed

        yield advance


def test_resumed_training_gives_the_same_bytes(
    broken: Checkpoint, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales, their optimizer state and the weights all come back from the snapshot."""
    monkeypatch.setattr(Snapshots, "due", lambda self, epoch_ended: True)
    once = replace(QUICK, epochs=1)
    whole = once(broken, replace(context, scratch=tmp_path / "whole").view(Qat.reads))
    window = replace(context, scratch=tmp_path / "parts").view(Qat.reads)
    with pytest.raises(Killed):
        once(broken, replace(window, progress=Watched(20 * 32)))
    assert (tmp_path / "parts" / NAME).exists()
    seen: list[int] = []

    class Counting(Silent):
        @contextmanager
        def task(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
            yield lambda units: seen.append(units) if label.startswith("qat") else None

    resumed = once(broken, replace(window, progress=Counting()))
    assert seen[0] == 19 * 32
    assert resumed.digest == whole.digest
    assert resumed.quant == whole.quant


def test_what_cannot_be_trained_is_refused(floating: Checkpoint, context: Context) -> None:
    with pytest.raises(StageError, match="behind '- quantize'"):
        Qat()(floating, context.view(Qat.reads))
    unable = replace(context, target=replace(context.target, scheme=None))
    passed = Qat()(floating, unable.view(Qat.reads))
    assert passed.quant is None
    assert "no INT8" in passed.metadata.lineage[-1].notes[0]


def test_the_recipe_is_reached_by_name_and_its_settings_from_outside() -> None:
    recipe = load_recipe("qat").changed(("qat.epochs=2", "qat.when=always"))
    names = [stage.name for stage in recipe.stages]
    assert names.index("quantize") < names.index("qat") < names.index("export")
    found = recipe.stages[names.index("qat")]
    assert isinstance(found, Qat)
    assert (found.epochs, found.when, distillation_method(found).epochs) == (2, "always", 2)
    with pytest.raises(RecipeError, match="qat"):
        recipe.changed(("qat.when=sometimes",))
