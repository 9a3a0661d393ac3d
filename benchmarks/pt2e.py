"""torchao's PT2E quantization."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchmarks.quantizer import BOTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.quantizer import SchemeName
    from edgeres.targets.target import Target


@dataclass(frozen=True, slots=True)
class TorchAo:
    """``prepare_pt2e``, calibration in batches of 32, ``convert_pt2e``, with a quantizer's own defaults.

    torchao has no quantizer for TensorRT. Under its scheme, XNNPACK's gets symmetric instead of affine activations.

    Attributes:
        quantizer: torchao's own for x86 and its inductor backend, or ExecuTorch's for XNNPACK.
    """

    suffix: ClassVar[str] = ".pt2"

    quantizer: Literal["x86", "xnnpack"]

    @property
    def title(self) -> str:
        """Its quantizer."""
        return f"torchao PT2E, {'x86 inductor' if self.quantizer == 'x86' else 'XNNPACK'} quantizer"

    @property
    def packages(self) -> tuple[str, ...]:
        """ExecuTorch ships the quantizer for XNNPACK."""
        return ("torchao",) if self.quantizer == "x86" else ("torchao", "executorch")

    @property
    def schemes(self) -> tuple[SchemeName, ...]:
        """uint8 with zero-points is nothing for TensorRT."""
        return ("x86",) if self.quantizer == "x86" else BOTH

    def prepare(self, bench: Bench, target: Target) -> Callable[[], bytes]:
        """See the class."""
        warnings.filterwarnings("ignore")
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        from benchmarks.program import BATCH, Modules
        from edgeres.model.graph import graph

        spec, weights = bench.network()
        network = Modules(graph(spec), weights).eval()
        signed = target.scheme is not None and target.scheme.signed
        quantizer = _xnnpack(signed) if self.quantizer == "xnnpack" else _x86()
        pixels = bench.pixels("calibration")

        def quantize() -> bytes:
            image = torch.from_numpy(next(pixels.batches(2)))
            shapes = ({0: torch.export.Dim("batch", min=2, max=1024)},)
            with torch.no_grad():
                program = torch.export.export(network, (image,), dynamic_shapes=shapes).module()
                observed = prepare_pt2e(program, quantizer)
                for batch in pixels.batches(BATCH):
                    observed(torch.from_numpy(batch).to(memory_format=torch.channels_last))
                converted = convert_pt2e(observed)
                made = torch.export.export(converted, (image,), dynamic_shapes=shapes)
            stream = io.BytesIO()
            torch.export.save(made, stream)
            return stream.getvalue()

        return quantize


def _x86() -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())


def _xnnpack(signed: bool) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack

    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    if signed:
        symmetric = replace(config.input_activation, qscheme=torch.per_tensor_symmetric)
        config = replace(config, input_activation=symmetric, output_activation=symmetric)
    return xnnpack.XNNPACKQuantizer().set_global(config)
