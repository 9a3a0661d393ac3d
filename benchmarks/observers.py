"""What ``benchmarks.calibration`` measures, each in a process of its own.

``python -m benchmarks.observers FOLDER WHAT --images N`` calibrates with one of ``OBSERVERS``, or makes the folder
(``decode``), or times passes in turn (``overhead``), and prints what it took as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from benchmarks.bench import IR_VERSION, OPSET
from benchmarks.command import IMAGES, positive, require
from benchmarks.pixels import Pixels, decode
from edgeres.data.preprocess import Preprocess
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.model.network import Network
    from edgeres.targets.target import QuantScheme

MODEL = "resnet50"
PREPROCESS = Preprocess()
IMAGE = "image"
_CHUNK = 32
"""Images of one pass before the next one has its turn."""


class Observer(Protocol):
    """One way to calibrate."""

    @property
    def title(self) -> str:
        """For people."""

    def prepare(self, folder: Path, images: int) -> Callable[[], object]:
        """Imports and reads what it needs; the call it returns calibrates."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Edgeres: streaming histograms, from which any calibrator takes its range; here the default one."""

    title: str = "edgeres, any calibrator"

    def prepare(self, folder: Path, images: int) -> Callable[[], object]:
        """See the class."""
        from edgeres.quant.calibrator import activation_qparams
        from edgeres.quant.observer import observe

        network, wanted, scheme = float_network(), tensors(), signed()

        def calibrate() -> object:
            histograms = observe(network, pixels(folder).batches(_CHUNK, count=images), wanted)
            return {name: activation_qparams(seen, "mse", scheme) for name, seen in histograms.items()}

        return calibrate


@dataclass(frozen=True, slots=True)
class OnnxRuntimeCalibrator:
    """``onnxruntime.quantization.create_calibrator`` with its defaults, image by image."""

    method: Literal["MinMax", "Entropy", "Percentile"]

    @property
    def title(self) -> str:
        """Its method."""
        return f"ONNX Runtime {self.method}"

    def prepare(self, folder: Path, images: int) -> Callable[[], object]:
        """See the class."""
        from onnxruntime import quantization

        logging.getLogger().setLevel(logging.ERROR)
        method = quantization.CalibrationMethod[self.method]
        calibrator = quantization.create_calibrator(
            str(folder / "float.onnx"),
            augmented_model_path=str(folder / f"augmented-{self.method}.onnx"),
            calibrate_method=method,
        )

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ships no usable type information
            def __init__(self) -> None:
                self._images = pixels(folder).batches(1, count=images)

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                image = next(self._images, None)
                return None if image is None else {IMAGE: image}

        def calibrate() -> object:
            calibrator.collect_data(Reader())
            return calibrator.compute_data()

        return calibrate


@dataclass(frozen=True, slots=True)
class NncfStatistics:
    """``nncf.quantize`` with its defaults, image by image: its ranges cannot be had without its bias correction."""

    title: str = "NNCF, ranges and biases"

    def prepare(self, folder: Path, images: int) -> Callable[[], object]:
        """See the class."""
        import onnx

        from edgeres.onnx_graph.nncf import import_nncf

        nncf, model = import_nncf(), onnx.load(folder / "float.onnx")
        logging.getLogger("nncf").setLevel(logging.CRITICAL)

        class Images:
            def __len__(self) -> int:
                return images

            def __iter__(self) -> Iterator[NDArray[np.float32]]:
                return pixels(folder).batches(1, count=images)

        def calibrate() -> object:
            with redirect_stdout(sys.stderr):
                return nncf.quantize(model, nncf.Dataset(Images(), lambda image: {IMAGE: image}), subset_size=images)

        return calibrate


OBSERVERS: dict[str, Observer] = {
    "edgeres": Ours(),
    "onnxruntime-minmax": OnnxRuntimeCalibrator("MinMax"),
    "onnxruntime-entropy": OnnxRuntimeCalibrator("Entropy"),
    "onnxruntime-percentile": OnnxRuntimeCalibrator("Percentile"),
    "nncf": NncfStatistics(),
}
"""Every calibrator by the name its process is called with."""


def float_network() -> Network:
    """ResNet-50 without norms, its weights drawn by a fixed seed."""
    from dataclasses import replace

    import torch

    from edgeres.model.graph import graph
    from edgeres.model.network import Network
    from edgeres.model.presets import PRESETS

    torch.manual_seed(0)
    return Network(graph(replace(PRESETS[MODEL], norm=False))).eval()


def signed() -> QuantScheme:
    """TensorRT's scheme."""
    scheme = find_target("jetson").scheme
    assert scheme is not None
    return scheme


def tensors() -> tuple[str, ...]:
    """What TensorRT's scheme has to see of that network."""
    from edgeres.quant.placement import place

    return place(float_network().graph, signed()).observed


def pixels(folder: Path) -> Pixels:
    """The decoded images."""
    return Pixels(folder / "pixels", PREPROCESS.crop)


def make(folder: Path, images: int) -> None:
    """Decodes the images and writes the float graph."""
    from edgeres.data.dataset import open_dataset
    from edgeres.onnx_graph.write import write_model

    dataset = open_dataset(require(IMAGES), seed=0, calibration=images, allow=frozenset({"few-images"}))
    decode(dataset.calibration, PREPROCESS, folder / "pixels")
    network, size = float_network(), PREPROCESS.crop
    model = write_model(network.graph, network.weights(), size, opset=OPSET, ir_version=IR_VERSION)
    (folder / "float.onnx").write_bytes(model.SerializeToString(deterministic=True))


def overhead(folder: Path, images: int) -> dict[str, float]:
    """Seconds of each pass over all images, chunk by chunk in turn; the first chunk warms up and does not count."""
    from edgeres.quant.observer import observe

    network, wanted = float_network(), tensors()
    runs: dict[str, Callable[[NDArray[np.float32]], object]] = {
        "plain": network.logits,
        "plain1": lambda batch: [network.logits(batch[index : index + 1]) for index in range(len(batch))],
        "observe": lambda batch: observe(network, [batch], wanted),
    }
    took, seen = dict.fromkeys(runs, 0.0), 0
    for run in runs.values():
        run(next(pixels(folder).batches(_CHUNK)))
    order = list(runs)
    for batch in pixels(folder).batches(_CHUNK, count=images):
        for name in order:
            start = time.perf_counter()
            runs[name](batch)
            took[name] += time.perf_counter() - start
        order.reverse()
        seen += len(batch)
    return {"images": seen, **took}


def main(given: Sequence[str] | None = None) -> int:
    """Runs one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observers")
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=("decode", "overhead", *OBSERVERS))
    parser.add_argument("--images", type=positive, required=True)
    options = parser.parse_args(given)
    if options.what == "decode":
        make(options.folder, options.images)
        return 0
    if options.what == "overhead":
        print(json.dumps(overhead(options.folder, options.images)))
        return 0
    calibrate = OBSERVERS[options.what].prepare(options.folder, options.images)
    start = time.monotonic()
    calibrate()
    print(json.dumps({"seconds": time.monotonic() - start}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
