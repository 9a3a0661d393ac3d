from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from smalltraining import thin_spec

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.training.recompute import Recomputed

if TYPE_CHECKING:
    from smalltraining import Training

    from edgeres.model.spec import ResNetSpec


@pytest.mark.parametrize("spec", [thin_spec(), thin_spec(preactivation=True), thin_spec(norm=False)])
def test_gradients_and_statistics_are_those_of_plain_training(spec: ResNetSpec) -> None:
    torch.manual_seed(0)
    plain = Network(graph(spec)).train()
    other = Network(graph(spec), plain.weights()).train()
    images = torch.randn(4, 3, 12, 12)
    plain(images).square().sum().backward()
    Recomputed(other)(images).square().sum().backward()
    for (key, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad), key
    for (key, one), two in zip(plain.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), key


def test_blocks_keep_nothing_but_their_inputs() -> None:
    network = Network(graph(thin_spec())).train()
    images = torch.randn(4, 3, 12, 12)

    def kept(forward: Network | Recomputed) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward(images)
        return sum(sizes)

    assert kept(Recomputed(network)) < kept(network) / 2


def test_training_ends_in_the_same_bytes(training: Training) -> None:
    plain = replace(training, method=replace(training.method, checkpointing=False)).run(identity="a")
    less = replace(training, method=replace(training.method, checkpointing=True)).run(identity="b")
    assert plain.weights.digest == less.weights.digest
