"""Foreign classifiers, from torch's exporter to a graph under the target's scheme, with NNCF in between."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgeres.artifacts.artifact import Exported, File
from edgeres.artifacts.source import Source
from edgeres.data.dataset import Dataset, open_dataset
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.errors import DataError, ModelError, StageError
from edgeres.lint.linter import lint
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.fold import prepare
from edgeres.onnx_graph.graph_index import GraphIndex, opset_of
from edgeres.onnx_graph.nncf import quantize_float_graph
from edgeres.onnx_graph.operator_counts import qdq
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.roles import float_nodes
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.sensitivity import Sensitivity
from edgeres.pipeline.stages.stage import Context
from edgeres.quant.calibration_table import read_table
from edgeres.quant.calibrator import CALIBRATORS
from edgeres.recovery.registry import TECHNIQUES
from edgeres.settings import parse
from edgeres.targets.target import Target, find_target

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

CALIBRATION, VALIDATION = 32, 200


class Dense(nn.Module):
    """A layer of DenseNet: norm first, its output concatenated to its input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 32, 1, bias=False),
            nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


class Mobile(nn.Module):
    """An inverted residual of EfficientNet: expansion, depthwise, squeeze and excitation, linear projection."""

    def __init__(self, width: int, out: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        inner, self.skip = width * 4, stride == 1 and width == out
        self.expand = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), act(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), act(),
        )  # fmt: skip
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, 8, 1), nn.ReLU(), nn.Conv2d(8, inner, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.expand(x)
        y = self.project(y * self.gate(y))
        return x + y if self.skip else y


def stem(width: int, act: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), act]


