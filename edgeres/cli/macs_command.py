"""``edgeres macs``: what a network costs, layer by layer, and what other counters say about it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.console import Screen
from edgeres.errors import UsageError
from edgeres.model.conventions import CONVENTIONS, MEANING
from edgeres.model.layers import activations, peak
from edgeres.runs.figures import bytes_, scaled

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from edgeres.model.conventions import Convention, CountTerm
    from edgeres.model.layers import Layer, Peak

_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class _Network:
    """A network of known image size."""

    name: str
    image: tuple[int, ...]
    rows: tuple[Layer, ...]
    tensor: str
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def peak(self) -> Peak:
        return peak(self.rows, self.image, self.tensor)


def macs_command(options: Namespace, given: list[str]) -> int:
    """``edgeres macs``."""
    screen = Screen(quiet=False)
    foreign = options.model.lower().endswith(".onnx")
    network = (_foreign if foreign else _preset)(options.model, options.size, options.classes)
    if options.json:
        screen.out.out(json.dumps(_document(network), indent=2))
        return 0
    if options.explain:
        _explain(network, screen)
    else:
        _table(network, screen)
    for line in (*_summary(network), *(network.notes if options.explain else ())):
        screen.line(line)
    return 0


def _preset(name: str, size: int | None, classes: int | None) -> _Network:
    from edgeres.model.graph import IMAGE
    from edgeres.model.layers import layers
    from edgeres.model.spec import preset

    spec = preset(name)
    if classes is not None:
        spec = replace(spec, classes=classes)
    side = size or (224 if spec.stem.pool else 32)
    return _Network(name, (spec.channels, side, side), layers(spec, side, side), IMAGE)


def _foreign(name: str, size: int | None, classes: int | None) -> _Network:
    from edgeres.onnx_graph.layers import UNCOVERED, image_of, layers, sized
    from edgeres.onnx_graph.operator_counts import qdq
    from edgeres.onnx_graph.read import read_model

    if classes is not None:
        raise UsageError(f"--classes {classes} beside {name}", "an ONNX file has its classes; export it with others")
    model = sized(read_model(Path(name)), size)
    rows = layers(model)
    tensor, image = image_of(model)
    notes = []
    if qdq(model).activations:
        notes.append("Q/DQ pairs count nothing here; the counters never see them, because they read the float module.")
    if not any(row.kind == "norm" for row in rows):
        notes.append("no batch norm is left in this graph; of a torch module that has them, the counters count them.")
    if uncovered := sorted({row.operator for row in rows} & UNCOVERED):
        notes.append(f"some counters weigh {', '.join(uncovered)}, which no closed form here covers.")
    return _Network(Path(name).stem, image, rows, tensor, tuple(notes))


def _shown(network: _Network) -> list[Layer]:
    return [row for row in network.rows if row.kind != "view"]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _table(network: _Network, screen: Screen) -> None:
    rows = [
        (
            row.name,
            row.operator,
            _shape(row.output_shape),
            f"{prod(row.output_shape):,}",
            f"{row.macs:,}",
            f"{row.parameters:,}",
        )
        for row in _shown(network)
    ]
    screen.table(("layer", "operator", "output", "activations", "MACs", "parameters"), rows)


def _summary(network: _Network) -> tuple[str, ...]:
    most = network.peak
    held = ", ".join(f"{name} {count:,}" for name, count in most.tensors)
    made = activations(network.rows)
    return (
        f"{network.name} at {_shape(network.image)}: {network.macs:,} MACs ({scaled(network.macs)}), "
        f"{network.parameters:,} parameters ({scaled(network.parameters)})",
        f"activations: {made:,} ({scaled(made)}) made by convolutions and matrix products",
        f"peak activation memory: {bytes_(most.elements * _FLOAT32_BYTES)} in float32, {bytes_(most.elements)} "
        f"in int8, at {most.layer} ({held}); kernels' workspaces come on top",
    )


def _explain(network: _Network, screen: Screen) -> None:
    """What each counter prints, and every term of it beyond one per multiply-add."""
    counts = [(rule, rule.count(network.rows)) for rule in CONVENTIONS]
    screen.table(
        ("counter", "prints", "operations", "beyond MACs", "which are"),
        (
            (
                f"{rule.tool} {rule.version}",
                _printed(rule, count),
                f"{count:,}",
                f"{count - network.macs:+,}",
                " + ".join(f"{term.factor} x {term.quantity}" for term in _present(rule, network.rows)),
            )
            for rule, count in counts
        ),
    )
    screen.out.out("")
    screen.table(
        ("counter", "counts", "factor", "for", "because"),
        (
            (rule.tool, f"{term.value(network.rows):,}", str(term.factor), MEANING[term.quantity], term.why)
            for rule in CONVENTIONS
            for term in _present(rule, network.rows)
            if (term.factor, term.quantity) != (1, "MACs")
        ),
    )
    gibi, mebi = network.macs / (1 << 30), network.parameters / (1 << 20)
    screen.out.out(
        "\nnobody counts residual adds, sigmoids or padding; what a module calls as a function, thop does not see.\n"
        f"tables with binary prefixes have {gibi:.2f} G for these MACs and {mebi:.2f} M for these parameters.",
        highlight=False,
    )


def _printed(rule: Convention, count: int) -> str:
    return f"{rule.written(count)} {rule.unit}".rstrip()


def _present(rule: Convention, rows: Sequence[Layer]) -> list[CountTerm]:
    return [term for term in rule.terms if term.value(rows)]


def _document(network: _Network) -> dict[str, Any]:
    most = network.peak
    return {
        "model": network.name,
        "image": list(network.image),
        "macs": network.macs,
        "parameters": network.parameters,
        "activations": activations(network.rows),
        "peak_activation": {
            "elements": most.elements,
            "float32_bytes": most.elements * _FLOAT32_BYTES,
            "int8_bytes": most.elements,
            "layer": most.layer,
            "tensors": dict(most.tensors),
        },
        "layers": [
            {
                "name": row.name,
                "operator": row.operator,
                "output": list(row.output_shape),
                "macs": row.macs,
                "parameters": row.parameters,
            }
            for row in _shown(network)
        ],
        "counters": [_counter(rule, network.rows) for rule in CONVENTIONS],
        "notes": list(network.notes),
    }


def _counter(rule: Convention, rows: Sequence[Layer]) -> dict[str, Any]:
    count = rule.count(rows)
    terms = [
        {"factor": term.factor, "of": MEANING[term.quantity], "operations": term.value(rows), "why": term.why}
        for term in rule.terms
    ]
    return {
        "tool": rule.tool,
        "version": rule.version,
        "prints": _printed(rule, count),
        "operations": count,
        "terms": terms,
    }
