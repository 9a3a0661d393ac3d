from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.pipeline.stages.evaluate import Evaluate
from edgeres.pipeline.stages.stage import Context
from edgeres.quant.quant_table import QuantTable
from edgeres.settings import plain
from edgeres.targets.target import find_target

SPEC = ResNetSpec(
    kind="basic", stem=Stem(width=4, kernel=3, stride=1, pool=False), stages=((Block(inner=(4,), out=4),),), classes=3
)
NAMES = ("a", "b", "c")


class Ticks:
    """Counts what a stage reports."""

    def __init__(self):
        self.tasks = []

    def task(self, label, total):
        from contextlib import contextmanager

        @contextmanager
        def opened():
            done = [0]
            self.tasks.append((label, total, done))

            def advance(units):
                done[0] += units

            yield advance

        return opened()


@pytest.fixture
def split():
    random = np.random.default_rng(0)
    images = tuple(ArrayImage(random.integers(0, 256, (9, 9, 3), np.uint8), f"noise {i}") for i in range(21))
    return Split("validation", images, tuple(int(label) for label in random.integers(0, 3, 21)))


@pytest.fixture
def context(split, tmp_path):
    ticks = Ticks()
    # An untrained network is at chance: which of 21 images it has right is no business of these tests.
    whole = Context(
        find_target("cpu"),
        split,
        split,
        split,
        split,
        NAMES,
        0,
        tmp_path,
        tmp_path,
        progress=ticks,
        allow=frozenset({"chance"}),
    )
    return whole.view(Evaluate.reads)


@pytest.fixture
def checkpoint():
    metadata = ModelMetadata(name="thin", preprocess=Preprocess(resize=0, crop=8), classes=NAMES)
    return Checkpoint(metadata, SPEC, Network(graph(SPEC)).weights())


def test_answers_are_the_networks(checkpoint, context, split):
    digest = checkpoint.digest
    after = Evaluate(batch=4)(checkpoint, context)
    assert checkpoint.digest == digest
    ((images, labels),) = split.batches(checkpoint.metadata.preprocess, 21)
    predictions = Network(graph(SPEC), checkpoint.weights).logits(images).argmax(1)
    baseline = after.metadata.baseline
    assert baseline.predictions == tuple(predictions)
    assert baseline.labels == split.labels
    assert baseline.images == split.digest
    assert baseline.score == pytest.approx(100 * np.mean(predictions == labels))
    (step,) = after.metadata.lineage
    assert plain(step.metrics) == {
        "top1": baseline.score,
        "macs": macs(graph(SPEC), 8, 8),
        "parameters": parameters(graph(SPEC)),
    }
    assert context.progress.tasks == [("evaluate", 21, [21])]


def test_batch_size_changes_no_answer(checkpoint, context):
    found = {Evaluate(batch=size)(checkpoint, context).metadata.baseline.predictions for size in (1, 5, 64)}
    assert len(found) == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_answer_and_is_left_as_it_was(checkpoint, context, split, threads):
    before = torch.get_num_threads()
    alone = Evaluate(batch=4)(checkpoint, context).metadata.baseline
    torch.set_num_threads(threads)
    try:
        assert Evaluate(batch=4)(checkpoint, context).metadata.baseline == alone
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_every_thread_computes_alone(checkpoint, context, monkeypatch):
    seen = []
    logits = Network.logits
    monkeypatch.setattr(Network, "logits", lambda *given: (seen.append(torch.get_num_threads()), logits(*given))[1])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        Evaluate(batch=4)(checkpoint, context)
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * 6


def test_the_first_evaluation_stays_the_baseline(checkpoint, context, split):
    first = Evaluate()(checkpoint, context)
    other = replace(first, weights=first.weights.replaced({"fc.bias": np.array([999.0, 0, 0])}))
    second = Evaluate()(other, context)
    assert second.metadata.baseline == first.metadata.baseline
    assert second.metadata.lineage[1].metrics.top1 == pytest.approx(100 * split.labels.count(0) / len(split))
    assert "baseline" in second.metadata.lineage[0].notes[0]
    assert "baseline" not in second.metadata.lineage[1].notes[0]


def test_a_baseline_on_other_images_is_replaced(checkpoint, context, split, tmp_path):
    first = Evaluate()(checkpoint, context)
    fewer = replace(context, validation=split.take(range(10)))
    assert len(Evaluate()(first, fewer).metadata.baseline.labels) == 10


def test_nan_is_an_error_and_not_an_answer(checkpoint, context):
    broken = replace(checkpoint, weights=checkpoint.weights.replaced({"fc.bias": np.array([np.inf, 0, 0])}))
    with pytest.raises(StageError, match="NaN or infinity"):
        Evaluate()(broken, context)


def test_a_quantized_network_is_not_measured_in_float(checkpoint, context):
    table = QuantTable(activations={}, weights={}, calibrator="mse", data="", images=1)
    with pytest.raises(StageError, match="before '- quantize'"):
        Evaluate()(replace(checkpoint, quant=table), context)
