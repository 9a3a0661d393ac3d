"""LiteRT (TensorFlow Lite) backend: converts the graph to a ``.tflite`` file with the same scales."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeres.artifacts.artifact import KernelCounts
from edgeres.backends.backend import engine_path
from edgeres.backends.converter import Converter
from edgeres.backends.litert.runner import PACKAGE, LiteRTSession, interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto

    from edgeres.artifacts.artifact import Engine
    from edgeres.backends.bundle.write import Layout
    from edgeres.backends.package import Package

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


@dataclass(frozen=True, slots=True)
class LiteRT(Converter):
    """LiteRT on a CPU: on this host, or from a bundle on a device.

    Measured on an x86-64 host: XNNPACK, its default delegate, takes every operator of a ResNet in one partition.
    """

    name: ClassVar[str] = "litert"
    package: ClassVar[Package] = PACKAGE
    entry: ClassVar[str] = "model.tflite"
    layout: ClassVar[Layout] = "channels last"

    def convert(self, model: ModelProto, shown: Sequence[str] = ()) -> tuple[bytes, tuple[str, ...]]:
        """A ``.tflite`` file, with the outputs of some QuantizeLinear nodes as additional outputs."""
        from edgeres.backends.litert.tflite.program import encode
        from edgeres.backends.litert.tflite.translate import translate

        PACKAGE.load()
        return encode(translate(model, shown)), ()

    @contextmanager
    def open(self, content: bytes, threads: int | None) -> Iterator[LiteRTSession]:
        """Opens a ``.tflite`` file."""
        yield LiteRTSession(content, threads)

    def concurrent(self, engine: Engine) -> bool:
        """True: interpreters share no state."""
        return True

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts the operators of LiteRT's interpreter by their output type, including those delegated to XNNPACK."""
        # _get_ops_details is the only list of operators there is.
        details = interpreter(engine_path(engine).read_bytes(), 1)._get_ops_details()
        taken = {int(index) for entry in details if entry["op_name"] == "DELEGATE" for index in entry["inputs"]}
        kernels: Counter[str] = Counter()
        integer = weighted = delegated = 0
        for entry in details:
            kind = entry["op_name"]
            if kind == "DELEGATE":
                continue
            (output,) = entry["result_types"]
            kernels[f"{kind} {np.dtype(output).name}"] += 1
            if kind in WEIGHTED:
                weighted += 1
                delegated += int(entry["inputs"][1]) in taken
                integer += {np.dtype(name) for name in (*entry["operand_types"][:2], output)} == {np.dtype(np.int8)}
        how = "counted in LiteRT's interpreter on this host, whose XNNPACK delegate took over "
        how += f"{delegated} of {weighted} weighted layers"
        return KernelCounts(integer=integer, weighted=weighted, counts=dict(sorted(kernels.items())), how=how)


BACKENDS = (LiteRT,)
