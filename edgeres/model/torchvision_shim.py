"""Import of torchvision with a torch for which its compiled operators were not built.

The wheel on PyPI links against the CUDA build of torch. With a CPU build its ``_C.so`` does not load, torchvision
continues without it, and then its import fails with ``operator torchvision::nms does not exist``, because it registers
fake kernels for two operators of that library. Declaring the two is enough: models, transforms and data sets use
neither.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import BackendUnavailable

if TYPE_CHECKING:
    from types import ModuleType

    import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@cache
def import_torchvision() -> ModuleType:
    """The ``torchvision`` package, with or without its compiled operators.

    Raises:
        BackendUnavailable: torchvision is not installed.
    """
    from importlib.util import find_spec

    found = find_spec("torchvision")
    if found is None or found.origin is None:
        raise BackendUnavailable("torchvision is not installed", "pip install torchvision")
    if not _load_operators(Path(found.origin).parent):
        _declare_operators()
    return importlib.import_module("torchvision")


def _load_operators(package: Path) -> bool:
    """Whether torchvision's own compiled operators load into this torch."""
    import torch

    for library in sorted(package.glob("_C*")):
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        except OSError:
            return False
        return True
    return False


@cache
def _declare_operators() -> torch.library.Library:
    """Declares the two operators without kernels; the cache keeps the library, and with it the operators, alive."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return library
