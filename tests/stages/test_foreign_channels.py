"""Channels that integers mishandle, in a foreign network: outliers, and those that training left nearly dead."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from test_foreign import context, fitted, source
from torch import nn

from edgeres.data.dataset import open_dataset
from edgeres.errors import StageError
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.stored_weights import overflows
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Exported
    from edgeres.data.dataset import Dataset
    from edgeres.quant.quant_table import QuantTable

OUTLIERS, DEAD = (1, 5, 11), (2, 7)
BLOCKS = ((0, 1, 3), (3, 4, 6))
"""A convolution, its norm, and the convolution that reads them."""


def plain() -> nn.Sequential:
    """Three convolutions, a pool and a classifier; nothing that edgeres would know as a ResNet."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


@torch.no_grad()
def with_outliers(net: nn.Sequential) -> nn.Sequential:
    """The same function with some channels 100 times as large."""
    net = deepcopy(net)
    for _, norm, reader in BLOCKS:
        for parameter in (net[norm].weight, net[norm].bias):
            parameter[list(OUTLIERS)] *= 100
        net[reader].weight[:, list(OUTLIERS)] /= 100
    return net


@torch.no_grad()
def nearly_dead(net: nn.Sequential) -> nn.Sequential:
    """A gain of 1e-7 behind a shift of 2 on two channels of each block."""
    net = deepcopy(net)
    for _, norm, _reader in BLOCKS:
        net[norm].weight[list(DEAD)] = 1e-7
        net[norm].bias[list(DEAD)] = 2.0
    return net


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = open_dataset(None, seed=0, calibration=64, allow=frozenset())
    return replace(
        data,
        calibration=data.calibration.take(range(32)),
        tuning=data.tuning.take(range(64)),
        validation=data.validation.take(range(100)),
    )


@pytest.fixture(scope="module")
def runs(digits: Dataset, tmp_path_factory: pytest.TempPathFactory):
    """``(network, target, technique) -> (float, quantized)``, each made once."""
    folder, made = tmp_path_factory.mktemp("channels"), {}
    torch.manual_seed(0)
    clean = fitted(plain(), digits)
    for name, net in (("clean", clean), ("outliers", with_outliers(clean)), ("dead", nearly_dead(clean))):
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            torch.onnx.export(
                net.eval(), (torch.zeros(1, 3, 32, 32),), str(folder / f"{name}.onnx"), opset_version=17, dynamo=False,
                input_names=["pixels"], output_names=["scores"], dynamic_axes={"pixels": {0: "B"}},
            )  # fmt: skip

    def run(name: str, target: str, technique: str = "auto") -> tuple[Exported, Exported]:
        if (name, target, technique) not in made:
            goal, place = find_target(target), folder / f"{name}-{target}-{technique}"
            # The last layer was fitted to the clean network: the others are compared with float, not with labels.
            near = context(LoadOnnx, goal, digits, place / "l", frozenset({"chance"}))
            loaded = LoadOnnx()(source(folder / f"{name}.onnx", digits), near)
            stage = Quantize(technique=technique)
            made[name, target, technique] = loaded, stage(loaded, context(stage, goal, digits, place / "q"))
        return made[name, target, technique]

    return run


def distance(exported: Exported, digits: Dataset, *, optimise: bool = False) -> float:
    """Largest difference of the quantized graph's logits from the float twin's, in shares of their range."""
    images, _ = next(digits.validation.batches(digits.suggested, 100))
    wanted = runner(onnx.load(str(exported.float_model.path)))(images)
    found = runner(onnx.load(str(exported.model.path)), optimise=optimise)(images)
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / np.ptp(wanted))


@pytest.mark.parametrize("target", ["jetson", "cpu"])
def test_outliers_are_repaired_to_what_the_clean_network_loses(target: str, runs, digits) -> None:
    clean = distance(runs("clean", target, "calibrate")[1], digits)
    given = distance(runs("outliers", target, "calibrate")[1], digits)
    loaded, repaired = runs("outliers", target)
    assert given > 8 * clean  # 14 to 43 in four fits
    assert distance(repaired, digits) < 1.2 * clean  # 0.3 to 0.8
    assert repaired.float_model == loaded.float_model  # the user's own, to the last byte


@pytest.mark.parametrize("target", ["jetson", "cpu"])
def test_equalization_alone_repairs_outliers(target: str, runs, digits) -> None:
    clean = distance(runs("clean", target, "equalization")[1], digits)
    assert (
        distance(runs("outliers", target, "equalization")[1], digits) < 4 * clean
    )  # 0.8 to 1.5 in four fits; unrepaired 14


@pytest.mark.parametrize("target", ["jetson", "cpu"])
def test_nearly_dead_channels_keep_their_bias_in_integers(target: str, runs, digits) -> None:
    _, quantized = runs("dead", target, "calibrate")
    assert list(overflows(GraphIndex.of(onnx.load(str(quantized.model.path))))) == []
    assert "4 channels of 2 layers" in "; ".join(quantized.metadata.lineage[-1].notes)
    plain = distance(quantized, digits)
    assert plain < distance(runs("clean", target, "calibrate")[1], digits)
    assert abs(distance(quantized, digits, optimise=True) - plain) < 0.02


def test_a_graph_whose_sums_leave_int32_is_never_written(runs, digits, tmp_path, monkeypatch) -> None:
    def shrink(table: QuantTable, graph: object, weights: object) -> QuantTable:
        """Weight scales that nothing has looked at."""
        small = {
            name: replace(params, scale=tuple(scale * 1e-6 for scale in params.scale))
            for name, params in table.weights.items()
        }
        return replace(table, weights=small)

    loaded, _ = runs("dead", "cpu", "calibrate")
    monkeypatch.setattr("edgeres.quant.quantized.with_room", shrink)
    stage = Quantize(technique="calibrate")
    with pytest.raises(StageError, match=r"sums of \d+ channels reach .*, int32 ends at 2147483647"):
        stage(loaded, context(stage, find_target("cpu"), digits, tmp_path))
    assert list(tmp_path.iterdir()) == []
