"""Every name of TensorRT's Python API that a source file reads, with the class it reads it off."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNERS = {
    "trt": "",
    "runtime": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "inspector": "EngineInspector",
    "flags": "NetworkDefinitionCreationFlag",
    "image": "ITensor",
    "self.engine": "ICudaEngine",
    "self.context": "IExecutionContext",
    "self.runtime": "Runtime",
    "self.trt": "",
    "configs[0].get_timing_cache()": "ITimingCache",
    "configs[0]": "IBuilderConfig",
}
"""What a source calls each object of TensorRT's; the empty owner is the module."""


def uses(path: Path) -> tuple[set[str], set[str]]:
    """``Class.name`` of every attribute read without a condition, and of every one asked for by name first."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain, asked = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            plain |= {f"{owner}.{node.attr}" for owner in _owner(node.value)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant):
                asked |= {f"{owner}.{name.value}" for owner in _owner(node.args[0])}
    return plain - asked, asked


def _owner(value: ast.expr) -> Iterator[str]:
    text = ast.unparse(value)
    if text in OWNERS:
        yield OWNERS[text]
    elif isinstance(value, ast.Attribute) and OWNERS.get(ast.unparse(value.value)) == "":
        yield value.attr  # an enumeration of the module, or a class
