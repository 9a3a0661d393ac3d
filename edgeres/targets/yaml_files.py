"""YAML files of this package: a device, a runtime or a hint is added as one file in its folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

import edgeres.targets


@cache
def yaml_files(folder: str) -> dict[str, Any]:
    """Content of each YAML file in ``devices``, ``runtimes`` or ``hints``, by the file's stem in alphabetical order."""
    paths = (path for root in edgeres.targets.__path__ for path in Path(root, folder).glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(paths, key=lambda p: p.stem)}
