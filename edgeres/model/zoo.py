"""Reading weights: files and torchvision's published ones."""

from __future__ import annotations

from edgeres.model.torchvision_shim import import_torchvision

__all__ = ["import_torchvision"]
