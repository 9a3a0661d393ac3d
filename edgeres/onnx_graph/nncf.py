"""NNCF adapter: post-training quantization of a float ONNX graph, without output and telemetry.

NNCF (github.com/openvinotoolkit/nncf) has the Q/DQ placement of DenseNet, EfficientNet and similar networks. Its result
is then rewritten to the target's scheme: see ``edgeres.onnx_graph.rewrite``.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Protocol

from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.targets.target import QuantScheme


_NO_TELEMETRY = "NNCF_CI"
"""Environment variable with which NNCF replaces its telemetry by a stub at import."""


class Images(Protocol):
    """Batches ``[1,3,H,W]`` that can be iterated more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


def import_nncf() -> ModuleType:
    """NNCF, imported without telemetry."""
    given = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        with _quiet():
            import nncf
    finally:
        if given is None:
            del os.environ[_NO_TELEMETRY]
        else:
            os.environ[_NO_TELEMETRY] = given
    return nncf  # type: ignore[no-any-return]  # ships no usable type information


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses NNCF's progress bars and log lines."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def quantize_float_graph(
    model: ModelProto,
    images: Images,
    scheme: QuantScheme,
    *,
    float_nodes: Sequence[str] = (),
    advance: Callable[[int], None],
) -> ModelProto:
    """Quantizes a float graph with NNCF.

    Activations are quantized per tensor: the per-channel scales that NNCF puts in front of depthwise convolutions are
    refused by TensorRT and run in float on ONNX Runtime. A signed scheme asks for the symmetric preset, which still
    yields uint8 behind a ReLU; an unsigned one for the mixed preset, whose uint8 codes have a zero-point.

    Args:
        model: Float graph with input ``image`` and unique node names; left as it is.
        images: Batches ``[1,3,H,W]`` that set the ranges, read in order.
        scheme: The target's scheme.
        float_nodes: Names of nodes that stay in float.
        advance: Called with the number of images done.

    Returns:
        The graph with Q/DQ pairs as NNCF places them, same opset.

    Raises:
        StageError: NNCF refuses the graph; the message carries its own words.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    name = model.graph.input[0].name

    def feed(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        advance(len(batch))
        return {name: batch}

    preset = nncf.QuantizationPreset.PERFORMANCE if scheme.signed else nncf.QuantizationPreset.MIXED
    try:
        with _quiet():
            return nncf.quantize(  # type: ignore[no-any-return]
                model,
                nncf.Dataset(images, feed),
                preset=preset,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(images),
                fast_bias_correction=True,
                ignored_scope=nncf.IgnoredScope(names=list(float_nodes)) if float_nodes else None,
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_quantization_params=QuantizationParameters(per_channel=False)
                ),
            )
    except (nncf.ValidationError, nncf.InternalError, RuntimeError, ValueError, KeyError, IndexError) as failure:
        first = (str(failure).splitlines() or [""])[0]
        raise StageError(
            f"NNCF cannot quantize the graph: {type(failure).__name__}: {first}", "leave '- quantize_onnx' out"
        ) from failure
