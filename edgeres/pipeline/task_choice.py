"""The task of a request: as it was asked for, or found from the ONNX graph, the head of the weights, or the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.data.sources.mask_pairs import is_mask_folder
from edgeres.data.sources.multilabel import is_label_table
from edgeres.errors import EdgeresError, UsageError
from edgeres.onnx_graph.main_output import with_main_output
from edgeres.onnx_graph.signature import last_operator
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from edgeres.artifacts.source import Source
    from edgeres.pipeline.request import Request

_NORMALISING = ("LpNormalization", "Div")


def with_task(request: Request, source: Source) -> tuple[Source, tuple[str, ...]]:
    """The source with its task, and a note that states one that was found.

    Raises:
        UsageError: The task is unknown, or has no bundled sample.
    """
    if request.task is not None:
        task = task_kind(request.task)
        if request.data is None and task.name != "classification":
            what = f"--task {task.name} has no bundled sample, which is a classification"
            raise UsageError(what, "pass --data with your own images")
        _check_maps(request, task.name)
        return replace(source, task=task.name), ()
    task_name, why = _found(request, source)
    if task_name == "classification":
        return source, ()
    _check_maps(request, task_name)
    note = f"--task {task_name}, as {why}; --task classification states another"
    return replace(source, task=task_name), (note,)


def _check_maps(request: Request, task: str) -> None:
    """Refuses weights for a task of maps: the spec of a network from weights ends in a classifier of the image."""
    if not task_kind(task).maps or request.foreign:
        return
    export = (
        "torch.onnx.export(model.eval(), (torch.zeros(1, 3, 520, 520),), 'net.onnx', opset_version=17, dynamo=False, "
        "input_names=['image'], output_names=['out', 'aux'], dynamic_axes={'image': {0: 'N'}})"
    )
    raise UsageError(
        f"--task {task} takes an ONNX file, and {request.model} is a preset, whose weights classify an image",
        f"export the network: {export}; then edgeres compile net.onnx --data DIR",
    )


def _found(request: Request, source: Source) -> tuple[str, str]:
    """The task, and what says it; a file that cannot be read is a classifier here, and the first stage refuses it."""
    if request.data and is_mask_folder(Path(request.data)):
        return "segmentation", f"{request.data} has a folder of images beside one of masks"
    if request.data and is_label_table(Path(request.data)):
        return "multilabel", f"{request.data} has any number of classes for an image"
    try:
        return _of_output(*(_output(source) if request.foreign else (_head(source), "", False)))
    except EdgeresError:
        return "classification", ""


def _of_output(outputs: int | None, operator: str, dense: bool) -> tuple[str, str]:
    """The task by the number of outputs, the last operator, and whether they are maps."""
    if dense:
        return "segmentation", "the graph has an output for every pixel"
    if outputs == 1:
        return "binary", "the network has one output"
    if operator == "Sigmoid":
        return "multilabel", "the graph ends in a sigmoid for each of its outputs"
    if operator in _NORMALISING:
        return "embedding", f"the graph ends in {operator}, which normalises its output"
    return "classification", ""


def _output(source: Source) -> tuple[int | None, str, bool]:
    """Channels of an ONNX graph's main output, None where they are not stated, its last operator, and if it is a map.

    The output of a dynamo export has no stated height and width where those of the image are free.
    """
    from edgeres.onnx_graph.external import parse

    assert source.file is not None
    model, _ = with_main_output(parse(source.file.path), source.main_output)
    if not model.graph.output:
        return None, "", False
    first = model.graph.output[0]
    dims = first.type.tensor_type.shape.dim
    channels = dims[1].dim_value if len(dims) > 1 and dims[1].HasField("dim_value") else None
    return channels, last_operator(model, first.name), len(dims) == 4 and any(dim.dim_value != 1 for dim in dims[2:])


def _head(source: Source) -> int | None:
    """Outputs of the classifier in a weights file; None where it has none."""
    from edgeres.model.key_names import canonical
    from edgeres.model.weights import read_file

    if source.file is None:
        return None
    tensors = read_file(source.file.path, source.weights_key).tensors
    named = canonical({key: tuple(tensor.shape) for key, tensor in tensors.items()}, headless=True)
    key = named.keys.get("fc.weight")
    return None if key is None or len(tensors[key].shape) < 2 else int(tensors[key].shape[0])
