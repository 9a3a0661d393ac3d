"""Reading of weights, from any ResNet's file or torchvision's published ones, as a spec with frozen arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import ModelError
from edgeres.model.checkpoint import RawFile, located, read_file, save_checkpoint, to_arrays
from edgeres.model.graph import check_shapes, graph
from edgeres.model.infer import infer
from edgeres.model.keymap import canonical
from edgeres.model.match import reconcile
from edgeres.model.published import fetch, preprocess_of, published, recognised
from edgeres.model.torchvision_shim import import_torchvision
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    import torch

    from edgeres.data.preprocess import Preprocess
    from edgeres.model.spec import ResNetSpec

__all__ = ["Loaded", "assemble", "import_torchvision", "read_checkpoint", "save_checkpoint"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network read from a file.

    Attributes:
        spec: Inferred from the tensors, or stored with them by edgeres.
        weights: Values under the graph's keys.
        preprocess: Preprocessing stored with the weights, or None.
        classes: Class names stored with the weights, in the order of the logits, or None.
        notes: Notes for the user, one sentence each.
    """

    spec: ResNetSpec
    weights: Weights
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(source: Path | str, hint: ResNetSpec | None = None) -> Loaded:
    """Reads a network.

    Args:
        source: Path of a ``.safetensors`` or PyTorch file, or, as a string, torchvision's name of published weights.
        hint: The model that the user named; required for published weights. It gives strides and pooling, and must
            be the same network up to classes, input channels, stem and widths.

    Raises:
        ModelError: The file cannot be read, is not a ResNet's, holds NaN or infinite values, or contradicts the hint.
    """
    if isinstance(source, Path):
        raw = read_file(source)
        member = recognised(source, hint) if hint is not None else None
        return assemble(source, raw if member is None else _as_published(raw, member), hint)
    if hint is None:
        raise ModelError(f"published weights {source!r} need a model name", "name one, such as resnet18")
    member = published(source, hint)
    path = fetch(member)
    return assemble(path, _as_published(read_file(path), member), hint)


def _as_published(raw: RawFile, member: Any) -> RawFile:
    """The file with torchvision's documented transform and class names."""
    return RawFile(raw.tensors, preprocess=preprocess_of(member), classes=tuple(member.meta["categories"]))


def assemble(where: object, raw: RawFile, hint: ResNetSpec | None) -> Loaded:
    """A network from tensors under any known key names.

    Args:
        where: Source of the tensors, for messages.
        raw: The tensors, with the file's metadata.
        hint: The model that the user named.

    Raises:
        ModelError: As ``read_checkpoint``.
    """
    try:
        tensors = _flat_head(canonical(raw.tensors))
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if raw.spec is None:
            spec = infer(shapes, hint)
        else:
            spec = raw.spec
            check_shapes(graph(spec), shapes)
        notes = reconcile(spec, hint) if hint is not None else ()
        weights = Weights(to_arrays(tensors))
    except ModelError as failure:
        raise located(where, failure) from failure
    if raw.wrapper:
        notes = (f"the weights were found under {raw.wrapper!r}", *notes)
    return Loaded(spec, weights, raw.preprocess, raw.classes, notes)


def _flat_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Reshapes timm's 1x1 convolution classifier of pre-activation networks to the equal matrix."""
    head = tensors.get("fc.weight")
    if head is not None and head.ndim == 4 and tuple(head.shape[2:]) == (1, 1):
        return {**tensors, "fc.weight": head.flatten(1)}
    return tensors
