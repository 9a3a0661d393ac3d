"""Every quantizer there is here, each from the same float network and pixels to a Q/DQ graph.

``python -m benchmarks.contenders FOLDER NAME`` runs one in a process of its own and prints what it took as JSON. The
clock runs while it quantizes: neither imports nor the reading of the float network count, the reading of pixels does.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from benchmarks.bench import IR_VERSION, OPSET, PREPROCESS, Bench, network
from edgeres.errors import UsageError, nearest
from edgeres.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.target import QuantScheme

SchemeName = Literal["tensorrt", "x86"]
SCHEMES: dict[SchemeName, str] = {"x86": "cpu", "tensorrt": "jetson"}
"""Scheme to a target that wants it."""

IMAGE = "image"


class Quantizer(Protocol):
    """One way to quantize; frozen, with a title for people."""

    @property
    def title(self) -> str:
        """How the table calls it."""

    def prepare(self, bench: Bench, scheme: QuantScheme) -> Callable[[], bytes]:
        """Imports and reads what it needs; the call it returns quantizes and returns an ONNX file."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Edgeres' own road."""

    calibrator: str
    weights: Literal["mse", "max"]

    @property
    def title(self) -> str:
        """Its two settings."""
        return f"edgeres {self.calibrator}, weights {self.weights}"

    def prepare(self, bench: Bench, scheme: QuantScheme) -> Callable[[], bytes]:
        """The stages fold_batchnorm, quantize and export without their proofs."""
        from edgeres.model.graph import graph
        from edgeres.model.network import Network
        from edgeres.onnxfile.write import write_model
        from edgeres.quant.calibrator import activation_qparams
        from edgeres.quant.observer import observe
        from edgeres.quant.placement import place
        from edgeres.quant.qparams import QuantTable
        from edgeres.quant.weights import weight_qparams

        spec, weights = network()
        float_network = Network(spec, weights).eval()
        placement, pixels = place(graph(spec), scheme), bench.pixels("calibration")

        def quantize() -> bytes:
            histograms = observe(float_network, pixels.batches(32), placement.observed)
            found = {name: activation_qparams(seen, self.calibrator, scheme) for name, seen in histograms.items()}
            found |= {name: found[origin] for name, origin in placement.shared.items()}
            rounded = {
                name: weight_qparams(weights[f"{name}.weight"], scheme.weight_bits, self.weights)
                for name in sorted(placement.weighted)
            }
            activations = {name: found[name] for name in placement.tensors}
            table = QuantTable(
                activations=activations, weights=rounded, calibrator=self.calibrator, data="", images=len(pixels)
            )
            size = (PREPROCESS.crop, PREPROCESS.crop)
            model = write_model(
                spec, weights, size, opset=OPSET, ir_version=IR_VERSION, table=table, placement=placement
            )
            return bytes(model.SerializeToString(deterministic=True))

        return quantize


class _Single:
    """Calibration images one at a time, as often as they are asked for."""

    def __init__(self, bench: Bench) -> None:
        self._pixels = bench.pixels("calibration")

    def __len__(self) -> int:
        return len(self._pixels)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self._pixels.batches(1)


@dataclass(frozen=True, slots=True)
class Nncf:
    """NNCF's ONNX backend with its defaults, on all calibration images.

    TensorRT takes no such graph (uint8 behind a ReLU), so under its scheme this is NNCF's symmetric preset, brought
    under the scheme as edgeres does with foreign graphs.
    """

    @property
    def title(self) -> str:
        """Its name."""
        return "NNCF default"

    def prepare(self, bench: Bench, scheme: QuantScheme) -> Callable[[], bytes]:
        """See the class."""
        import onnx

        from edgeres.onnxfile.rewrite import rewrite
        from edgeres.onnxfile.roles import float_nodes
        from edgeres.quant.foreign import import_nncf, quantize_float_graph

        nncf = import_nncf()
        logging.getLogger("nncf").setLevel(logging.CRITICAL)
        model, images = onnx.load(bench.graph), _Single(bench)

        def by_defaults() -> bytes:
            dataset = nncf.Dataset(images, lambda image: {IMAGE: image})
            quantized = nncf.quantize(model, dataset, subset_size=len(images))
            return bytes(quantized.SerializeToString(deterministic=True))

        def under_scheme() -> bytes:
            quantized = quantize_float_graph(
                model, images, scheme, float_nodes=float_nodes(model, scheme), advance=lambda done: None
            )
            return bytes(rewrite(quantized, scheme).model.SerializeToString(deterministic=True))

        return under_scheme if scheme.signed else by_defaults


@dataclass(frozen=True, slots=True)
class OnnxRuntimeStatic:
    """``onnxruntime.quantization.quantize_static``, per channel, its own places and its own settings of each method.

    Signed schemes get symmetric int8 with float biases, which TensorRT takes; unsigned ones its uint8 defaults.
    """

    method: Literal["MinMax", "Entropy", "Percentile"]

    @property
    def title(self) -> str:
        """Its method."""
        return f"ONNX Runtime {self.method}"

    def prepare(self, bench: Bench, scheme: QuantScheme) -> Callable[[], bytes]:
        """See the class."""
        from onnxruntime import quantization

        logging.getLogger().setLevel(logging.ERROR)
        out = bench.model(f"onnxruntime-{self.method}-{scheme.signed}")
        extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if scheme.signed else {}

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ships no usable type information
            def __init__(self) -> None:
                self._images = iter(_Single(bench))

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                image = next(self._images, None)
                return None if image is None else {IMAGE: image}

        def quantize() -> bytes:
            quantization.quantize_static(
                str(bench.graph),
                str(out),
                Reader(),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8 if scheme.signed else quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[self.method],
                extra_options=extra,
            )
            return out.read_bytes()

        return quantize


def _all() -> dict[str, Quantizer]:
    ours: dict[str, Quantizer] = {
        f"edgeres-{calibrator}-{weights}": Ours(calibrator, weights)
        for calibrator in ("minmax", "moving_average", "percentile", "entropy", "mse")
        for weights in _WEIGHTS
    }
    methods: tuple[Literal["MinMax", "Entropy", "Percentile"], ...] = ("MinMax", "Entropy", "Percentile")
    theirs: dict[str, Quantizer] = {f"onnxruntime-{method.lower()}": OnnxRuntimeStatic(method) for method in methods}
    return {**ours, "nncf": Nncf(), **theirs}


_WEIGHTS: tuple[Literal["mse", "max"], ...] = ("mse", "max")
QUANTIZERS = _all()
"""Every quantizer by the name its process is called with."""


def main(given: Sequence[str] | None = None) -> int:
    """Runs one contender.

    Raises:
        UsageError: Nobody has that name.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contenders")
    parser.add_argument("folder", type=Path)
    parser.add_argument("scheme", choices=SCHEMES)
    parser.add_argument("quantizer")
    options = parser.parse_args(given)
    if options.quantizer not in QUANTIZERS:
        raise UsageError(f"no contender {options.quantizer!r}", nearest(options.quantizer, QUANTIZERS))
    scheme = find_target(SCHEMES[options.scheme]).scheme
    assert scheme is not None
    bench = Bench(options.folder)
    quantize = QUANTIZERS[options.quantizer].prepare(bench, scheme)
    start = time.monotonic()
    model = quantize()
    seconds = time.monotonic() - start
    bench.model(f"{options.scheme}-{options.quantizer}").write_bytes(model)
    print(json.dumps({"seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
