"""PyTorch eager session of a float ONNX graph: the baseline before deployment."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.backends.session import Session


@contextmanager
def eager_session(path: Path, threads: int) -> Iterator[Session]:
    """Opens a float ONNX graph in eager PyTorch with channels-last memory layout.

    Raises:
        StageError: The graph holds an operator without a counterpart in torch.
    """
    import torch

    torch.set_num_threads(threads)
    yield _Eager(path)


class _Eager:
    """A graph in torch operators, run image by image."""

    def __init__(self, path: Path) -> None:
        import torch

        from edgeres.backends.executorch.torch_program import torch_program

        self._layout = torch.channels_last
        module = torch_program(onnx.load(str(path))).module
        self._module = module.to(memory_format=self._layout)  # type: ignore[call-overload]  # left out of its stubs

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).contiguous(memory_format=self._layout)
            found = [self._module(batch[index : index + 1]).numpy() for index in range(len(batch))]
        return np.concatenate(found).astype(np.float32, copy=False)
