"""``edgeres macs``: MACs, parameters and activations of a network by layer, and the results of other counters."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

from edgeres.cli.argument_types import positive
from edgeres.runs.figures import bytes_, scaled

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen
    from edgeres.cli.network_cost import NetworkCost
    from edgeres.model.conventions import Convention, CountTerm
    from edgeres.model.layers import Layer

_FLOAT32_BYTES = 4


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres macs``."""
    help_text = "count MACs, parameters and peak memory; explain what other counters print"
    command = commands.add_parser("macs", help=help_text)
    command.set_defaults(function=run)
    command.add_argument("model", metavar="MODEL", help="preset (see 'edgeres models') or any .onnx classifier")
    command.add_argument("--size", type=positive, metavar="PX", help="side of the image (default the network's own)")
    command.add_argument("--classes", type=positive, metavar="N", help="width of a preset's classifier")
    command.add_argument("--explain", action="store_true", help="say what other counters print, and why, term by term")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def run(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Prints the cost of each layer, or with ``--explain`` the results of other counters."""
    from edgeres.cli.network_cost import onnx_cost, preset_cost

    is_onnx = options.model.lower().endswith(".onnx")
    network = (onnx_cost if is_onnx else preset_cost)(options.model, options.size, options.classes)
    if options.json:
        screen.out.out(json.dumps(_document(network), indent=2))
        return 0
    if options.explain:
        _print_counters(network, screen)
    else:
        _print_layers(network, screen)
    for line in (*_summary(network), *(network.notes if options.explain else ())):
        screen.line(line)
    return 0


def _shown(network: NetworkCost) -> list[Layer]:
    """The layers that compute or copy something."""
    return [row for row in network.rows if row.kind != "view"]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _print_layers(network: NetworkCost, screen: Screen) -> None:
    """Prints one row per layer."""
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


def _summary(network: NetworkCost) -> tuple[str, ...]:
    """Totals of MACs, parameters, activations and peak memory, one line each."""
    from edgeres.model.layers import activations

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


def _print_counters(network: NetworkCost, screen: Screen) -> None:
    """Prints the result of each counter, and each of its terms except one operation per multiply-add."""
    from edgeres.model.conventions import CONVENTIONS, MEANING

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
        "\nno counter includes residual adds, sigmoids or padding; thop does not see functional calls in a module.\n"
        f"tables with binary prefixes have {gibi:.2f} G for these MACs and {mebi:.2f} M for these parameters.",
        highlight=False,
    )


def _printed(rule: Convention, count: int) -> str:
    """A count in the form and unit in which the counter prints it."""
    return f"{rule.written(count)} {rule.unit}".rstrip()


def _present(rule: Convention, rows: Sequence[Layer]) -> list[CountTerm]:
    """The terms of a counter that are not zero for these layers."""
    return [term for term in rule.terms if term.value(rows)]


def _document(network: NetworkCost) -> dict[str, Any]:
    """The costs for ``--json``."""
    from edgeres.model.conventions import CONVENTIONS
    from edgeres.model.layers import activations

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
    """A counter's result and terms for ``--json``."""
    from edgeres.model.conventions import MEANING

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
