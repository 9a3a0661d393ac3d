from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from smalltraining import SIDE, cross_entropy, random_split, thin_spec

from edgeres.data.preprocess import Preprocess
from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.training.feed import Augment
from edgeres.training.method import HE, MODERN, Schedule

if TYPE_CHECKING:
    from smalltraining import Training


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_loop_takes_the_steps_of_torchs_own_optimizer(training: Training, optimizer: str) -> None:
    """All images in one batch: a loop written out by hand goes the same way, but for the order of summation."""
    method = replace(
        training.method,
        optimizer=optimizer,
        precision="float32",
        epochs=3,
        batch=24,
        ema=0.0,
        progressive=1.0,
        augment=Augment(crop="centre", flip=False),
        lr=1e-3,
        weight_decay=0.1,
        clip=None,
        decay_all=True,
        schedule=Schedule(kind="cosine", warmup=0.0),
    )
    torch.manual_seed(0)
    start = Network(graph(thin_spec())).weights()
    outcome = replace(training, method=method).run(network=Network(graph(thin_spec()), start))
    split, by_hand = random_split(), Network(graph(thin_spec()), start).train()
    images = np.stack([Preprocess(resize=0, crop=SIDE).apply(split.image(index)) for index in range(len(split))])
    if optimizer == "sgd":
        steps: torch.optim.Optimizer = torch.optim.SGD(
            by_hand.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.1, nesterov=method.nesterov
        )
    else:
        steps = torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.1, eps=method.eps)
    for step in range(3):
        steps.param_groups[0]["lr"] = 1e-3 * method.schedule.factor(step, 3)
        steps.zero_grad()
        loss = torch.nn.functional.cross_entropy(by_hand(torch.from_numpy(images)), torch.tensor(split.labels))
        loss.backward()
        steps.step()
    assert outcome.metrics.train_loss == pytest.approx(loss.item(), rel=1e-4)
    assert outcome.metrics.images == 3 * 24
    for key, value in by_hand.weights().items():
        moved = np.abs(value - start[key]).max()
        assert moved > 0, key
        assert np.abs(outcome.weights[key] - value).max() < 0.02 * moved, key


def test_same_run_gives_the_same_bytes_and_another_seed_of_weights_does_not(training: Training) -> None:
    first, second = training.run(identity="a"), training.run(identity="b")
    assert first.weights.digest == second.weights.digest
    torch.manual_seed(1)
    assert training.run(network=Network(graph(thin_spec())), identity="c").weights.digest != first.weights.digest


def test_global_settings_of_torch_are_put_back(training: Training) -> None:
    torch.manual_seed(5)
    network = Network(graph(thin_spec()))
    state = torch.get_rng_state()
    training.run(network=network)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_max_images_ends_within_an_epoch(training: Training) -> None:
    outcome = replace(training, method=replace(training.method, max_images=32)).run()
    assert outcome.metrics.images == 32
    assert outcome.metrics.epochs == pytest.approx(4 / 3)


def test_frozen_parts_keep_their_bytes(training: Training) -> None:
    network = Network(graph(thin_spec()))
    before = network.weights()
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key.startswith("fc."))
    after = training.run(network=network).weights
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}


def test_norms_and_biases_decay_only_with_decay_all(training: Training) -> None:
    """With a rate so small that gradients vanish beside the decay, what does not decay does not move."""
    base = replace(
        training.method, lr=1e-4, weight_decay=100.0, ema=0.0, schedule=Schedule(kind="step", warmup=0), epochs=1
    )
    network = Network(graph(thin_spec()))
    before = network.weights()
    network.load_state_dict(network.state_dict())
    kept = replace(training, method=base).run(network=network, identity="a").weights
    assert kept["layer1.0.bn1.weight"] == pytest.approx(before["layer1.0.bn1.weight"], abs=1e-3)
    assert np.abs(kept["conv1.weight"]).sum() < 0.97 * np.abs(before["conv1.weight"]).sum()
    other = Network(graph(thin_spec()), before)
    shrunk = replace(training, method=replace(base, decay_all=True)).run(network=other, identity="b").weights
    assert shrunk["layer1.0.bn1.weight"] == pytest.approx(before["layer1.0.bn1.weight"] * 0.95, abs=0.02)


