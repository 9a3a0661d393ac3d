"""``EntryFolder``: where artifacts that are written as plain data put their files and weights.

pydantic reads and writes artifacts with an ``EntryFolder`` as context. Serialization computes names only; ``fill``
writes the files, so that an error of the disk keeps its class.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, SerializationInfo, ValidationInfo

from edgeres.model.weights import Weights


@dataclass(frozen=True, slots=True)
class EntryFolder:
    """A folder, with the source paths of files from elsewhere and the weights that belong into it, by name."""

    path: Path
    inherited: dict[str, Path] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

    def name(self, file: Path, sha256: str) -> str:
        """Name of a file in the folder; one from elsewhere is noted as inherited."""
        if file.is_relative_to(self.path):
            return str(file.relative_to(self.path))
        name = f"inherited/{sha256}/{file.name}"
        self.inherited[name] = file
        return name

    def fill(self) -> None:
        """Writes the weights, and links or copies the inherited files."""
        for name, weights in self.weights.items():
            weights.save(self.path / name)
        for name, source in self.inherited.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, self.path / name)
            except OSError:  # another file system: copy
                shutil.copy(source, self.path / name)  # with its mode: a command of a bundle stays executable


def _weights_name(weights: Weights, info: SerializationInfo[EntryFolder]) -> str:
    name = f"{weights.digest}.safetensors"
    info.context.weights[name] = weights
    return name


def _weights(name: str, info: ValidationInfo[EntryFolder]) -> Weights:
    return Weights.load(info.context.path / name)


StoredWeights = Annotated[Weights, PlainValidator(_weights), PlainSerializer(_weights_name)]
"""Weights that are a ``.safetensors`` file of the entry's folder, named by their digest."""