def densenet() -> nn.Sequential:
    return nn.Sequential(
        *stem(16, nn.ReLU()), Dense(16, 16), Dense(32, 16), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 32, 1, bias=False), nn.AvgPool2d(2), Dense(32, 32), Dense(64, 32), nn.BatchNorm2d(96), nn.ReLU(),
        nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def efficientnet() -> nn.Sequential:
    return nn.Sequential(
        *stem(16, nn.SiLU()), Mobile(16, 16, 1, nn.SiLU), Mobile(16, 32, 2, nn.Hardswish), Mobile(32, 32, 1, nn.SiLU),
        nn.Conv2d(32, 128, 1, bias=False), nn.BatchNorm2d(128), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = open_dataset(None, seed=0, calibration=64, allow=frozenset())
    return replace(
        data,
        calibration=data.calibration.take(range(CALIBRATION)),
        validation=data.validation.take(range(VALIDATION)),
    )


def fitted(net: nn.Sequential, data: Dataset) -> nn.Sequential:
    """Random features with true batch statistics, and the classifier that ridge regression finds: no training."""
    assert data.suggested is not None
    images, labels = zip(*data.train.take(range(600)).batches(data.suggested, 200), strict=True)
    x, y = torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.inference_mode():
        net.train()(x)
        features = net.eval()[:-1](x)
        mean = features.mean(0)
        centred = features - mean
        gram = centred.T @ centred + 1e-3 * centred.square().sum() / centred.shape[1] * torch.eye(centred.shape[1])
        weight = torch.linalg.solve(gram, centred.T @ (8 * nn.functional.one_hot(y, 10).float() - 0.8))
        net[-1].weight.copy_(weight.T)
        net[-1].bias.copy_(-weight.T @ mean)
    return net


@pytest.fixture(scope="module")
def files(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    paths = {}
    for name, make, opset in (("densenet", densenet, 17), ("efficientnet", efficientnet, 14)):
        torch.manual_seed(0)
        paths[name] = folder / f"{name}.onnx"
        image = torch.zeros(1, 3, 32, 32)
        options = {"input_names": ["pixels"], "output_names": ["scores"], "dynamic_axes": {"pixels": {0: "B"}}}
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            torch.onnx.export(
                fitted(make(), digits), (image,), str(paths[name]), opset_version=opset, dynamo=False, **options
            )
    return paths


def context(stage: object, target: Target, data: Dataset, folder: Path, allow: frozenset[str] = frozenset()) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    everything = Context(
        target=target, train=data.train, calibration=data.calibration, tuning=data.tuning, validation=data.validation,
        classes=data.classes, seed=0, workspace=folder, scratch=folder, allow=allow,
    )  # fmt: skip
    return everything.view(stage.reads)


def source(path: Path, data: Dataset) -> Source:
    return Source(path.stem, file=File.of(path), preprocess=data.suggested)


@pytest.fixture(scope="module")
def runs(files, digits, tmp_path_factory):
    """``(network, target) -> (float, quantized)``, each made once."""
    made: dict[tuple[str, str], tuple[Exported, Exported]] = {}

    def run(network: str, target: str) -> tuple[Exported, Exported]:
        if (network, target) not in made:
            folder = tmp_path_factory.mktemp(f"{network}-{target}")
            goal = find_target(target)
            loaded = LoadOnnx()(source(files[network], digits), context(LoadOnnx, goal, digits, folder / "load"))
            quantized = Quantize()(loaded, context(Quantize, goal, digits, folder / "quantize"))
            made[network, target] = loaded, quantized
        return made[network, target]

    return run


NETWORKS = ["densenet", "efficientnet"]


@pytest.mark.parametrize("network", NETWORKS)
def test_loading_folds_and_judges(network: str, runs, files, digits) -> None:
    loaded, _ = runs(network, "jetson")
    step = loaded.metadata.lineage[-1]
    model = onnx.load(str(loaded.model.path))
    assert loaded.model == loaded.float_model
    assert loaded.scales is None
    assert opset_of(model) == find_target("jetson").runtime.opset
    assert step.metrics.max_abs_delta_logit < 1e-3
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Dropout", "Identity", "Constant"}
    assert ("BatchNormalization" in kinds) == (network == "densenet")  # a norm behind a concat has no convolution
    baseline = loaded.metadata.baseline
    assert baseline is not None
    assert baseline.images == digits.validation.digest
    images, labels = next(digits.validation.batches(digits.suggested, VALIDATION))
    expected = runner(read_model(files[network]))(images).argmax(1)
    assert baseline.predictions == tuple(int(index) for index in expected)
    assert baseline.score == pytest.approx(100 * (expected == labels).mean())
    assert baseline.score > 75
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["edgeres.model"] == network
    assert parse(Preprocess, json.loads(metadata["edgeres.preprocess"]), "m") == digits.suggested


def test_nncf_by_itself_emits_what_tensorrt_misreads(files, digits) -> None:
    """The reason for the rewrite: uint8 behind every ReLU, which the parser takes for int8."""
    jetson = find_target("jetson")
    assert jetson.scheme is not None
    model = prepare(read_model(files["densenet"]), jetson.runtime).model
    images = [batch for batch, _ in digits.calibration.take(range(2)).batches(digits.suggested, 1)]
    made = quantize_float_graph(model, images, jetson.scheme, advance=lambda _: None)
    view = GraphIndex.of(made)
    types = {str(view.value(node.input[2]).dtype) for node in view.of_type("QuantizeLinear")}
    assert types == {"int8", "uint8"}
    assert {finding.rule for finding in lint(made, jetson) if finding.severity == "E"} == {"Q02"}


@pytest.mark.parametrize("network", NETWORKS)
def test_tensorrt_gets_a_graph_without_findings(network: str, runs) -> None:
    loaded, quantized = runs(network, "jetson")
    model = onnx.load(str(quantized.model.path))
    assert lint(model, find_target("jetson")) == ()
    view = GraphIndex.of(model)
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        zero_point = view.value(node.input[2])
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    kept = set(float_nodes(onnx.load(str(loaded.model.path)), find_target("jetson").scheme))
    weighted = {node.name for node in view.of_type("Conv", "Gemm")}
    assert {node.name for node in view.of_type("Gemm")} <= kept
    assert qdq(model).weights == len(weighted - kept)
    assert (opset_of(model), model.ir_version) == (17, 8)
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    graph = trt.Builder(logger).create_network(0)
    assert trt.OnnxParser(graph, logger).parse(quantized.model.path.read_bytes())


@pytest.mark.parametrize("target", ["jetson", "cpu"])
@pytest.mark.parametrize("network", NETWORKS)
def test_quantization_keeps_the_answers(network: str, target: str, runs, digits) -> None:
    loaded, quantized = runs(network, target)
    metrics = quantized.metadata.lineage[-1].metrics
    assert metrics.agreement >= 90
    assert metrics.int8_max_relative_delta < 1e-5
    images, labels = next(digits.validation.batches(digits.suggested, VALIDATION))
    top1 = 100 * (runner(onnx.load(str(quantized.model.path)))(images).argmax(1) == labels).mean()
    assert loaded.metadata.baseline.score - top1 < 3


def test_unsigned_targets_get_uint8(runs) -> None:
    _, quantized = runs("efficientnet", "cpu")
    view = GraphIndex.of(onnx.load(str(quantized.model.path)))
    assert {str(view.value(node.input[2]).dtype) for node in view.of_type("QuantizeLinear")} == {"uint8"}


@pytest.mark.parametrize("target", ["jetson", "cpu"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_technique_is_tried_and_nncf_is_one_of_them(network: str, target: str, runs) -> None:
    step = runs(network, target)[1].metadata.lineage[-1]
    results = {one.name: one for one in step.techniques}
    assert set(results) == set(TECHNIQUES)
    tried = {name for name, one in results.items() if one.kl is not None}
    assert tried >= {"calibrate", "equalization", "range_search", "bias_correction", "nncf", "gptq"}
    (chosen,) = (one for one in step.techniques if one.chosen)
    assert chosen.kl <= results["nncf"].kl


@pytest.mark.parametrize("target", ["jetson", "cpu"])
def test_the_scales_file_says_what_the_graph_says(target: str, runs) -> None:
    _, quantized = runs("densenet", target)
    assert quantized.scales is not None
    saved = read_table(quantized.scales.path)
    assert (saved.scheme, saved.preprocess) == (find_target(target).scheme, quantized.metadata.preprocess)
    table = saved.table
    view = GraphIndex.of(onnx.load(str(quantized.model.path)))
    assert table.calibrator in ("nncf", *CALIBRATORS)
    assert table.images == CALIBRATION
    assert set(table.activations) == {
        node.input[0] for node in view.of_type("QuantizeLinear") if node.input[0] not in view.constants
    }
    for node in view.of_type("QuantizeLinear"):
        params = table.activations[node.input[0]]
        assert float(view.value(node.input[1])) == params.scale[0]
        assert int(view.value(node.input[2])) == params.zero_point
    assert len(table.weights) == qdq(view.model).weights


def test_a_named_calibrator_sets_the_ranges(runs, digits, tmp_path: Path) -> None:
    loaded, _ = runs("efficientnet", "cpu")
    stage = Quantize(calibrator="percentile", technique="calibrate")
    named = stage(loaded, context(stage, find_target("cpu"), digits, tmp_path))
    assert read_table(named.scales.path).table.calibrator == "percentile"


@pytest.mark.parametrize("target", ["jetson", "cpu"])
def test_saved_scales_give_the_same_file(target: str, runs, digits, tmp_path: Path) -> None:
    loaded, _ = runs("densenet", target)
    stage, goal = Quantize(technique="calibrate"), find_target(target)
    first = stage(loaded, context(stage, goal, digits, tmp_path / "first"))
    again = replace(context(stage, goal, digits, tmp_path / "again"), scales=read_table(first.scales.path))
    second = Quantize()(loaded, again)
    assert second.model.path.read_bytes() == first.model.path.read_bytes()
    assert "no image was observed" in "; ".join(second.metadata.lineage[-1].notes)


def test_scales_of_another_network_are_refused(runs, digits, tmp_path: Path) -> None:
    loaded, _ = runs("densenet", "cpu")
    _, other = runs("efficientnet", "cpu")
    near = replace(context(Quantize, find_target("cpu"), digits, tmp_path), scales=read_table(other.scales.path))
    with pytest.raises(DataError, match="the scales do not fit"):
        Quantize()(loaded, near)


def test_sensitivity_has_a_row_for_every_layer(runs, digits, tmp_path: Path) -> None:
    loaded, quantized = runs("efficientnet", "jetson")
    made = Sensitivity()(loaded, context(Sensitivity, find_target("jetson"), digits, tmp_path))
    rows = made.metadata.lineage[-1].sensitivity
    assert len(rows) == qdq(onnx.load(str(quantized.model.path))).weights
    assert made.model == loaded.model
    assert max(row.kl for row in rows) > 0


def test_the_same_input_gives_the_same_bytes(runs, digits, tmp_path: Path) -> None:
    loaded, quantized = runs("densenet", "jetson")
    before = loaded.digest
    again = Quantize()(loaded, context(Quantize, find_target("jetson"), digits, tmp_path))
    assert loaded.digest == before
    assert again.digest == quantized.digest
    assert again.model.path.read_bytes() == quantized.model.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.json", "model.onnx"]


def test_other_calibration_images_give_other_scales(runs, digits, tmp_path: Path) -> None:
    loaded, quantized = runs("densenet", "jetson")
    fewer = replace(digits, calibration=digits.calibration.take(range(2)))
    other = Quantize()(loaded, context(Quantize, find_target("jetson"), fewer, tmp_path))
    assert other.scales.sha256 != quantized.scales.sha256


def test_jetpack_5_gets_opset_13(runs) -> None:
    _, quantized = runs("efficientnet", "xavier-nx")
    model = onnx.load(str(quantized.model.path))
    assert opset_of(model) == 13
    assert "HardSwish" not in {node.op_type for node in model.graph.node}
    assert [finding for finding in lint(model, find_target("xavier-nx")) if finding.severity == "E"] == []


def test_nncf_stays_quiet(files, digits, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jetson = find_target("jetson")
    level = logging.getLogger("nncf").level
    loaded = LoadOnnx()(source(files["densenet"], digits), context(LoadOnnx, jetson, digits, tmp_path / "l"))
    fewer = replace(digits, calibration=digits.calibration.take(range(2)))
    Quantize()(loaded, context(Quantize, jetson, fewer, tmp_path / "q"))
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    assert logging.getLogger("nncf").level == level


def test_progress_counts_the_calibration_images(files, digits, tmp_path: Path) -> None:
    from contextlib import contextmanager

    seen: dict[str, list[int]] = {}

    class Counting:
        @contextmanager
        def task(self, label: str, total: int):
            seen[label] = [total, 0]

            def advance(units: int) -> None:
                seen[label][1] += units

            yield advance

    jetson = find_target("jetson")
    watched = replace(context(LoadOnnx, jetson, digits, tmp_path / "l"), progress=Counting())
    loaded = LoadOnnx()(source(files["densenet"], digits), watched)
    fewer = replace(digits, calibration=digits.calibration.take(range(3)))
    Quantize()(loaded, replace(context(Quantize, jetson, fewer, tmp_path / "q"), progress=Counting()))
    assert {label: done for label, (total, done) in seen.items() if total != done} == {}
    assert seen["place Q/DQ pairs by NNCF"] == [3, 3]
    assert seen["calibrate"] == [3, 3]
    assert seen["float baseline"] == [VALIDATION, VALIDATION]


def test_a_target_without_integers_stays_in_float(runs, digits, tmp_path: Path) -> None:
    loaded, _ = runs("densenet", "jetson")
    goal = replace(find_target("jetson"), scheme=None)
    made = Quantize()(loaded, context(Quantize, goal, digits, tmp_path))
    assert made.model == loaded.model
    assert "stays in float" in made.metadata.lineage[-1].notes[0]


def test_weights_of_4_bits_are_written(files, digits, tmp_path: Path) -> None:
    goal, stage = find_target("w4a8"), Quantize(technique="calibrate")
    loaded = LoadOnnx()(source(files["densenet"], digits), context(LoadOnnx, goal, digits, tmp_path / "l"))
    made = onnx.load(str(stage(loaded, context(stage, goal, digits, tmp_path / "q")).model.path))
    codes = [tensor for tensor in made.graph.initializer if tensor.name.endswith(".weight.codes")]
    assert {tensor.data_type for tensor in codes} == {onnx.TensorProto.INT4}


def test_a_quantized_graph_is_not_quantized_again(runs, digits, tmp_path: Path) -> None:
    _, quantized = runs("densenet", "jetson")
    with pytest.raises(StageError, match="needs a float network"):
        Quantize()(quantized, context(Quantize, find_target("jetson"), digits, tmp_path))
    again = source(quantized.model.path, digits)
    with pytest.raises(ModelError, match="quantized already"):
        LoadOnnx()(again, context(LoadOnnx, find_target("jetson"), digits, tmp_path))


def test_other_classes_than_the_head_has_are_refused(files, digits, tmp_path: Path) -> None:
    for classes in (digits.classes[:7], (*digits.classes, "ten")):
        data = replace(digits, classes=classes)
        with pytest.raises(DataError, match=f"{len(classes)} classes"):
            LoadOnnx()(source(files["densenet"], data), context(LoadOnnx, find_target("jetson"), data, tmp_path))


def test_a_network_that_answers_nan_is_refused(files, digits, tmp_path: Path) -> None:
    model = onnx.load(str(files["densenet"]))
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    path = tmp_path / "nan.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises((StageError, ModelError)):
        LoadOnnx()(source(path, digits), context(LoadOnnx, find_target("jetson"), digits, tmp_path))


def test_a_source_without_a_file_is_refused(digits, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no ONNX file"):
        LoadOnnx()(Source("resnet18"), context(LoadOnnx, find_target("jetson"), digits, tmp_path))


def test_the_graphs_side_is_the_crop() -> None:
    assert Source("theirs").at_size(Size.square(64)) == (Source("theirs"), ())
    own = Source("theirs", preprocess=Preprocess(resize=32, crop=32))
    assert own.at_size(Size.square(32)) == (own, ())
    scaled, (note,) = own.at_size(Size.square(64))
    assert scaled.preprocess == Preprocess(resize=64, crop=64)
    assert "crop 32 -> 64, resize 32 -> 64" in note
    suggested, _ = Source("theirs", suggested=Preprocess()).at_size(Size.square(64))
    assert suggested.suggested == Preprocess(resize=73, crop=64)


def test_a_stated_resize_keeps_the_graphs_crop_and_must_hold_it() -> None:
    fields = tuple(name for name in Preprocess.__dataclass_fields__ if name != "resize")
    stated = Source("theirs", preprocess=Preprocess(resize=80, crop=80), left_open=fields)
    found, notes = stated.at_size(Size.square(64))
    assert (found.preprocess.resize, found.preprocess.crop, notes) == ((80, 80), (64, 64), ())
    assert "crop" not in found.left_open
    with pytest.raises(DataError, match="--resize 80 is smaller than the 96 px"):
        stated.at_size(Size.square(96))
