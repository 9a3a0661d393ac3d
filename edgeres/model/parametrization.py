"""Weights that PyTorch computes from other tensors at each call, computed once.

* Pruning masks (``torch.nn.utils.prune``, NNI): ``weight = weight_orig * weight_mask``.
* Weight normalization (Salimans and Kingma 2016, arXiv 1602.07868): ``weight = g * v / ||v||``, the norm over every
  dimension but the first.
* Spectral normalization (Miyato et al. 2018, arXiv 1802.05957) in evaluation: ``weight = W / (u^T W v)``, ``W`` as a
  matrix whose rows are output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    Formula = Callable[..., torch.Tensor]


def _masked(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return weight * mask.to(weight.dtype)


def _normalized(magnitude: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    import torch

    dim = None if magnitude.numel() == 1 and direction.shape[0] != 1 else 0
    if dim == 0 and magnitude.shape[0] != direction.shape[0]:
        raise ModelError("has a weight normalization over another dimension than the first", "remove it before saving")
    norm = direction.norm() if dim is None else torch.norm_except_dim(direction, 2, 0)
    return direction * (magnitude / norm)


def _spectral(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    matrix = weight.flatten(1)
    if tuple(matrix.shape) != (left.numel(), right.numel()):
        raise ModelError(
            "has a spectral normalization over another dimension than the first", "remove it before saving"
        )
    return weight / (left @ (matrix @ right))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A parametrization: keys of its tensors after the module's own and the name of the weight, and its formula."""

    name: str
    keys: tuple[str, ...]
    formula: Formula

    def results(self) -> int:
        """Index of the tensor that has the weight's shape."""
        return 1 if self.formula is _normalized else 0


_KINDS = (
    _Kind("a pruning mask", ("{}_orig", "{}_mask"), _masked),
    _Kind("a pruning mask", ("{}", "{}_mask"), _masked),
    _Kind("a weight normalization", ("{}_g", "{}_v"), _normalized),
    _Kind("a weight normalization", ("parametrizations.{}.original0", "parametrizations.{}.original1"), _normalized),
    _Kind("a spectral normalization", ("{}_orig", "{}_u", "{}_v"), _spectral),
    _Kind(
        "a spectral normalization",
        ("parametrizations.{}.original", "parametrizations.{}.0._u", "parametrizations.{}.0._v"),
        _spectral,
    ),
)


def computed(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Tensors with each parametrized weight or bias as what it computes, and notes on what was computed.

    Raises:
        ModelError: A parametrization without a closed form here.
    """
    plain = dict(tensors)
    counts: dict[str, int] = {}
    for kind in _KINDS:
        first = kind.keys[-1]
        for name in ("weight", "bias"):
            suffix = first.format(name)
            for key in [key for key in plain if key == suffix or key.endswith(f".{suffix}")]:
                module = key.removesuffix(suffix)
                keys = [f"{module}{part.format(name)}" for part in kind.keys]
                if all(part in plain for part in keys):
                    parts = [plain.pop(part) for part in keys]
                    read = partial(_read, kind.formula, parts)
                    plain[f"{module}{name}"] = StoredTensor(parts[kind.results()].shape, read)
                    plain.pop(f"{module}module.{name}", None)  # NNI's wrapped module holds a copy
                    counts[kind.name] = counts.get(kind.name, 0) + 1
    for key in plain:
        if "parametrizations." in key:
            what = f"weight {key!r} belongs to a parametrization that is none of edgeres'"
            raise ModelError(what, "torch.nn.utils.parametrize.remove_parametrizations, then save the state_dict()")
    return plain, tuple(f"{name} is applied, at {count} of the weights" for name, count in counts.items())


def _read(formula: Formula, parts: list[StoredTensor]) -> torch.Tensor:
    return formula(*(part.read().float() for part in parts))
