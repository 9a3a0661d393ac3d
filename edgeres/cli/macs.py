"""``edgeres macs``: MACs, parameters and activations of a network by layer, and the results of other counters."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeres.cli._options import Commands, Options, image_size, positive
from edgeres.errors import UsageError
from edgeres.runs.figures import bytes_, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.cli._console import Screen
    from edgeres.data.size import Size
    from edgeres.model.conventions import CountTerm
    from edgeres.model.cost import Layer, Peak

PLACE = 150

_FLOAT32_BYTES = 4


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres macs``."""
    help_text = "count MACs, parameters and peak memory; explain what other counters print"
    add = commands.add_parser("macs", help=help_text).add_argument
    add("model", metavar="MODEL", help="preset (see 'edgeres models') or any .onnx classifier")
    add("--size", type=image_size, metavar="PX|HxW", help="size of the image (default the network's own)")
    add("--classes", type=positive, metavar="N", help="width of a preset's classifier")
    add("--explain", action="store_true", help="say what other counters print, and why, term by term")
    add("--json", action="store_true", help="machine-readable output")


def run(options: Options, screen: Screen) -> int:
    """Prints the cost of each layer, or with ``--explain`` the results of other counters."""
    is_onnx = options.model.lower().endswith(".onnx")
    network = (_onnx_cost if is_onnx else _preset_cost)(options.model, options.size, options.classes)
    if options.json:
        screen.json(_document(network))
        return 0
    if options.explain:
        _print_counters(network, screen)
    else:
        shape = [(row.name, row.operator, _shape(row.output_shape)) for row in network.shown]
        counts = [(prod(row.output_shape), row.macs, row.parameters) for row in network.shown]
        rows = [(*row, *(f"{count:,}" for count in counted)) for row, counted in zip(shape, counts, strict=True)]
        screen.table(("layer", "operator", "output", "activations", "MACs", "parameters"), rows)
    for line in (*_summary(network), *(network.notes if options.explain else ())):
        screen.line(line)
    return 0


class _NetworkCost(NamedTuple):
    """A network's layers, in order of execution, for one image of a shape ``[C,H,W]``.

    ``notes`` say what other counters do differently with this network.
    """

    name: str
    image: tuple[int, ...]
    rows: tuple[Layer, ...]
    peak: Peak
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Parameters of all layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def shown(self) -> list[Layer]:
        """The layers that compute or copy something."""
        return [row for row in self.rows if row.kind != "view"]


def _preset_cost(name: str, size: Size | None, classes: int | None) -> _NetworkCost:
    """The costs of a preset, by default with its own classes, at 224 pixels for an ImageNet stem and 32 for CIFAR's."""
    from dataclasses import replace

    from edgeres.model.cost import layers, peak
    from edgeres.model.graph import graph
    from edgeres.model.presets import preset

    spec = preset(name)
    spec = replace(spec, classes=classes or spec.classes)
    size = size or spec.image_size
    rows, image = layers(graph(spec), *size), (spec.channels, *size)
    return _NetworkCost(name, image, rows, peak(rows, image))


def _onnx_cost(name: str, size: Size | None, classes: int | None) -> _NetworkCost:
    """The costs of an ONNX file, by default at the graph's own image size."""
    from edgeres.model.cost import peak
    from edgeres.onnx_graph.operator_counts import UNCOVERED, image_of, layers, qdq, sized
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
    return _NetworkCost(Path(name).stem, image, rows, peak(rows, image, tensor), tuple(notes))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _summary(network: _NetworkCost) -> tuple[str, ...]:
    from edgeres.model.cost import activations

    most = network.peak
    tensors = ", ".join(f"{name} {count:,}" for name, count in most.tensors)
    total = activations(network.rows)
    return (
        f"{network.name} at {_shape(network.image)}: {network.macs:,} MACs ({scaled(network.macs)}), "
        f"{network.parameters:,} parameters ({scaled(network.parameters)})",
        f"activations: {total:,} ({scaled(total)}) made by convolutions and matrix products",
        f"peak activation memory: {bytes_(most.elements * _FLOAT32_BYTES)} in float32, {bytes_(most.elements)} "
        f"in int8, at {most.layer} ({tensors}); kernels' workspaces come on top",
    )


def _print_counters(network: _NetworkCost, screen: Screen) -> None:
    """Prints the result of each counter, and each of its terms except one operation per multiply-add."""
    from edgeres.model.conventions import CONVENTIONS

    rows: list[tuple[str, ...]] = []
    term_rows: list[tuple[str, ...]] = []
    for rule in CONVENTIONS:
        count, present = rule.count(network.rows), [term for term in rule.terms if term.value(network.rows)]
        parts = " + ".join(f"{term.factor} x {term.quantity.name}" for term in present)
        figures = (rule.printed(network.rows), f"{count:,}", f"{count - network.macs:+,}")
        rows.append((f"{rule.tool} {rule.version}", *figures, parts))
        term_rows += [
            (rule.tool, f"{term.value(network.rows):,}", str(term.factor), term.quantity.meaning, term.why)
            for term in rule.terms_beyond_macs
            if term.value(network.rows)
        ]
    screen.table(("counter", "prints", "operations", "beyond MACs", "which are"), rows)
    screen.out.out("")
    screen.table(("counter", "counts", "factor", "for", "because"), term_rows)
    gibi, mebi = network.macs / (1 << 30), network.parameters / (1 << 20)
    screen.out.out(
        "\nno counter includes residual adds, sigmoids or padding; thop does not see functional calls in a module.\n"
        f"tables with binary prefixes have {gibi:.2f} G for these MACs and {mebi:.2f} M for these parameters.",
        highlight=False,
    )


def _document(network: _NetworkCost) -> dict[str, Any]:
    from edgeres.model.conventions import CONVENTIONS
    from edgeres.model.cost import activations

    def term(one: CountTerm) -> dict[str, Any]:
        count = one.value(network.rows)
        return {"factor": one.factor, "of": one.quantity.meaning, "operations": count, "why": one.why}

    most = network.peak
    peak = {"elements": most.elements, "float32_bytes": most.elements * _FLOAT32_BYTES, "int8_bytes": most.elements}
    return {
        "model": network.name,
        "image": network.image,
        "macs": network.macs,
        "parameters": network.parameters,
        "activations": activations(network.rows),
        "peak_activation": {**peak, "layer": most.layer, "tensors": dict(most.tensors)},
        "layers": [
            {"name": row.name, "operator": row.operator, "output": row.output_shape}
            | {"macs": row.macs, "parameters": row.parameters}
            for row in network.shown
        ],
        "counters": [
            {"tool": rule.tool, "version": rule.version, "prints": rule.printed(network.rows)}
            | {"operations": rule.count(network.rows), "terms": [term(one) for one in rule.terms]}
            for rule in CONVENTIONS
        ],
        "notes": network.notes,
    }
