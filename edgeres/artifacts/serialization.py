"""Artifacts as plain data and back; weights and whatever else is large become files of the same folder."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from edgeres.artifacts.artifact import (
    Artifact,
    Checkpoint,
    Engine,
    Exported,
    File,
    KernelCounts,
    ModelMetadata,
    VerificationResult,
)
from edgeres.artifacts.budget_check import Predicted
from edgeres.model.spec import ResNetSpec
from edgeres.model.weights import Weights
from edgeres.quant.quant_table import QuantTable
from edgeres.settings import parse, plain

if TYPE_CHECKING:
    from pathlib import Path


def _file(file: File, workspace: Path) -> dict[str, str]:
    """A file as a name inside the workspace; one that lives elsewhere is copied in."""
    if not file.path.is_relative_to(workspace):
        inside = workspace / "inherited" / file.sha256 / file.path.name
        if not inside.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.path, inside)
            except OSError:  # another file system: a copy does the same
                shutil.copy(file.path, inside)  # with its mode: a command of a bundle stays one
        file = File(inside, file.sha256)
    return {"name": str(file.path.relative_to(workspace)), "sha256": file.sha256}


def pack(artifact: Artifact, workspace: Path, prefix: str = "") -> dict[str, Any]:
    """An artifact as plain data; its weights become files."""
    match artifact:
        case Checkpoint():
            return _pack_checkpoint(artifact, workspace, prefix)
        case Exported():
            files = {"model": artifact.model, "float_model": artifact.float_model, "scales": artifact.scales}
            named = {name: _file(file, workspace) for name, file in files.items() if file}
            return {"type": "exported", "metadata": plain(artifact.metadata), "files": named}
        case Engine():
            return {
                "type": "engine",
                "exported": pack(artifact.exported, workspace),
                "backend": artifact.backend,
                "entry": artifact.entry,
                "files": {name: _file(file, workspace) for name, file in artifact.files.items()},
                "runs_here": artifact.runs_here,
                "evidence": list(artifact.evidence),
            }
        case VerificationResult():
            return {
                "type": "verdict",
                "engine": pack(artifact.engine, workspace),
                "macs": artifact.macs,
                "parameters": artifact.parameters,
                "predictions": list(artifact.predictions),
                "float_predictions": list(artifact.float_predictions),
                "kernels": plain(artifact.kernels),
                "predicted": plain(artifact.predicted) if artifact.predicted else None,
                "latencies": artifact.latencies,
                "peak_rss_mib": artifact.peak_rss_mib,
                "peak_activation_bytes": artifact.peak_activation_bytes,
                "confidences": [list(pair) for pair in artifact.confidences],
            }
        case _:
            raise TypeError(f"a {type(artifact).__name__} is where a run starts; it is not kept")


def _pack_checkpoint(artifact: Checkpoint, workspace: Path, prefix: str) -> dict[str, Any]:
    parts = {"weights": artifact.weights, "deployed": artifact.deployed}
    names: dict[str, str | None] = dict.fromkeys(parts)
    for part, arrays in parts.items():
        if arrays is not None:
            names[part] = f"{prefix}{part}.safetensors"
            arrays.save(workspace / f"{prefix}{part}.safetensors")
    return {
        "type": "checkpoint",
        "metadata": plain(artifact.metadata),
        "spec": plain(artifact.spec),
        "quant": plain(artifact.quant) if artifact.quant else None,
        "teacher": pack(artifact.teacher, workspace, f"teacher.{prefix}") if artifact.teacher else None,
        **names,
    }


def unpack(data: dict[str, Any], folder: Path) -> Any:
    """The artifact that ``pack`` made plain, its files and weights read from the folder."""
    where = str(folder)

    def file(named: dict[str, str]) -> File:
        return File(folder / named["name"], named["sha256"])

    match data["type"]:
        case "checkpoint":
            return Checkpoint(
                metadata=parse(ModelMetadata, data["metadata"], where),
                spec=parse(ResNetSpec, data["spec"], where),
                weights=Weights.load(folder / data["weights"]),
                quant=parse(QuantTable, data["quant"], where) if data["quant"] else None,
                teacher=unpack(data["teacher"], folder) if data["teacher"] else None,
                deployed=Weights.load(folder / data["deployed"]) if data.get("deployed") else None,
            )
        case "exported":
            files = {name: file(named) for name, named in data["files"].items()}
            return Exported(metadata=parse(ModelMetadata, data["metadata"], where), **files)
        case "engine":
            files = {name: file(named) for name, named in data["files"].items()}
            kept = {key: data[key] for key in ("backend", "entry", "runs_here")}
            exported = unpack(data["exported"], folder)
            return Engine(exported=exported, files=files, evidence=tuple(data["evidence"]), **kept)
        case _:
            return VerificationResult(
                engine=unpack(data["engine"], folder),
                macs=data["macs"],
                parameters=data["parameters"],
                predictions=tuple(data["predictions"]),
                float_predictions=tuple(data["float_predictions"]),
                kernels=parse(KernelCounts, data["kernels"], where),
                predicted=parse(Predicted, data["predicted"], where) if data["predicted"] else None,
                latencies=data["latencies"],
                peak_rss_mib=data["peak_rss_mib"],
                peak_activation_bytes=data.get("peak_activation_bytes"),
                confidences=tuple((float_, deployed) for float_, deployed in data.get("confidences", ())),
            )
