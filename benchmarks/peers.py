"""The quantizers of others that leave ONNX behind: NNCF, ONNX Runtime, TensorRT Model Optimizer."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchmarks.quantizer import BOTH, IMAGE, Singles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.bench import Bench
    from benchmarks.quantizer import FloatFolder, SchemeName
    from edgeres.targets.target import Target


@dataclass(frozen=True, slots=True)
class Nncf:
    """NNCF's ONNX backend on all calibration images, per-channel weights, its default preset.

    TensorRT takes no such graph (uint8 behind a ReLU), so under its scheme this is NNCF's symmetric preset, brought
    under the scheme as edgeres does with foreign graphs: uint8 codes become int8 with a scale 255/127 times as large.

    Attributes:
        full: Correct biases layer by layer on propagated errors (``fast_bias_correction=False``). ONNX Runtime 1.31
            optimises a convolution away that is an output of NNCF's partial graphs, so these run as written.
    """

    packages: ClassVar[tuple[str, ...]] = ("nncf", "onnx", "onnxruntime")
    schemes: ClassVar[tuple[SchemeName, ...]] = BOTH
    suffix: ClassVar[str] = ".onnx"

    full: bool = False

    @property
    def title(self) -> str:
        """Its name."""
        return "NNCF, full bias correction" if self.full else "NNCF default"

    def prepare(self, bench: FloatFolder, target: Target) -> Callable[[], bytes]:
        """See the class."""
        import onnx

        from edgeres.onnx_graph.nncf import import_nncf
        from edgeres.onnx_graph.rewrite import rewrite
        from edgeres.onnx_graph.roles import float_nodes

        nncf = import_nncf()
        logging.getLogger("nncf").setLevel(logging.CRITICAL)
        model, images, scheme = onnx.load(bench.graph), Singles(bench), target.scheme
        assert scheme is not None
        if self.full:  # its partial graphs want a fixed batch size
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
            model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
        signed = scheme.signed
        kept = nncf.IgnoredScope(names=list(float_nodes(model, scheme))) if signed else None
        preset = nncf.QuantizationPreset.PERFORMANCE if signed else None

        def quantize() -> bytes:
            with redirect_stdout(sys.stderr), _as_written() if self.full else nullcontext():
                quantized = nncf.quantize(
                    model,
                    nncf.Dataset(images, lambda image: {IMAGE: image}),
                    preset=preset,
                    subset_size=len(images),
                    fast_bias_correction=not self.full,
                    ignored_scope=kept,
                )
            for value in (*quantized.graph.input, *quantized.graph.output):
                value.type.tensor_type.shape.dim[0].dim_param = "batch"
            made = rewrite(quantized, scheme).model if signed else quantized
            return bytes(made.SerializeToString(deterministic=True))

        return quantize


@contextmanager
def _as_written() -> Iterator[None]:
    """ONNX Runtime sessions that NNCF opens inside run without graph optimisation."""
    from nncf.onnx import engine

    runtime = engine.rt

    def session(model: bytes, options: Any, **arguments: Any) -> Any:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return runtime.InferenceSession(model, options, **arguments)

    engine.rt = SimpleNamespace(SessionOptions=runtime.SessionOptions, InferenceSession=session)
    try:
        yield
    finally:
        engine.rt = runtime


@dataclass(frozen=True, slots=True)
class OnnxRuntimeStatic:
    """``onnxruntime.quantization.quantize_static``, per channel, its own places and its own settings of each method.

    Signed schemes get symmetric int8 with float biases, which TensorRT takes; unsigned ones its uint8 defaults.
    """

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")
    schemes: ClassVar[tuple[SchemeName, ...]] = BOTH
    suffix: ClassVar[str] = ".onnx"

    method: Literal["MinMax", "Entropy", "Percentile"]

    @property
    def title(self) -> str:
        """Its method."""
        return f"ONNX Runtime {self.method}"

    def prepare(self, bench: FloatFolder, target: Target) -> Callable[[], bytes]:
        """See the class."""
        from onnxruntime import quantization

        logging.getLogger().setLevel(logging.ERROR)
        signed = target.scheme is not None and target.scheme.signed
        out = bench.model(f"onnxruntime-{self.method}-{signed}")
        extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if signed else {}

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ships no usable type information
            def __init__(self) -> None:
                self._images = iter(Singles(bench))

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                image = next(self._images, None)
                return None if image is None else {IMAGE: image}

        def quantize() -> bytes:
            quantization.quantize_static(
                str(bench.graph),
                str(out),
                Reader(),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[self.method],
                extra_options=extra,
            )
            return out.read_bytes()

        return quantize


@dataclass(frozen=True, slots=True)
class ModelOptimizer:
    """TensorRT Model Optimizer's ONNX road, INT8, on the CPU, in the batches edgeres calibrates in.

    Its ``onnx`` extra pins older versions of onnx and ONNX Runtime than edgeres runs with; the packages it imports on
    this road work with the newer ones.
    """

    packages: ClassVar[tuple[str, ...]] = (
        "nvidia-modelopt", "onnx-graphsurgeon", "onnxconverter-common", "onnxscript", "onnxslim", "polygraphy", "lief",
        "cppimport", "tqdm",
    )  # fmt: skip
    schemes: ClassVar[tuple[SchemeName, ...]] = ("tensorrt",)
    suffix: ClassVar[str] = ".onnx"

    method: Literal["max", "entropy"]

    @property
    def title(self) -> str:
        """Its method."""
        return f"Model Optimizer {self.method}"

    def prepare(self, bench: Bench, target: Target) -> Callable[[], bytes]:
        """See the class."""
        import numpy as np

        with redirect_stdout(sys.stderr):
            from modelopt.onnx.quantization import quantize as modelopt  # type: ignore[import-not-found,unused-ignore]

        out = bench.model(f"modelopt-{self.method}")

        def quantize() -> bytes:
            images = np.concatenate(list(bench.pixels("calibration").batches(32)))
            with redirect_stdout(sys.stderr):
                modelopt(
                    str(bench.graph),
                    quantize_mode="int8",
                    calibration_data={IMAGE: images},
                    calibration_method=self.method,
                    calibration_eps=["cpu"],
                    high_precision_dtype="fp32",
                    output_path=str(out),
                    log_level="ERROR",
                )
            return out.read_bytes()

        return quantize