def test_bfloat16_runs_on_a_cpu_and_is_close(training: Training) -> None:
    exact = replace(training, method=replace(training.method, precision="float32")).run(identity="a")
    half = replace(training, method=replace(training.method, precision="bf16")).run(identity="b")
    assert half.conditions[0].startswith("trained in bfloat16")
    assert half.weights.digest != exact.weights.digest
    assert half.metrics.train_loss == pytest.approx(exact.metrics.train_loss, rel=0.2)


def test_images_grow_to_the_full_side(training: Training) -> None:
    sides: list[int] = []

    def record(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sides.append(images.shape[-1])
        return cross_entropy(logits, images, labels)

    replace(training, method=replace(training.method, progressive=0.3)).run(objective=record)
    assert sides == [4] * 3 + [8] * 6 + [12] * 3


def test_the_average_is_what_is_kept(training: Training) -> None:
    def finish(ema: float) -> tuple[np.ndarray, float]:
        torch.manual_seed(0)
        network = Network(graph(thin_spec()))
        method = replace(training.method, ema=ema)
        outcome = replace(training, method=method).run(network=network, identity=str(ema))
        last = network.weights()["conv1.weight"]
        assert np.array_equal(last, outcome.weights["conv1.weight"]) == (ema == 0)
        return last, outcome.metrics.train_loss

    (with_it, first), (without, second) = finish(0.9), finish(0.0)
    assert np.array_equal(with_it, without)
    assert first == second


def test_the_rate_follows_the_schedule_and_the_gradient_its_limit(training: Training) -> None:
    """On the same batch again and again the gradients agree, so the way is the sum of the rates with momentum."""
    clip, lr = 1e-3, 0.5
    method = replace(
        training.method,
        epochs=3,
        batch=24,
        ema=0.0,
        progressive=1.0,
        augment=Augment(crop="centre", flip=False),
        lr=lr,
        clip=clip,
        weight_decay=0.0,
        nesterov=False,
        schedule=Schedule(kind="cosine", warmup=0.0),
    )
    network = Network(graph(thin_spec()))
    before = network.weights()
    after = replace(training, method=method).run(network=network).weights
    learnt = [key for key, _ in network.named_parameters()]
    moved = np.sqrt(sum(np.square(after[key] - before[key]).sum() for key in learnt))
    rates = [lr * method.schedule.factor(step, 3) for step in range(3)]
    # Momentum 0.9 adds up aligned gradients: g, 1.9 g, 2.71 g.
    most = clip * (rates[0] + 1.9 * rates[1] + 2.71 * rates[2])
    assert rates == pytest.approx([0.5, 0.375, 0.125])
    assert moved == pytest.approx(most, rel=0.01)


def test_diverging_loss_is_refused_with_the_way_out(training: Training) -> None:
    wild = replace(training, method=replace(training.method, lr=1e30, clip=None))
    with pytest.raises(StageError, match=r"train thin: the loss became (nan|inf) at step \d+ of 12: lower lr"):
        wild.run()


def test_a_gradient_without_a_number_behind_a_finite_loss_is_refused(training: Training) -> None:
    def rootless(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits.mean() * 0).sqrt()  # of 0, whose derivative is infinite

    one = replace(training.method, max_images=training.method.batch, ema=0.0)
    with pytest.raises(StageError, match=r"train thin: \S+ holds NaN or infinity after 1 steps"):
        replace(training, method=one).run(objective=rootless)


def test_the_methods_are_the_papers() -> None:
    assert (HE.lr, HE.batch, HE.weight_decay, HE.nesterov, HE.decay_all) == (0.1, 256, 1e-4, False, True)
    assert HE.schedule.kind == "step"
    assert (MODERN.label_smoothing, MODERN.nesterov, MODERN.decay_all) == (0.1, True, False)
    assert MODERN.ema > 0
    assert MODERN.progressive < 1
