"""Network files that edgeres does not read, by suffix, each with the command that converts it to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edgeres.errors import ModelError

_SOURCE = "pass the .onnx it was made from, or its weights with --weights"
_TENSORFLOW = "pip install tf2onnx tensorflow, then: python -m tf2onnx.convert {} --output {{stem}}.onnx"


class _Format(NamedTuple):
    """What a file is, and how it becomes an ONNX file: a text with ``{file}`` and ``{stem}``."""

    title: str
    way_out: str = _SOURCE


_KERAS = _Format(
    "a Keras model",
    "pip install tf2onnx tensorflow, then in Python: m = tensorflow.keras.models.load_model('{file}');"
    " m.export('{stem}'); then: python -m tf2onnx.convert --saved-model {stem} --output {stem}.onnx",
)
_LITERT = _Format("a LiteRT model", _TENSORFLOW.format("--tflite {file}"))
_ENGINE = _Format("a TensorRT engine")
_CORE_ML = _Format("a Core ML model")
_PADDLE = _Format(
    "a PaddlePaddle model",
    "pip install paddle2onnx, then: paddle2onnx --model_dir . --model_filename {stem}.pdmodel"
    " --params_filename {stem}.pdiparams --save_file {stem}.onnx",
)
_MXNET = _Format(
    "an MXNet model",
    "pip install mxnet==1.9.1, then in Python: mxnet.onnx.export_model('{stem}-symbol.json', '{stem}-0000.params',"
    " [(1, 3, 224, 224)])",
)
_TORCHSCRIPT = _Format(
    "a TorchScript program, which is code",
    "in Python: m = torch.jit.load('{file}').eval(); torch.onnx.export(m, torch.zeros(1, 3, 224, 224), '{stem}.onnx',"
    " dynamo=False)",
)
_FORMATS = {
    ".engine": _ENGINE,
    ".plan": _ENGINE,
    ".trt": _ENGINE,
    ".tflite": _LITERT,
    ".lite": _LITERT,
    ".ort": _Format("a model in ONNX Runtime's own format"),
    ".pte": _Format("an ExecuTorch program"),
    ".xml": _Format("an OpenVINO model"),
    ".mlmodel": _CORE_ML,
    ".mlpackage": _CORE_ML,
    ".pb": _Format("a TensorFlow graph", _TENSORFLOW.format("--graphdef {file} --inputs INPUT:0 --outputs OUTPUT:0")),
    ".h5": _KERAS,
    ".keras": _KERAS,
    ".pdmodel": _PADDLE,
    ".pdiparams": _PADDLE,
    ".params": _MXNET,
    ".torchscript": _TORCHSCRIPT,
    ".ptl": _TORCHSCRIPT,
}
"""Suffixes of compiled or saved networks that edgeres does not read."""

_SAVED_MODEL = _Format("a TensorFlow SavedModel", _TENSORFLOW.format("--saved-model {file}"))


def other_format(word: str) -> ModelError | None:
    """The error for a network in another format, with the way to an ONNX file; None for anything else."""
    path = Path(word)
    known = _SAVED_MODEL if (path / "saved_model.pb").is_file() else _FORMATS.get(path.suffix.lower())
    if known is None:
        return None
    way_out = known.way_out.format(file=word, stem=path.stem)
    return ModelError(f"{word} is {known.title}, which cannot be read back into a network", way_out)
