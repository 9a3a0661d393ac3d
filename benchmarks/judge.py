"""How far a quantized graph is from the float network.

``python -m benchmarks.judge FOLDER SCHEME NAME`` prints the figures of one contender as JSON.

x86: ONNX Runtime with its integer kernels, without saturation (see ``bench.answers``). TensorRT: ONNX Runtime without
fusion, which follows the scales to the last bit and no kernel's shortcuts; the layers that TensorRT runs in integers
are read off the graph. What torchao made runs in torch, its Q/DQ pairs fused, and so are its integer layers counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.bench import JUDGED, Bench, answers
from benchmarks.contenders import QUANTIZERS
from edgeres.gate.paired_test import Paired, tango
from edgeres.metrics import agreement, kl, sqnr_db, top1

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import KernelCounts


def figures(
    float_logits: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Figures of logits ``[N,classes]`` against those of the float network.

    Returns:
        ``top1``, ``changed`` in percent, ``drop_pp``, ``low_pp``, ``high_pp``, ``kl`` in nats, ``sqnr_db``.
    """
    wanted, got, true = (array.tolist() for array in (float_logits.argmax(1), logits.argmax(1), labels))
    paired = Paired.of(wanted, got, true)
    interval = tango(paired)
    return {
        "float_top1": top1(wanted, true),
        "top1": top1(got, true),
        "changed": 100 - agreement(wanted, got),
        "drop_pp": paired.drop,
        "low_pp": interval.low,
        "high_pp": interval.high,
        "kl": kl(float_logits, logits),
        "sqnr_db": sqnr_db(float_logits, logits),
    }


def kernels(model: Path, *, optimised: bool) -> KernelCounts:
    """Layers in integers: of the graph as ONNX Runtime rewrote it, or as TensorRT is expected to run it."""
    import onnx

    from edgeres.backends.backend import expected_kernels
    from edgeres.backends.onnxruntime.loader import operator_counts
    from edgeres.backends.session import load_graph, options

    if not optimised:
        return expected_kernels(model, "TensorRT is not here")
    with TemporaryDirectory() as folder:
        settings = options(optimise=True)
        settings.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        load_graph(model, settings)
        nodes = onnx.load(Path(folder, "optimised.onnx"), load_external_data=False).graph.node
    kinds = [node.op_type for node in nodes]
    return operator_counts(kinds, "counted in ONNX Runtime's graph")


def judged(bench: Bench, scheme: str, quantizer: str) -> dict[str, object]:
    """Figures of what a contender left, in the runtime it is for: torch for a ``.pt2``, ONNX Runtime otherwise."""
    suffix, optimised = QUANTIZERS[quantizer].suffix, scheme == "x86"
    model = bench.model(f"{scheme}-{quantizer}", suffix)
    if suffix == ".onnx":
        found = kernels(model, optimised=optimised)
        run = partial(answers, model, optimise=optimised)
    else:
        from benchmarks import program

        found, run = program.kernels(model), partial(program.answers, model)
    document: dict[str, object] = {
        "integer": found.integer,
        "weighted": found.weighted,
        "images": len(bench.labels("validation")),
    }
    for name in JUDGED:
        document[name] = figures(bench.float_logits(name), run(bench.pixels(name)), bench.labels(name))
    return document


def main(given: Sequence[str] | None = None) -> int:
    """Judges one contender."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge")
    parser.add_argument("folder", type=Path)
    parser.add_argument("scheme")
    parser.add_argument("quantizer")
    options = parser.parse_args(given)
    print(json.dumps(judged(Bench(options.folder), options.scheme, options.quantizer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
