"""Training device: selection, precision, and reproducibility."""

from __future__ import annotations

import os
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

import torch

from edgeres.errors import UsageError
from edgeres.model.cost import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.data.size import Size
    from edgeres.model.graph import Graph
    from edgeres.training.method import Precision

_DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_device() -> torch.device:
    """The CUDA device if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The half-precision type for ``torch.autocast``, or None for float32 throughout.

    ``auto`` is bfloat16 on GPUs that have it, float16 on older ones, and float32 on CPUs. With AMX tiles bfloat16 gave
    other weights in each of 12 equal trainings of a thin ResNeXt-50, NaN in 10 of them (torch 2.13, oneDNN). With
    AVX512-BF16 alone it is slower: ResNet-18 measured 1.05 s a step against 0.86 s in float32 (16 images of 224 px, two
    Zen 5 cores, torch 2.13), because the casts cost more than the dot products save.

    Raises:
        UsageError: float16 on a CPU, which has no loss scaling and nothing to gain.
    """
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"precision 'fp16' on {device.type}", "use 'auto', 'float32' or 'bf16'")
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return None


def lacks_memory(graph: Graph, size: Size, batch: int, dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether the activations of a step would fill a GPU: they must stay below 80 % of what is free.

    Counts every tensor of the graph once, which is what autograd keeps. Always False on a CPU: swapping is no gain.
    """
    if device.type != "cuda":
        return False
    width = 4 if dtype is None else dtype.itemsize
    needed = batch * width * sum(prod(shape) for shape in shapes(graph, *size).values())
    free, _ = torch.cuda.mem_get_info(device)
    return needed > 0.8 * free


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Enables torch's deterministic algorithms, and restores its settings afterwards.

    On a CPU results are equal for a given number of threads, instruction set and torch version. CUDA's max-pool
    gradient has no such algorithm, so there torch only warns.
    """
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        # cuBLAS reads it when its first handle is made; without it torch refuses every matrix product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def conditions(device: torch.device, dtype: torch.dtype | None) -> str:
    """Device, threads, precision and versions that affect the last bits of the weights, in one line."""
    arithmetic = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        return f"trained in {arithmetic} on {torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"trained in {arithmetic} on {capability}, threads: {torch.get_num_threads()}, torch {torch.__version__}"
