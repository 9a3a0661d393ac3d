"""``recognise``: a residual network in a float ONNX file, as a spec and weights under the keys of its graph.

The spec that the structure suggests is right only if the operations of its graph are those of the file, one by one, and
if its logits are the file's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeres.errors import EdgeresError, ModelError
from edgeres.model.graph import graph
from edgeres.model.likeness import describe, preset_name
from edgeres.model.network import Network
from edgeres.model.weights import Weights
from edgeres.onnx_graph.execute import probe, relative_delta, runner
from edgeres.onnx_graph.float_layers import float_layers
from edgeres.onnx_graph.fold import TOLERANCE, fold
from edgeres.onnx_graph.graph_index import attribute
from edgeres.onnx_graph.inference import for_inference
from edgeres.onnx_graph.layer_norms import FloatLayers, ImageNorm, folded_norms
from edgeres.onnx_graph.layer_windows import Unknown
from edgeres.onnx_graph.main_output import with_main_output
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.residual_structure import matched, residual_spec
from edgeres.onnx_graph.signature import PROBABILITIES, normalise, signature
from edgeres.onnx_graph.static_shapes import with_static_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from edgeres.data.size import Size
    from edgeres.model.spec import ResNetSpec

_PROBES = 2


class Recognised(NamedTuple):
    """A residual network and its weights.

    ``size`` is that of the file's image, None where it is open; ``image`` is what the file normalises it by further,
    which is no part of the network; ``notes`` are for the user, one sentence each.
    """

    spec: ResNetSpec
    weights: Weights
    size: Size | None
    image: ImageNorm | None
    notes: tuple[str, ...]


def read_residual(path: Path, main_output: str | None = None) -> Recognised | str:
    """``recognise`` of a float ONNX file.

    Raises:
        ModelError: The file cannot be read, or is no classifier of one image.
    """
    model, changes = for_inference(read_model(path))
    model, chosen = with_main_output(model, main_output)
    found = recognise(model)
    return found._replace(notes=(*changes, *chosen, *found.notes)) if isinstance(found, Recognised) else found


def recognise(model: ModelProto, size: Size | None = None) -> Recognised | str:
    """The residual network that a float classifier computes, or why it is none that a spec has.

    ``model`` is for inference (``for_inference``); ``size`` is that of the image where the graph leaves it open.

    Raises:
        ModelError: It is no classifier of one image.
    """
    normal = normalise(model, size)
    left_out = _without_probabilities(normal)
    try:
        layers = float_layers(with_static_shapes(fold(normal, norms=False)))
        spec, weights, notes = _residual(layers)
    except (Unknown, ModelError) as failure:
        return str(failure)
    except EdgeresError as failure:
        return failure.what
    images = probe(normal, _PROBES)
    network = Network(graph(spec), weights)
    answers = layers.image.before(network.logits) if layers.image else network.logits
    relative = relative_delta(runner(normal, optimise=False)(images), answers(images))
    if not relative <= TOLERANCE:
        return f"its logits differ from those of the residual network of its layers, by {relative:.1e} of their range"
    name = preset_name(spec) or describe(spec)
    notes = (f"the layers of the file are those of {name}: logits within {relative:.1e} of the file's", *notes)
    if left_out:
        notes = (*notes, f"the {left_out} at its end is left out: what is deployed returns logits")
    if layers.image:
        notes = (*notes, "the normalisation of the image in the file is left out of the graph, and is preprocessing")
    return Recognised(spec, weights, signature(model).size, layers.image, notes)


def _residual(layers: FloatLayers) -> tuple[ResNetSpec, Weights, tuple[str, ...]]:
    """The spec and weights that have the layers, with batch norms, or where some are folded already with none.

    Raises:
        Unknown: None has.
        ModelError: None has.
    """
    try:
        return (*_matching(layers), ())
    except (Unknown, ModelError):
        bare = folded_norms(layers)
        if len(bare.ops) == len(layers.ops):
            raise
        note = "convolutions have batch norms, biases or both in the file: the batch norms are folded"
        return (*_matching(bare), (note,))


def _matching(layers: FloatLayers) -> tuple[ResNetSpec, Weights]:
    spec = residual_spec(layers.ops)
    names = matched(graph(spec).ops, layers.ops)
    keys = {key: f"{names[op.name]}.{key.rpartition('.')[2]}" for op in graph(spec).ops for key in op.parameters}
    return spec, Weights({key: layers.arrays[name] for key, name in keys.items()})


def _without_probabilities(model: ModelProto) -> str:
    """Replaces a Softmax or Sigmoid that computes the output of a graph, in place; its name, empty without one."""
    made = {name: node for node in model.graph.node for name in node.output}
    last = made.get(model.graph.output[0].name)
    while last is not None and last.op_type == "Identity":
        last = made.get(last.input[0])
    if last is None or last.op_type not in PROBABILITIES or attribute(last, "axis", -1) not in (1, -1):
        return ""
    name, last.op_type = str(last.op_type), "Identity"
    del last.attribute[:]
    return name
