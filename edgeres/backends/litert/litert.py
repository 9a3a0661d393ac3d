"""LiteRT (TensorFlow Lite) backend: converts the graph to a ``.tflite`` file with the same scales.

Measured on an x86-64 host: XNNPACK, LiteRT's default delegate, takes every operator of a ResNet in one partition.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeres.artifacts.artifact import Engine, File
from edgeres.backends.backend import KernelCounts
from edgeres.backends.bundle.golden import compared
from edgeres.backends.bundle.write import litert_bundle
from edgeres.backends.loading import absent, intact, load
from edgeres.backends.session import ShownSession, in_batches
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.backend import Session, Shown
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

TITLE, PIP = "LiteRT", "'edgeres[litert]'"
ENTRY = "model.tflite"
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."


@dataclass(frozen=True, slots=True)
class LiteRT:
    """LiteRT on a CPU: on this host, or from a bundle on a device."""

    name: ClassVar[str] = "litert"

    def missing(self) -> str | None:
        """One sentence with the pip line when LiteRT is not installed here."""
        return absent("ai_edge_litert", TITLE, PIP)

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes ``model.tflite`` below ``out`` and compares golden outputs with the graph's; for a device, the bundle.

        Raises:
            BackendUnavailable: LiteRT is not installed.
            StageError: The graph has no form in LiteRT, or golden outputs differ.
        """
        load("ai_edge_litert", TITLE, PIP)
        with progress.task("litert", 2) as advance:
            host = target.build_on == "host"
            model, forms = _in_form(intact(exported.model), here=host)
            advance(1)
            with _open(model, 1) as session:
                evidence = [compared(session, exported, ENTRY, TITLE), *forms]
            if not host:
                files = litert_bundle(exported, target, out, ENTRY, model)
                evidence.append("it ran on this host's processor, not on the device's")
            else:
                (out / ENTRY).write_bytes(model)
                files = {ENTRY: File.of(out / ENTRY)}
            advance(1)
        return Engine(exported, self.name, ENTRY, files, host, tuple(evidence))

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the deployed file, or an ONNX graph of the same run converted to that format."""
        path = intact(model or engine.files[engine.entry])
        return _open(path.read_bytes() if path.suffix == ".tflite" else _encoded(path), threads)

    def concurrent(self, engine: Engine) -> bool:
        """True: interpreters share no state."""
        return True

    @contextmanager
    def showing(self, engine: Engine, tensors: Sequence[str], threads: int | None = None) -> Iterator[Shown]:
        """Converts the graph with codes as additional outputs, which are converted back to the graph's type."""
        path = intact(engine.exported.model)
        unsigned = _unsigned(path)
        opened = _Interpreted(_interpreter(_encoded(path, tensors), threads or _cores()))

        def run(images: NDArray[np.float32]) -> list[NDArray[np.generic]]:
            logits, *codes = opened.answers(images)
            shown = zip(tensors, codes, strict=True)
            return [logits, *(_as_in_onnx(value, unsigned=name in unsigned) for name, value in shown)]

        yield ShownSession(run, tensors, 1)

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Counts the operators of LiteRT's interpreter by their output type, including those delegated to XNNPACK."""
        interpreter = _interpreter(intact(engine.files[engine.entry]).read_bytes(), 1)
        details = interpreter._get_ops_details()  # the only public list of operators there is
        taken = {int(index) for entry in details if entry["op_name"] == "DELEGATE" for index in entry["inputs"]}
        kernels: Counter[str] = Counter()
        integer = weighted = delegated = 0
        for entry in details:
            kind = entry["op_name"]
            if kind == "DELEGATE":
                continue
            (made,) = entry["result_types"]
            kernels[f"{kind} {np.dtype(made).name}"] += 1
            if kind in WEIGHTED:
                weighted += 1
                delegated += int(entry["inputs"][1]) in taken
                integer += {np.dtype(given) for given in (*entry["operand_types"][:2], made)} == {np.dtype(np.int8)}
        return KernelCounts(
            integer=integer,
            weighted=weighted,
            counts=dict(sorted(kernels.items())),
            how="counted in LiteRT's interpreter on this host, whose XNNPACK delegate took over "
            f"{delegated} of {weighted} weighted layers",
        )


