"""``Converter``: what backends share whose runtime reads a file format of its own, for one image at a time."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeres.artifacts.artifact import Engine, File
from edgeres.backends.backend import Backend, intact
from edgeres.backends.bundle.write import CHECK, golden, write_bundle
from edgeres.backends.session import ShownSession
from edgeres.errors import StageError
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.bundle.write import Golden, Layout
    from edgeres.backends.session import BatchedSession, Session
    from edgeres.onnx_graph.graph_index import GraphIndex
    from edgeres.onnx_graph.rounding import LayerDifference
    from edgeres.progress import Progress
    from edgeres.targets.target import Target


class Converter(Backend):
    """A backend that converts the graph to one file named ``entry``, on this host or for a device."""

    entry: ClassVar[str]
    layout: ClassVar[Layout] = "channels first"

    @abstractmethod
    def convert(self, model: ModelProto, shown: Sequence[str] = ()) -> tuple[bytes, tuple[str, ...]]:
        """The file of an ONNX graph, and notes on it; codes named by ``shown`` become outputs besides the logits.

        Raises:
            StageError: The graph has no form in the runtime.
        """

    @abstractmethod
    def open(self, content: bytes, threads: int | None) -> AbstractContextManager[BatchedSession]:
        """Opens a file for one image ``[1,C,H,W]`` at a time; ``outputs`` are in the runtime's layout.

        Raises:
            StageError: The runtime rejected it; the message quotes it.
        """

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes the file below ``out`` and compares golden outputs with the graph's; for a device, the bundle."""
        self.package.load()
        host = target.build_on == "host"
        with progress.task(self.name, 2) as advance:
            content, forms, notes = _converted(self, intact(exported.model), host=host)
            advance(1)
            with self.open(content, 1) as session:
                evidence = [self._compared(session, exported), *forms]
            if host:
                (out / self.entry).write_bytes(content)
                files = {self.entry: File.of(out / self.entry)}
            else:
                files = write_bundle(
                    exported,
                    target,
                    out,
                    entry=self.entry,
                    own={self.entry: content},
                    readme=f"README.{self.name}.md",
                    commands=CHECK,
                    layout=self.layout,
                )
                evidence.append("it ran on this host's processor, not on the device's")
            advance(1)
        return Engine(exported, self.name, self.entry, files, host, (*evidence, *notes))

    def _compared(self, session: Session, exported: Exported) -> str:
        """Evidence that a session gives the graph's logits for the golden images."""
        expected, title = golden(exported), self.package.title
        logits = session.run(expected.inputs)
        delta, images = float(np.abs(logits - expected.outputs).max()), f"{len(logits)} golden images"
        if delta <= expected.near:
            return f"{self.entry} answers {images} in {title} as the graph does, within 3 % of their range"
        worst = self._worst_layer(exported.model.path, expected, logits) if np.isfinite(logits).all() else None
        if worst is None or not worst.explained:
            what = f"{title}'s logits are {delta:.3g} from those of {exported.model.path.name}"
            place = "" if worst is None else f" and codes of {worst.layer!r} up to {worst.codes:.3g}"
            explained = expected.near if worst is None else worst.allowed
            raise StageError(f"{what}{place}; rounding explains {explained:.3g}", "please report it")
        return (
            f"{self.entry} answers {images} in {title} up to {delta:.3g} from the graph, and each layer as the graph"
            f" does, within {worst.codes:.3g} of its codes: this network enlarges roundings"
        )

    def _worst_layer(self, graph: Path, expected: Golden, logits: NDArray[np.float32]) -> LayerDifference | None:
        """The layer whose codes differ most from its definition.

        None for a graph without codes, and where the network that shows its codes has other logits than the built one.
        """
        import onnx

        from edgeres.onnx_graph.graph_index import GraphIndex
        from edgeres.onnx_graph.rounding import worst_layer

        model = onnx.load(str(graph))
        tensors = [node.output[0] for node in GraphIndex.of(model).activation_quantizers()]
        if not tensors:
            return None
        with self.showing(graph, tensors, 1) as shown:
            answers, codes = shown.run(expected.inputs)
        if not np.abs(answers - logits).max() <= expected.near:
            return None
        return worst_layer(model, expected.inputs, codes, answers)

    @contextmanager
    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> Iterator[Session]:
        """Opens the deployed file, or an ONNX graph converted to that format."""
        content = engine.read_bytes() if engine else _cached(self, graph, sha256_file(graph))
        with self.open(content, threads) as session:
            yield session

    @contextmanager
    def showing(self, graph: Path, tensors: Sequence[str], threads: int | None = None) -> Iterator[ShownSession]:
        """Converts the graph with codes as additional outputs, which are converted back to the graph's type."""
        import onnx

        from edgeres.onnx_graph.graph_index import GraphIndex

        model = onnx.load(str(graph))
        unsigned, (content, _) = _unsigned(GraphIndex.of(model)), self.convert(model, tensors)
        with self.open(content, threads) as session:

            def outputs(image: NDArray[np.float32]) -> list[NDArray[np.generic]]:
                logits, *codes = session.outputs(image)
                if self.layout == "channels last":
                    codes = [value.transpose(0, 3, 1, 2) if value.ndim == 4 else value for value in codes]
                shown = zip(tensors, codes, strict=True)
                return [logits, *(_shifted(value) if name in unsigned else value for name, value in shown)]

            yield ShownSession(outputs, tensors, 1)


def _unsigned(view: GraphIndex) -> frozenset[str]:
    """Names of the codes that are uint8 in the graph: QuantizeLinear gives those unless its zero-point is int8."""
    types = {node.output[0]: view.zero_point(node) for node in view.of_type("QuantizeLinear")}
    return frozenset(name for name, zero in types.items() if zero is None or zero.dtype == np.uint8)


def _shifted(codes: NDArray[np.generic]) -> NDArray[np.uint8]:
    """uint8 codes, which are 128 above the int8 ones of the same numbers."""
    return (codes.astype(np.int16) + 128).astype(np.uint8)


def _converted(backend: Converter, graph: Path, *, host: bool) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """The file of a graph, in the form measured to be faster where it is for this host, and notes on form and file."""
    import onnx

    from edgeres.onnx_graph.lowering import in_host_form

    model = onnx.load(str(graph))
    form, forms = in_host_form(model) if host else (model, ())
    content, notes = backend.convert(form)
    return content, forms, notes


@lru_cache(maxsize=1)
def _cached(backend: Converter, graph: Path, sha256: str) -> bytes:
    """A converted graph; a float reference is opened twice in a row, for its predictions and for its latency."""
    return _converted(backend, graph, host=True)[0]
