"""Every target as a table, from the files themselves.

``python -m benchmarks.profiles --write docs/targets.md`` keeps it between the markers of the document.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import run
from benchmarks.table import markdown, with_block
from edgeres.targets.target import find_target, targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.targets.target import Target

MARKERS = "<!-- targets:begin -->", "<!-- targets:end -->"


def profiles() -> str:
    """Devices with their peaks, then what runs on them."""
    known = targets().values()
    heads = ("target", "what", "graph", "INT8 TOPS", "GB/s", "W", "DLAs", "figures from")
    devices = markdown(heads, (_device(target) for target in known), words=3)
    runtimes = {version: find_target(f"{target.name}:{version}") for target in known for version in target.versions}
    columns = ("version", "runtime", "opset", "IR", "weights", "typing", "flags", "facts from")
    rows = (_runtime(name, runtimes[name]) for name in sorted(runtimes, key=_order))
    offered = markdown(
        ("target", "versions (the default in bold)"), (_versions(t) for t in known if t.versions), words=2
    )
    return f"### Devices\n\n{devices}\n\n### Versions of each device\n\n{offered}\n\n### Runtimes\n\n" + markdown(
        columns, rows, words=8
    )


def _device(target: Target) -> tuple[str, ...]:
    device, scheme = target.device, target.scheme
    graph = "float, no Q/DQ" if scheme is None else f"{'int8' if scheme.signed else 'uint8'} activations"
    if scheme is not None and scheme.reduce_range and device.isa:  # of this host it says nothing: hosts differ
        graph += ", 7-bit weights"
    figures = (device.int8_tops, device.bandwidth_gbs, device.tdp_w)
    cells = ("-" if figure is None else f"{figure:g}" for figure in figures)
    return (target.name, device.name, graph, *cells, str(device.dla_cores), device.source)


def _versions(target: Target) -> tuple[str, str]:
    return target.name, ", ".join(f"**{name}**" if name == target.version else name for name in target.versions)


def _runtime(name: str, target: Target) -> tuple[str, ...]:
    runtime = target.runtime
    weights = "float -> Q -> DQ" if runtime.float_weights else "codes -> DQ"
    typing = "strong: FP16 in the graph" if runtime.strongly_typed else "weak: --fp16" if runtime.tensorrt else "-"
    flags = " ".join(f"`{flag}`" for flag in runtime.flags)
    return (name, runtime.name, str(runtime.opset), str(runtime.ir_version), weights, typing, flags, runtime.source)


def _order(name: str) -> tuple[str, tuple[int, ...]]:
    kind = name.rstrip("0123456789.")
    return kind, tuple(int(part) for part in name.removeprefix(kind).split(".") if part)


def main(given: Sequence[str] | None = None) -> int:
    """Prints or writes the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description="every target as a table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep it between the markers of a document")

    def work(options: argparse.Namespace) -> str:
        text = profiles()
        if options.write:
            options.write.write_text(with_block(options.write.read_text(encoding="utf-8"), text, MARKERS), "utf-8")
        return text

    return run(parser, work, given)


if __name__ == "__main__":
    sys.exit(main())
