"""A row of the table of inputs, and what most rows have in common: the network, its images and its file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.digit_data import (
    Digit,
    fit,
    folders,
    narrow,
    network,
    one_hot,
    pixels,
    training,
)
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.model.weights import save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeres.model.network import Network


SQUARE, WIDE = Size.square(32), Size(24, 40)
HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
PLAIN = Preprocess(resize=Size.square(0), crop=SQUARE, **HALF)  # type: ignore[arg-type]
LARGER = replace(PLAIN, crop=Size.square(64))
STATED = ["--resize", "0", "--crop", "32", "--mean", ".5,.5,.5", "--std", ".25,.25,.25"]
MODEL = "resnet20_b"

Words = list[str]


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of input: its section, a title, and what writes its files and gives the words behind ``compile``."""

    section: str
    title: str
    make: Callable[[Path], Words]


def png(digit: Digit, path: Path, size: Size = SQUARE) -> None:
    """An RGB PNG."""
    digit.image(size).save(path.with_suffix(".png"))


def body(preprocess: Preprocess = PLAIN, channels: int = 3, see: Callable[[Digit], Any] | None = None) -> Network:
    """The network of ``digit_data`` fitted to the training digits as ``see`` shows them."""
    see = see or (lambda digit: digit.image(preprocess.crop))
    made = network(narrow(channels=channels))
    fit(made, pixels([see(digit) for digit in training()], preprocess), one_hot([one.label for one in training()]))
    return made


def weights(folder: Path, made: Network, preprocess: Preprocess = PLAIN, classes: tuple[str, ...] | None = None) -> str:
    """A file of edgeres with its preprocessing."""
    spec = narrow(len(made.state_dict()["fc.bias"]), preprocess.count)
    save_checkpoint(folder / "w.safetensors", spec, made.weights(), preprocess, classes)
    return str(folder / "w.safetensors")


def usual(folder: Path) -> Words:
    """RGB, square, class folders."""
    return [MODEL, "--weights", weights(folder, body()), "--data", str(folders(folder / "data", png))]


def exported(
    folder: Path, made: nn.Module, preprocess: Preprocess, outputs: list[str] | None = None, **more: Any
) -> str:
    """The network through torch's TorchScript exporter, batch free."""
    height, width = preprocess.crop
    kind = next(made.parameters()).dtype
    named: dict[str, Any] = {"input_names": ["pixels"], "output_names": outputs or ["scores"], "opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            made.eval(), (torch.zeros(2, 3, height, width, dtype=kind),), str(folder / "net.onnx"), dynamo=False,
            **{**named, "dynamic_axes": {name: {0: "N"} for name in ("pixels", *named["output_names"])}, **more},
        )  # fmt: skip
    return str(folder / "net.onnx")


def uint8(folder: Path, layout: str, make: Callable[[Path], Words] = usual) -> Words:
    """Another row's network with pixels as its input."""
    return [*make(folder), "--input", "uint8", "--layout", layout]
