"""Every quantizer there is here, each from the same float network and pixels to one file.

``python -m benchmarks.contenders FOLDER SCHEME NAME`` runs one in a process of its own and prints what it took as
JSON. The clock runs while it quantizes: neither imports nor the reading of the float network count, the reading of
images does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import Bench
from benchmarks.peers import ModelOptimizer, Nncf, OnnxRuntimeStatic
from benchmarks.pt2e import TorchAo
from benchmarks.quantizer import SCHEMES, Quantizer
from benchmarks.techniques import TECHNIQUES, Ours
from edgeres.errors import UsageError, nearest
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Sequence


DEFAULT = "edgeres-default"
"""What ``edgeres compile`` ships where nothing is set."""


def _all() -> dict[str, Quantizer]:
    ours: dict[str, Quantizer] = {
        DEFAULT: Ours(None),
        **{f"edgeres-{technique}": Ours(technique) for technique in TECHNIQUES},
    }
    theirs: dict[str, Quantizer] = {
        "nncf": Nncf(),
        "nncf-full": Nncf(full=True),
        "onnxruntime-minmax": OnnxRuntimeStatic("MinMax"),
        "onnxruntime-entropy": OnnxRuntimeStatic("Entropy"),
        "onnxruntime-percentile": OnnxRuntimeStatic("Percentile"),
        "modelopt-max": ModelOptimizer("max"),
        "modelopt-entropy": ModelOptimizer("entropy"),
        "torchao-x86": TorchAo("x86"),
        "torchao-xnnpack": TorchAo("xnnpack"),
    }
    return {**ours, **theirs}


QUANTIZERS = _all()
"""Every quantizer by the name its process is called with."""
PEERS = tuple(name for name, quantizer in QUANTIZERS.items() if not isinstance(quantizer, Ours))


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
    bench, quantizer = Bench(options.folder), QUANTIZERS[options.quantizer]
    quantize = quantizer.prepare(bench, find_target(SCHEMES[options.scheme]))
    start = time.monotonic()
    model = quantize()
    seconds = time.monotonic() - start
    bench.model(f"{options.scheme}-{options.quantizer}", quantizer.suffix).write_bytes(model)
    print(json.dumps({"seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
