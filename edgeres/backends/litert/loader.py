"""LiteRT (TensorFlow Lite) backend: converts the graph to a ``.tflite`` file with the same scales."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeres.backends.backend import engine_path, kernel_counts
from edgeres.backends.converter import Converter
from edgeres.backends.session import BatchedSession, Package
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.artifacts.artifact import Engine, KernelCounts
    from edgeres.backends.backend import Role
    from edgeres.backends.bundle.write import Layout

PACKAGE = Package("ai_edge_litert", "LiteRT", "'edgeres[litert]'")
_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
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
    def open(self, content: bytes, threads: int | None) -> Iterator[BatchedSession]:
        """Opens a ``.tflite`` file; ``threads`` None takes one for each core."""
        loaded = interpreter(content, threads or os.cpu_count() or 1)
        image_index = int(loaded.get_input_details()[0]["index"])
        indices = [int(details["index"]) for details in loaded.get_output_details()]

        def outputs(image: NDArray[np.float32]) -> list[NDArray[Any]]:
            loaded.set_tensor(image_index, np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
            loaded.invoke()
            logits, *codes = (loaded.get_tensor(index) for index in indices)
            return [logits.transpose(0, 3, 1, 2) if logits.ndim == 4 else logits, *codes]

        yield BatchedSession(outputs, 1)

    def concurrent(self, engine: Engine) -> bool:
        """True: interpreters share no state."""
        return True

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts the operators of LiteRT's interpreter by their output type, including those delegated to XNNPACK."""
        # _get_ops_details is the only list of operators there is.
        details = interpreter(engine_path(engine).read_bytes(), 1)._get_ops_details()
        taken = {int(index) for entry in details if entry["op_name"] == "DELEGATE" for index in entry["inputs"]}
        executed = [entry for entry in details if entry["op_name"] != "DELEGATE"]
        delegated = [int(entry["inputs"][1]) in taken for entry in executed if entry["op_name"] in WEIGHTED]
        how = "counted in LiteRT's interpreter on this host, whose XNNPACK delegate took over "
        how += f"{sum(delegated)} of {len(delegated)} weighted layers"
        names = (f"{entry['op_name']} {np.dtype(entry['result_types'][0]).name}" for entry in executed)
        return kernel_counts(zip(names, map(_role, executed), strict=True), how)


BACKENDS = (LiteRT,)


def _role(operator: dict[str, Any]) -> Role:
    """Role of an operator of the interpreter by the types of its data, its weight and its output."""
    types = {np.dtype(name) for name in (*operator["operand_types"][:2], *operator["result_types"])}
    weighted: Role = "integer" if types == {np.dtype(np.int8)} else "float"
    return weighted if operator["op_name"] in WEIGHTED else "other"


def interpreter(content: bytes, threads: int) -> Any:
    """An interpreter of a file with its tensors allocated.

    Raises:
        StageError: LiteRT rejected the file; the message quotes it.
    """
    module = PACKAGE.load("interpreter")
    try:
        with _without_greeting():
            loaded = module.Interpreter(model_content=content, num_threads=threads)
            loaded.allocate_tensors()
    except (RuntimeError, ValueError) as refusal:
        raise StageError(f"LiteRT refused the file: {refusal}", "see the operator it names") from refusal
    return loaded


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Drops the line that XNNPACK writes to stderr when it is loaded; other output is written afterwards.

    LiteRT has no setting for it, and writes to the file descriptor.
    """
    sys.stderr.flush()
    with TemporaryFile() as captured:
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured:
                if line.strip() != _GREETING:
                    os.write(2, line)