def _encoded(path: Path, shown: Sequence[str] = ()) -> bytes:
    """An ONNX file as a ``.tflite`` file, with the outputs of some QuantizeLinear nodes as additional outputs."""
    import onnx

    return _written(onnx.load(str(path)), shown)


def _in_form(path: Path, *, here: bool) -> tuple[bytes, tuple[str, ...]]:
    """The deployed file with notes on its form, which is the host form where it was measured to be faster."""
    import onnx

    from edgeres.onnx_graph.space_to_depth import in_host_form

    model = onnx.load(str(path))
    form, said = in_host_form(model) if here else (model, ())
    return _written(form), said


def _written(model: ModelProto, shown: Sequence[str] = ()) -> bytes:
    from edgeres.backends.litert.tflite.encode import encode
    from edgeres.backends.litert.tflite.translate import translate

    load("ai_edge_litert", TITLE, PIP)
    return encode(translate(model, shown))


def _unsigned(path: Path) -> frozenset[str]:
    """Names of the codes that are uint8 in the graph: QuantizeLinear gives those unless its zero-point is int8."""
    import onnx

    from edgeres.onnx_graph.graph_index import GraphIndex

    view = GraphIndex.of(onnx.load(str(path)))
    types = {
        node.output[0]: view.value(node.input[2]) if len(node.input) > 2 else None
        for node in view.of_type("QuantizeLinear")
    }
    return frozenset(name for name, zero in types.items() if zero is None or zero.dtype == np.uint8)


def _as_in_onnx(codes: NDArray[np.generic], *, unsigned: bool) -> NDArray[np.generic]:
    """int8 codes ``[1,H,W,C]`` as ``[1,C,H,W]`` of ONNX's type; a uint8 code is 128 above its int8 one."""
    laid_out = codes.transpose(0, 3, 1, 2) if codes.ndim == 4 else codes
    return (laid_out.astype(np.int16) + 128).astype(np.uint8) if unsigned else laid_out


class _Interpreted:
    """A network in LiteRT's interpreter: one image ``[1,H,W,C]`` at a time."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._input = int(interpreter.get_input_details()[0]["index"])
        self._outputs = [int(details["index"]) for details in interpreter.get_output_details()]

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        return in_batches(lambda image: self.answers(image)[0], images, 1)

    def answers(self, image: NDArray[np.float32]) -> list[Any]:
        """Every output for one image ``[1,C,H,W]``, in LiteRT's layout."""
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


@contextmanager
def _open(model: bytes, threads: int | None) -> Iterator[_Interpreted]:
    yield _Interpreted(_interpreter(model, threads or _cores()))


def _cores() -> int:
    return os.cpu_count() or 1


def _interpreter(model: bytes, threads: int) -> Any:
    """An interpreter with its tensors allocated.

    Raises:
        StageError: LiteRT rejected the file; the message quotes it.
    """
    interpreter = load("ai_edge_litert.interpreter", TITLE, PIP)
    try:
        with _without_greeting():
            made = interpreter.Interpreter(model_content=model, num_threads=threads)
            made.allocate_tensors()
    except (RuntimeError, ValueError) as refusal:
        raise StageError(f"LiteRT refused the file: {refusal}", "see the operator it names") from refusal
    return made


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Drops the line that XNNPACK writes to stderr when it is loaded; other output is written afterwards.

    LiteRT has no setting for it, and writes to the file descriptor.
    """
    sys.stderr.flush()
    with TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            for line in kept:
                if line.strip() != _GREETING:
                    os.write(2, line)
