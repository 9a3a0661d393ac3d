"""Q/DQ graphs of one thin network by other people's tools, each with the settings its users meet."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from benchmarks.subjects import THIN, float_network, images, weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

MODELOPT_PIP = "pip install nvidia-modelopt onnxruntime onnx-graphsurgeon onnxslim onnxscript lief"
_MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
quantize(onnx_path=sys.argv[1], calibration_data={"image": np.load(sys.argv[2])}, quantize_mode="int8",
         calibration_method="max", output_path=sys.argv[3], calibration_eps=["cpu"])
"""


class Absent(Exception):
    """A tool is not here; the message has its pip line."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A graph somebody else makes.

    Attributes:
        tool: Whose.
        title: With which settings.
        make: Makes it in a folder.
    """

    tool: str
    title: str
    make: Callable[[Path], ModelProto]


def _onnxruntime(**choices: Any) -> Callable[[Path], ModelProto]:
    def make(folder: Path) -> ModelProto:
        from onnxruntime import quantization

        logging.getLogger().setLevel(logging.ERROR)
        given, out = folder / "float.onnx", folder / "onnxruntime.onnx"
        onnx.save(float_network(), given)

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ships no usable type information
            def __init__(self) -> None:
                self._images = iter(images(8))

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                image = next(self._images, None)
                return None if image is None else {"image": image[None]}

        named = {
            "activation_type": quantization.QuantType, "weight_type": quantization.QuantType,
            "quant_format": quantization.QuantFormat,
        }  # fmt: skip
        settings = {key: named[key][value] if key in named else value for key, value in choices.items()}
        quantization.quantize_static(str(given), str(out), Reader(), **settings)
        return onnx.load(out)

    return make


def _nncf(**choices: Any) -> Callable[[Path], ModelProto]:
    def make(_: Path) -> ModelProto:
        from edgeres.onnx_graph.nncf import import_nncf

        nncf = import_nncf()
        logging.getLogger("nncf").setLevel(logging.CRITICAL)
        settings = dict(choices)
        if "preset" in settings:
            settings["preset"] = nncf.QuantizationPreset[settings["preset"]]
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            dataset = nncf.Dataset([image[None] for image in images(8)], lambda image: {"image": image})
            quantized: ModelProto = nncf.quantize(float_network(), dataset, subset_size=8, **settings)
        return quantized

    return make


class _Images:
    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(image[None] for image in images(8))


def _nncf_for_tensorrt(_: Path) -> ModelProto:
    """As edgeres quantizes a foreign graph: NNCF, then brought under TensorRT's scheme."""
    from edgeres.onnx_graph.nncf import quantize_float_graph
    from edgeres.onnx_graph.rewrite import rewrite
    from edgeres.onnx_graph.roles import float_nodes
    from edgeres.targets.target import find_target

    scheme = find_target("jetson").scheme
    assert scheme is not None
    model = float_network()
    quantized = quantize_float_graph(
        model, _Images(), scheme, float_nodes=float_nodes(model, scheme), advance=lambda done: None
    )
    return rewrite(quantized, scheme).model


def modelopt(python: str = sys.executable) -> Foreign:
    """TensorRT Model Optimizer's ONNX road, run by a Python that has it."""

    def make(folder: Path) -> ModelProto:
        given, data, out = (folder / name for name in ("float.onnx", "images.npy", "modelopt.onnx"))
        onnx.save(float_network(), given)
        np.save(data, images(8))
        done = subprocess.run(
            [python, "-c", _MODELOPT, str(given), str(data), str(out)], capture_output=True, text=True, check=False
        )
        if not out.is_file():
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Absent(f"{MODELOPT_PIP} ({last})")
        return onnx.load(out)

    return Foreign("TensorRT Model Optimizer", "int8, max", make)


def _torch_export(folder: Path, *, dynamo: bool) -> ModelProto:
    """The float network through ``torch.onnx.export``."""
    import torch

    from edgeres.model.graph import graph
    from edgeres.model.network import Network

    network, out = Network(graph(THIN), weights()).eval(), folder / "torch.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch: dict[str, Any] = (
            {"dynamic_shapes": ({0: torch.export.Dim("N")},)} if dynamo else {"dynamic_axes": {"image": {0: "N"}}}
        )
        try:
            torch.onnx.export(
                network, (torch.from_numpy(images(2)),), out, dynamo=dynamo, opset_version=18 if dynamo else 17,
                verbose=False, input_names=["image"], output_names=["logits"], **batch,
            )  # fmt: skip
        except ModuleNotFoundError as absent:
            raise Absent(f"pip install {absent.name}") from absent
    return onnx.load(out)


_SIGNED = {"ActivationSymmetric": True, "WeightSymmetric": True}
GRAPHS: tuple[Foreign, ...] = (
    Foreign("ONNX Runtime", "defaults", _onnxruntime()),
    Foreign("ONNX Runtime", "per channel, QOperator", _onnxruntime(per_channel=True, quant_format="QOperator")),
    Foreign("ONNX Runtime", "int8, asymmetric, float bias",
            _onnxruntime(activation_type="QInt8", extra_options={"QuantizeBias": False})),
    Foreign("ONNX Runtime", "int8, symmetric, int32 bias",
            _onnxruntime(per_channel=True, activation_type="QInt8", extra_options=_SIGNED)),
    Foreign("ONNX Runtime", "int8, symmetric, float bias",
            _onnxruntime(per_channel=True, activation_type="QInt8", extra_options={**_SIGNED, "QuantizeBias": False})),
    Foreign("ONNX Runtime", "uint8, float bias",
            _onnxruntime(per_channel=True, extra_options={"QuantizeBias": False})),
    Foreign("NNCF", "default", _nncf()),
    Foreign("NNCF", "MIXED", _nncf(preset="MIXED")),
    Foreign("NNCF", "signed, by edgeres", _nncf_for_tensorrt),
    Foreign("torch.onnx.export", "float, dynamo, opset 18", partial(_torch_export, dynamo=True)),
    Foreign("torch.onnx.export", "float, TorchScript, opset 17", partial(_torch_export, dynamo=False)),
)  # fmt: skip
