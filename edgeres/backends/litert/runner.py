"""Sessions of ``.tflite`` files in LiteRT's interpreter."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.backends.package import Package
from edgeres.backends.session import in_batches
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PACKAGE = Package("ai_edge_litert", "LiteRT", "'edgeres[litert]'")
_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."


class LiteRTSession:
    """A ``.tflite`` file in an interpreter, one image at a time; ``threads`` None takes one for each core."""

    def __init__(self, content: bytes, threads: int | None) -> None:
        self._interpreter = interpreter(content, threads or os.cpu_count() or 1)
        self._input = int(self._interpreter.get_input_details()[0]["index"])
        self._indices = [int(details["index"]) for details in self._interpreter.get_output_details()]

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        return in_batches(self.outputs, images, 1)[0]

    def outputs(self, image: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Every output for one image ``[1,C,H,W]``, the logits first, in LiteRT's layout ``[1,H,W,C]``."""
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._indices]


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
