"""``python -m benchmarks.timm_family``: how many of timm's names of the ResNet family edgeres loads, logits equal.

Each network of the installed timm has random weights, gains and statistics, goes through the names of its state dict
alone, and is compared on two images. One line per name; the reason where edgeres refuses it.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgeres.errors import EdgeresError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import PRESETS, preset
from edgeres.model.stored_tensor import StoredTensor
from edgeres.model.weights import RawFile
from edgeres.model.zoo import assemble, import_torchvision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FAMILY = re.compile(r"(se|eca_?|wide_)?resnet|(se|eca_?)?resnext")
"""Names that begin with resnet, resnext, seresnet, seresnext, wide_resnet, ecaresnet, eca_resnet and so on; among them
are resnetrs, resnetblur, resnetaa and resnetv2."""

SIDE = 64
TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest: float32 rounding of standardized or very many weights."""

DOUBLE = 250_000_000
"""Parameters up to which both networks compute in float64, so that rounding hides nothing."""

MOST = 1_000_000_000
"""Parameters of the largest network that is compared: edgeres and timm hold four copies of them, 16 GB."""


@dataclass(frozen=True, slots=True)
class Row:
    """Outcome for one name: ``equal``, ``differs``, ``refused`` or ``too large``, and why."""

    name: str
    outcome: str
    why: str = ""


def _stored(state: dict[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """A state dict in memory as a file's tensors."""
    return {key: StoredTensor(tuple(value.shape), value.detach) for key, value in state.items()}


def images() -> torch.Tensor:
    """Two images ``[2,3,SIDE,SIDE]`` that differ in brightness and contrast."""
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return torch.stack([noise[0], 2 * noise[1] + 1])


def randomize(module: nn.Module) -> nn.Module:
    """Random weights and gains, and random statistics around those of real activations, so that no signal dies."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        fan_in = max(parameter[0].numel(), 1)
        scale = (2 / fan_in) ** 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * (scale if parameter.ndim > 1 else 0.3)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)]
    for norm in norms:
        norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = 1.0
    with torch.no_grad():
        module.train().forward(images())
    for norm in norms:
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            noise = torch.rand(2, norm.num_features, generator=generator)
            norm.running_var *= 0.5 + 1.5 * noise[0]
            norm.running_mean += (noise[1] - 0.5) * norm.running_var.sqrt()
    return module.eval()


def built(name: str) -> nn.Module:
    """Timm's module without its slow initialisation, with seven classes."""
    import timm

    # An attention pool has a position for each pixel of the features.
    size: dict[str, Any] = {"img_size": SIDE} if PRESETS.get(name, PRESETS["resnet18"]).attention_heads else {}
    with torch.device("meta"):
        module: nn.Module = timm.create_model(name, num_classes=7, **size)
    count = sum(parameter.numel() for parameter in module.parameters())
    if count > MOST:
        raise MemoryError(f"{count / 1e6:.0f} M parameters")
    module.to_empty(device="cpu")
    for part in module.modules():
        fill = getattr(part, "_init_buffers", None)
        if callable(fill):
            fill()
    return module


def answers(module: nn.Module) -> NDArray[np.floating]:
    """Logits ``[2,7]`` of both images, in float64 where the network is not too large."""
    if sum(parameter.numel() for parameter in module.parameters()) <= DOUBLE:
        module = module.double()
    with torch.inference_mode():
        logits: NDArray[np.floating] = module(images().to(next(module.parameters()).dtype)).numpy()
    return logits


def row(name: str) -> Row:
    """Loads one network by its name and compares its logits."""
    known = name if name in PRESETS else name.removesuffix("_pruned")
    try:
        hint = preset(known)
        module = randomize(built(name))
        raw = RawFile(_stored(module.state_dict()))
        expected = answers(module)
        del module
        loaded = assemble(name, raw, hint)
        del raw
    except MemoryError as failure:
        return Row(name, "too large", str(failure))
    except EdgeresError as failure:
        return Row(name, "refused", failure.what)
    logits = answers(Network(graph(loaded.spec), loaded.weights).eval())
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    apart = float(np.abs(expected[0] - expected[1]).max() / np.abs(expected).max())
    if not error <= TOLERANCE < apart:
        return Row(name, "differs", f"by {error:.1e} of the largest logit, the two images by {apart:.1e}")
    return Row(name, "equal", f"within {error:.0e}")


def main(arguments: Sequence[str]) -> int:
    """Prints a line per name and the total; 1 where logits differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timm_family", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="some names instead of the whole family")
    options = parser.parse_args(arguments)
    import_torchvision()
    import timm

    names = options.names or [name for name in timm.list_models() if FAMILY.match(name)]
    rows = []
    for name in names:
        rows.append(row(name))
        print(f"{name:28} {rows[-1].outcome:10} {rows[-1].why}", flush=True)
    equal = sum(one.outcome == "equal" for one in rows)
    print(f"{equal} of {len(rows)} ({equal / len(rows):.1%}) load with timm {timm.__version__}'s logits")
    return int(any(one.outcome == "differs" for one in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
